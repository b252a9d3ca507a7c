"""FLUX.1 Fill: a transformer that sees what surrounds the mask, and draws nothing else."""

from typing import Any

from pictor.catalog.v1 import model_pb2
from services.inference.worker.families.calls import common
from services.inference.worker.families.family import Canvas, Family
from services.inference.worker.families.flux import DENOISER, TINY_DECODER
from services.inference.worker.families.latents import packed


def arguments(canvas: Canvas) -> dict[str, Any]:
    """Say in the pipeline's words what to draw."""
    call = common(canvas)
    if canvas.generation.HasField("guidance_scale"):
        call["guidance_scale"] = canvas.generation.guidance_scale
    return call


FAMILY = Family(
    name="flux-fill",
    pipelines={model_pb2.OPERATION_INPAINT: "FluxFillPipeline"},
    size_multiple_px=16,
    arguments=arguments,
    denoiser=DENOISER,
    uses=frozenset({"guidance_scale", "loras", "schedule"}),
    spatial=packed,
    tiny_decoder=TINY_DECODER,
)
