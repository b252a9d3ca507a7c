"""
Forwards: what batching gains on the bare denoisers, which bounds what serving can gain by it.

Rows a second in a batch of 4 or 8 over one by one, in CPU time of one thread. The sizes in
``checkpoints`` were chosen for these figures.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.checkpoints import CLIP_TOKENS, T5_TOKENS, TEXT_WIDTH, draw_weights
from benchmarks.checkpoints import transformer as new_transformer
from benchmarks.checkpoints import unet as new_unet
from benchmarks.in_process import quieten
from benchmarks.report import Row

REPEATS = 7
BATCHES = (4, 8)
LATENT_SIDES = (8, 16, 32)
IMAGE_TOKENS = (16, 64, 256)


def measure() -> list[Row]:
    """Time both denoisers at three sizes each."""
    quieten()
    torch.manual_seed(0)
    unet, transformer = new_unet().eval(), new_transformer().eval()
    for module in (unet, transformer):
        draw_weights(module)
    return [
        *(row for side in LATENT_SIDES for row in _of_unet(unet, side)),
        *(row for tokens in IMAGE_TOKENS for row in _of_transformer(transformer, tokens)),
    ]


def _of_unet(module: Any, side: int) -> list[Row]:
    return _rows(f"UNet, latent {side}", module, lambda rows: unet_inputs(rows, side))


def _of_transformer(module: Any, tokens: int) -> list[Row]:
    return _rows(f"FLUX, {tokens} tokens", module, lambda rows: transformer_inputs(rows, tokens))


def unet_inputs(rows: int, side: int) -> dict[str, Any]:
    """Make what the UNet is called with: latents of shape (rows, 4, side, side)."""
    return {
        "sample": torch.randn(rows, 4, side, side),
        "timestep": torch.linspace(1, 999, rows),
        "encoder_hidden_states": torch.randn(rows, CLIP_TOKENS, 2 * TEXT_WIDTH),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(rows, TEXT_WIDTH),
            "time_ids": torch.full((rows, 6), 64.0),
        },
    }


def transformer_inputs(rows: int, tokens: int) -> dict[str, Any]:
    """Make what the transformer is called with: latents of shape (rows, tokens, 64)."""
    return {
        "hidden_states": torch.randn(rows, tokens, 64),
        "timestep": torch.linspace(0.01, 1, rows),
        "guidance": torch.full((rows,), 3.5),
        "pooled_projections": torch.randn(rows, TEXT_WIDTH),
        "encoder_hidden_states": torch.randn(rows, T5_TOKENS, TEXT_WIDTH),
        "img_ids": torch.randint(16, (tokens, 3)).float(),
        "txt_ids": torch.zeros(T5_TOKENS, 3),
    }


def _rows(title: str, module: Any, inputs: Callable[[int], dict[str, Any]]) -> list[Row]:
    calls = {count: inputs(count) for count in (1, *BATCHES)}
    rates: dict[int, list[float]] = {count: [] for count in calls}
    for repeat in range(REPEATS + 1):
        for count, given in calls.items():
            turns = max(BATCHES) // count
            seconds = _cpu_seconds(module, given, turns)
            if repeat:  # the first one warms up
                rates[count].append(turns * count / seconds)
    return [
        Row(f"{title}, batch of {count}", rates[count], rates[1], unit="rows/s")
        for count in BATCHES
    ]


def _cpu_seconds(module: Any, given: dict[str, Any], turns: int) -> float:
    # CPU time: this is about the arithmetic, not about who else is on the machine.
    started = time.thread_time()
    for _ in range(turns):
        module(**given)
    return time.thread_time() - started
