"""LoRA and textual inversion files of random matrices, in the formats in which they go round."""

import pathlib
from collections.abc import Mapping

import torch
from safetensors.torch import save_file

RANK = 2
# As a layer of the model is named, and the sides of its matrix: outputs, inputs.
Layers = Mapping[str, tuple[int, int]]


def layers_of(module: torch.nn.Module, *ends: str) -> dict[str, tuple[int, int]]:
    """The linear layers whose names end so."""
    return {
        name: tuple(layer.weight.shape)
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear) and name.endswith(ends)
    }


def save_peft(path: pathlib.Path, parts: Mapping[str, Layers], seed: int = 0) -> None:
    """Save in the format of diffusers and peft."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for part, layers in parts.items():
        for layer, (outputs, inputs) in layers.items():
            state[f"{part}.{layer}.lora_A.weight"] = _random(RANK, inputs, generator)
            state[f"{part}.{layer}.lora_B.weight"] = _random(outputs, RANK, generator)
    save(path, state)


def save_kohya(
    path: pathlib.Path, layers: Layers, seed: int = 0, alpha: float | None = RANK / 2
) -> None:
    """Save in the format of kohya's scripts; the names are theirs."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for layer, (outputs, inputs) in layers.items():
        state[f"{layer}.lora_down.weight"] = _random(RANK, inputs, generator)
        state[f"{layer}.lora_up.weight"] = _random(outputs, RANK, generator)
        if alpha is not None:
            state[f"{layer}.alpha"] = torch.tensor(alpha)
    save(path, state)


def save(path: pathlib.Path, state: Mapping[str, torch.Tensor], **metadata: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(state), path, metadata=metadata or None)


def _random(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn((rows, columns), generator=generator)
