"""Qwen-Image: draws from a prompt, with legible text."""

from typing import Any

from pictor.catalog.v1 import model_pb2
from services.inference.worker.families.calls import common
from services.inference.worker.families.family import Canvas, Denoiser, Family
from services.inference.worker.families.latents import packed

# The pipelines' most. Prompts are not padded, so a short one is drawn as with fewer.
TOKENS = 1024
# Without any negative prompt the pipelines leave guidance out.
NO_NEGATIVE = " "
DENOISER = Denoiser("transformer", padded={"encoder_hidden_states": "encoder_hidden_states_mask"})


def arguments(canvas: Canvas) -> dict[str, Any]:
    """Say in the pipelines' words what to draw."""
    return {**common(canvas), **guidance(canvas), "max_sequence_length": TOKENS}


def guidance(canvas: Canvas) -> dict[str, Any]:
    """Tell a distilled model its guidance; let it be computed for any other."""
    generation = canvas.generation
    scale = generation.guidance_scale if generation.HasField("guidance_scale") else None
    if canvas.configs.get("transformer", {}).get("guidance_embeds"):
        return {"guidance_scale": 1.0 if scale is None else scale}
    negative = {"negative_prompt": generation.negative_prompt or NO_NEGATIVE}
    return negative if scale is None else {**negative, "true_cfg_scale": scale}


FAMILY = Family(
    name="qwen-image",
    pipelines={
        model_pb2.OPERATION_TEXT_TO_IMAGE: "QwenImagePipeline",
        model_pb2.OPERATION_IMAGE_TO_IMAGE: "QwenImageImg2ImgPipeline",
        model_pb2.OPERATION_INPAINT: "QwenImageInpaintPipeline",
    },
    size_multiple_px=16,
    arguments=arguments,
    denoiser=DENOISER,
    uses=frozenset({"negative_prompt", "guidance_scale", "loras", "schedule"}),
    spatial=packed,
)
