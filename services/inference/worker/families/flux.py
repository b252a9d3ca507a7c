"""FLUX.1, dev and schnell, and every model in the format of their pipelines."""

from typing import Any

from pictor.catalog.v1 import model_pb2
from services.inference.worker.families.calls import common
from services.inference.worker.families.family import Canvas, Denoiser, Family
from services.inference.worker.families.latents import packed

# Schnell has seen no longer prompts; all others take 512 tokens, the pipelines' default.
SCHNELL_TOKENS = 256
TINY_DECODER = "taef1"
DENOISER = Denoiser("transformer", shared=frozenset({"img_ids", "txt_ids"}))
LEFT_OUT = ("feature_extractor", "image_encoder")


def arguments(canvas: Canvas) -> dict[str, Any]:
    """
    Say in the pipelines' words what to draw.

    Guidance is distilled into the model: a number that it is told. With a negative prompt it is
    computed as well, from a second pass, and the model is told its default.
    """
    generation, call = canvas.generation, common(canvas)
    if not canvas.configs.get("transformer", {}).get("guidance_embeds", True):
        return {**call, "max_sequence_length": SCHNELL_TOKENS}
    if not generation.HasField("guidance_scale"):
        return call
    if generation.negative_prompt:
        call["negative_prompt"] = generation.negative_prompt
        return {**call, "true_cfg_scale": generation.guidance_scale}
    return {**call, "guidance_scale": generation.guidance_scale}


FAMILY = Family(
    name="flux",
    pipelines={
        model_pb2.OPERATION_TEXT_TO_IMAGE: "FluxPipeline",
        model_pb2.OPERATION_IMAGE_TO_IMAGE: "FluxImg2ImgPipeline",
        model_pb2.OPERATION_INPAINT: "FluxInpaintPipeline",
    },
    size_multiple_px=16,
    arguments=arguments,
    denoiser=DENOISER,
    uses=frozenset({"negative_prompt", "guidance_scale", "loras", "schedule"}),
    left_out=LEFT_OUT,
    spatial=packed,
    tiny_decoder=TINY_DECODER,
)
