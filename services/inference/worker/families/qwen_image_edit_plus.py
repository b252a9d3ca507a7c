"""Qwen-Image-Edit-Plus (2509 and later): edits up to three pictures by instruction."""

from typing import Any

from pictor.catalog.v1 import model_pb2
from services.inference.worker.families import qwen_image
from services.inference.worker.families.family import Canvas, Family
from services.inference.worker.families.latents import packed
from services.inference.worker.families.qwen_image_edit import read_processor


def arguments(canvas: Canvas) -> dict[str, Any]:
    """Say in the pipeline's words what to draw."""
    return {**qwen_image.arguments(canvas), "image": list(canvas.references)}


FAMILY = Family(
    name="qwen-image-edit-plus",
    pipelines={model_pb2.OPERATION_EDIT: "QwenImageEditPlusPipeline"},
    size_multiple_px=16,
    arguments=arguments,
    denoiser=qwen_image.DENOISER,
    uses=frozenset({"negative_prompt", "guidance_scale", "loras", "schedule"}),
    # As many as the model was trained with.
    max_references={model_pb2.OPERATION_EDIT: 3},
    readers={"processor": read_processor},
    spatial=packed,
)
