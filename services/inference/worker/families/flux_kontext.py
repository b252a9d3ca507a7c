"""FLUX.1 Kontext: edits a picture by instruction."""

import math
from typing import Any

from PIL import Image

from pictor.catalog.v1 import model_pb2
from services.inference.worker.families import flux
from services.inference.worker.families.family import Canvas, Family
from services.inference.worker.families.latents import packed

# As large as what the model looks at elsewhere.
MOST_PX = 1024**2


def arguments(canvas: Canvas) -> dict[str, Any]:
    """Say in the pipelines' words what to draw, at the canvas's size instead of a megapixel."""
    call = {**flux.arguments(canvas), "max_area": canvas.width_px * canvas.height_px}
    if canvas.image:
        # Otherwise the result would have the size that the model prefers for what it looks at;
        # and a reference, too, would be brought to it.
        call["_auto_resize"] = False
    for reference in canvas.references:
        call |= {"image_reference": _reduced(reference)} if canvas.image else {"image": reference}
    return call


def _reduced(reference: Image.Image) -> Image.Image:
    scale = math.sqrt(MOST_PX / (reference.width * reference.height))
    if scale >= 1:
        return reference
    sides = (round(side * scale) for side in reference.size)
    return reference.resize((next(sides), next(sides)), Image.Resampling.LANCZOS)


FAMILY = Family(
    name="flux-kontext",
    pipelines={
        model_pb2.OPERATION_TEXT_TO_IMAGE: "FluxKontextPipeline",
        model_pb2.OPERATION_EDIT: "FluxKontextPipeline",
        model_pb2.OPERATION_INPAINT: "FluxKontextInpaintPipeline",
    },
    size_multiple_px=16,
    arguments=arguments,
    denoiser=flux.DENOISER,
    uses=frozenset({"negative_prompt", "guidance_scale", "loras", "schedule"}),
    left_out=flux.LEFT_OUT,
    max_references={model_pb2.OPERATION_EDIT: 1, model_pb2.OPERATION_INPAINT: 1},
    spatial=packed,
    tiny_decoder=flux.TINY_DECODER,
)
