"""FLUX.2: draws from a prompt, or edits up to ten pictures by instruction."""

import importlib
import pathlib
from typing import Any

from PIL import Image

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2
from services.inference.worker.families.calls import common
from services.inference.worker.families.family import Canvas, Family
from services.inference.worker.families.flux import DENOISER
from services.inference.worker.families.tokens import grid
from services.inference.worker.frames import Size
from services.rpc.errors import invalid

# What the pipelines insist on.
LEAST_SIDE_PX = 64
MOST_RATIO = 8


def arguments(canvas: Canvas) -> dict[str, Any]:
    """
    Say in the pipeline's words what to draw.

    Raises:
        InvalidRequest: With INPUT_IMAGE_INVALID, if a reference is too small or too narrow.
    """
    for reference in canvas.references:
        _require_size(reference)
    call = common(canvas)
    if canvas.generation.HasField("guidance_scale"):
        call["guidance_scale"] = canvas.generation.guidance_scale
    if canvas.references:
        call["image"] = list(canvas.references)
    return call


def spatial(pipeline: Any, latents: Any, size: Size) -> Any:
    """Lay out the tokens, and undo the decoder's normalisation and its patches of two by two."""
    rows, columns = grid(latents.shape[1], size)
    latents = latents.permute(0, 2, 1).reshape(len(latents), -1, rows, columns)
    norm = pipeline.vae.bn
    variance, mean = (
        values.to(latents)[:, None, None] for values in (norm.running_var, norm.running_mean)
    )
    latents = latents * (variance + pipeline.vae.config.batch_norm_eps).sqrt() + mean
    split = latents.reshape(len(latents), -1, 2, 2, rows, columns)
    return split.permute(0, 1, 4, 2, 5, 3).reshape(len(latents), -1, 2 * rows, 2 * columns)


def read_tokenizer(folder: pathlib.Path) -> Any:
    """Read the tokenizer alone; the processor around it is for pictures, and wants torchvision."""
    transformers = importlib.import_module("transformers")
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


FAMILY = Family(
    name="flux2",
    pipelines={
        model_pb2.OPERATION_TEXT_TO_IMAGE: "Flux2Pipeline",
        model_pb2.OPERATION_EDIT: "Flux2Pipeline",
    },
    size_multiple_px=16,
    arguments=arguments,
    denoiser=DENOISER,
    uses=frozenset({"guidance_scale", "loras", "schedule"}),
    max_references={model_pb2.OPERATION_EDIT: 10},
    readers={"tokenizer": read_tokenizer},
    spatial=spatial,
)


def _require_size(reference: Image.Image) -> None:
    short, long = sorted(reference.size)
    if short < LEAST_SIDE_PX or long > MOST_RATIO * short:
        raise invalid(
            "generation.input_images",
            f"a reference image has {reference.width}x{reference.height} pixels; each side needs"
            f" at least {LEAST_SIDE_PX}, and the longer is at most {MOST_RATIO} times the shorter",
            error_reason_pb2.ERROR_REASON_INPUT_IMAGE_INVALID,
        )
