"""FLUX.2 klein: a small FLUX.2 with another text encoder, distilled or not, which inpaints too."""

from typing import Any

from pictor.catalog.v1 import model_pb2
from services.inference.worker.families import flux2
from services.inference.worker.families.family import Canvas, Family


def arguments(canvas: Canvas) -> dict[str, Any]:
    """Say in the pipelines' words what to draw; a distilled model takes no notice of guidance."""
    call = flux2.arguments(canvas)
    if canvas.image:
        call["image"] = canvas.image
    if canvas.image and canvas.references:
        call["image_reference"] = canvas.references[0]
    return call


FAMILY = Family(
    name="flux2-klein",
    pipelines={
        model_pb2.OPERATION_TEXT_TO_IMAGE: "Flux2KleinPipeline",
        model_pb2.OPERATION_EDIT: "Flux2KleinPipeline",
        model_pb2.OPERATION_INPAINT: "Flux2KleinInpaintPipeline",
    },
    size_multiple_px=16,
    arguments=arguments,
    denoiser=flux2.FAMILY.denoiser,
    uses=frozenset({"guidance_scale", "loras", "schedule"}),
    max_references={model_pb2.OPERATION_EDIT: 10, model_pb2.OPERATION_INPAINT: 1},
    spatial=flux2.spatial,
)
