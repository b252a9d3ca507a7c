"""Tiny models of four families, and which of their layers an adapter may change."""

import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.services.inference.worker.families import (
    test_flux,
    test_qwen_image,
    test_stable_diffusion,
    test_stable_diffusion_xl,
)
from tests.services.inference.worker.lora_files import Layers, layers_of

ATTENTION = ("attn1.to_q", "attn2.to_v", "attn.to_q", "attn.to_k", "attn.to_out.0")
TEXT = ("self_attn.q_proj", "mlp.fc1")


@dataclass(frozen=True)
class Kind:
    """
    A family with a tiny checkpoint.

    Attributes:
        family: Its name.
        save: Saves the checkpoint.
        encoders: Its text encoders that adapters change, with kohya's prefix of their layers.
        kohya: Names the denoiser's layers as kohya's scripts do.
        call: What its pipelines are called with besides the prompt.
    """

    family: str
    save: Callable[[pathlib.Path], None]
    encoders: Mapping[str, str]
    kohya: Callable[[Layers], Layers]
    call: Mapping[str, Any]

    def parts(self, pipeline: Any) -> dict[str, Layers]:
        """The layers of a pipeline that adapters of tests change."""
        denoiser = "unet" if hasattr(pipeline, "unet") else "transformer"
        return {
            denoiser: layers_of(getattr(pipeline, denoiser), *ATTENTION),
            **{name: layers_of(getattr(pipeline, name), *TEXT) for name in self.encoders},
        }

    def kohya_layers(self, pipeline: Any) -> dict[str, tuple[int, int]]:
        """The same layers, or some of them, by kohya's names."""
        denoiser, *encoders = self.parts(pipeline).items()
        return {
            **self.kohya(denoiser[1]),
            **{
                f"{self.encoders[name]}_text_model_{flat(layer)}": shape
                for name, layers in encoders
                for layer, shape in layers.items()
            },
        }


def flat(layer: str) -> str:
    """Newer text encoders lack a level of names, which kohya's always have."""
    return layer.removeprefix("text_model.").replace(".", "_")


def flattened(layers: Layers) -> Layers:
    return {f"lora_unet_{name.replace('.', '_')}": shape for name, shape in layers.items()}


def flux_blocks(layers: Layers) -> Layers:
    width = layers["transformer_blocks.0.attn.to_q"][1]
    return {
        "lora_unet_double_blocks_0_img_attn_proj": (width, width),
        "lora_unet_double_blocks_0_img_attn_qkv": (3 * width, width),
    }


SIZE = {"width": 64, "height": 48, "num_inference_steps": 2}
KINDS = [
    Kind(
        "stable-diffusion",
        test_stable_diffusion.TestStableDiffusion.save,
        {"text_encoder": "lora_te"},
        flattened,
        {**SIZE, "guidance_scale": 4.0},
    ),
    Kind(
        "stable-diffusion-xl",
        test_stable_diffusion_xl.TestStableDiffusionXL.save,
        {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"},
        flattened,
        {**SIZE, "guidance_scale": 4.0},
    ),
    Kind(
        "flux",
        test_flux.TestFluxDev.save,
        {"text_encoder": "lora_te1"},
        flux_blocks,
        {**SIZE, "guidance_scale": 4.0},
    ),
    Kind(
        "qwen-image",
        test_qwen_image.TestQwenImage.save,
        {},
        flattened,
        {**SIZE, "true_cfg_scale": 4.0, "negative_prompt": " "},
    ),
]
