"""Qwen-Image-Edit: edits one picture by instruction, whole or where a mask is white."""

import importlib
import pathlib
from typing import Any

from pictor.catalog.v1 import model_pb2
from services.inference.worker.families import qwen_image
from services.inference.worker.families.family import Canvas, Family
from services.inference.worker.families.latents import packed


def arguments(canvas: Canvas) -> dict[str, Any]:
    """Say in the pipelines' words what to draw; inpainting takes a megapixel, whatever is asked."""
    call = qwen_image.arguments(canvas)
    for reference in canvas.references:
        call["image"] = reference
    return call


def read_processor(folder: pathlib.Path) -> Any:
    """Read the processor without its part for films, which wants torchvision."""
    transformers = importlib.import_module("transformers")
    whole: Any = transformers.Qwen2VLProcessor

    class Processor(whole):  # type: ignore[misc]  # untyped
        def __init__(self, image_processor: Any, tokenizer: Any, chat_template: Any = None) -> None:
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            transformers.ProcessorMixin.__init__(
                self, image_processor, tokenizer, chat_template=chat_template
            )

    return Processor(
        transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True),
        transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True),
    )


FAMILY = Family(
    name="qwen-image-edit",
    pipelines={
        model_pb2.OPERATION_EDIT: "QwenImageEditPipeline",
        model_pb2.OPERATION_INPAINT: "QwenImageEditInpaintPipeline",
    },
    size_multiple_px=16,
    arguments=arguments,
    denoiser=qwen_image.DENOISER,
    uses=frozenset({"negative_prompt", "guidance_scale", "loras", "schedule"}),
    max_references={model_pb2.OPERATION_EDIT: 1},
    readers={"processor": read_processor},
    spatial=packed,
)
