"""Z-Image, base and turbo."""

from typing import Any

from pictor.catalog.v1 import model_pb2
from services.inference.worker.families.calls import common
from services.inference.worker.families.family import Canvas, Family
from services.inference.worker.families.flux import TINY_DECODER
from services.inference.worker.families.latents import plain


def arguments(canvas: Canvas) -> dict[str, Any]:
    """Say in the pipelines' words what to draw; guidance 0, turbo's, leaves the second pass out."""
    generation, call = canvas.generation, common(canvas)
    if generation.negative_prompt:
        call["negative_prompt"] = generation.negative_prompt
    if generation.HasField("guidance_scale"):
        call["guidance_scale"] = generation.guidance_scale
    return call


FAMILY = Family(
    name="z-image",
    pipelines={
        model_pb2.OPERATION_TEXT_TO_IMAGE: "ZImagePipeline",
        model_pb2.OPERATION_IMAGE_TO_IMAGE: "ZImageImg2ImgPipeline",
        model_pb2.OPERATION_INPAINT: "ZImageInpaintPipeline",
    },
    size_multiple_px=16,
    arguments=arguments,
    uses=frozenset({"negative_prompt", "guidance_scale", "loras", "schedule"}),
    # The decoder is FLUX.1's.
    spatial=plain,
    tiny_decoder=TINY_DECODER,
)
