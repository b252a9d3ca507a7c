"""
Every other pipeline of diffusers that AutoPipeline knows; families are made from signatures.

It draws by one whole call. The name is AutoPipeline's: ``pixart-sigma``, ``sana``.
"""

import functools
import importlib
import inspect
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from pictor.catalog.v1 import model_pb2
from pictor.catalog.v1.model_pb2 import Operation
from services.inference.worker.families.calls import common
from services.inference.worker.families.family import Canvas, Family
from services.inference.worker.families.latents import plain

MAPPINGS = {
    model_pb2.OPERATION_TEXT_TO_IMAGE: "AUTO_TEXT2IMAGE_PIPELINES_MAPPING",
    model_pb2.OPERATION_IMAGE_TO_IMAGE: "AUTO_IMAGE2IMAGE_PIPELINES_MAPPING",
    model_pb2.OPERATION_INPAINT: "AUTO_INPAINT_PIPELINES_MAPPING",
}
# What each operation hands to the pipeline beside the prompt.
PICTURES = {
    model_pb2.OPERATION_TEXT_TO_IMAGE: set[str](),
    model_pb2.OPERATION_IMAGE_TO_IMAGE: {"image"},
    model_pb2.OPERATION_INPAINT: {"image", "mask_image"},
}
# Arguments of pipelines that draw films, or along a picture that no request has.
FOREIGN = frozenset({"num_frames", "control_image", "conditioning_image"})
# Parts of pipelines that do so.
FOREIGN_PARTS = ("controlnet", "prior_")
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder", "watermarker")
GUIDANCE = ("guidance_scale", "true_cfg_scale")
# Decoders whose latents are a picture, and are undone by a scale and a shift.
PLAIN_DECODERS = frozenset({"AutoencoderKL", "AutoencoderDC"})
LEAST_MULTIPLE_PX = 8

Calls = Mapping[Operation.ValueType, frozenset[str]]


def derived(pipeline: str, place: pathlib.Path) -> Family | None:
    """
    Make the family of a pipeline class, or None where AutoPipeline does not know it.

    Args:
        pipeline: The name of the class.
        place: A checkpoint, whose configs tell which sizes it draws.
    """
    maps = {operation: _mapping(name) for operation, name in MAPPINGS.items()}
    keys = (
        key for names in maps.values() for key, cls in names.items() if cls.__name__ == pipeline
    )
    name = next(keys, None)
    if name is None:
        return None
    classes = {operation: names[name] for operation, names in maps.items() if name in names}
    classes = {op: cls for op, cls in classes.items() if _is_plain(cls, PICTURES[op])}
    if pipeline not in {cls.__name__ for cls in classes.values()}:
        return None
    own = next(cls for cls in classes.values() if cls.__name__ == pipeline)
    calls = {operation: _takes(cls.__call__) for operation, cls in classes.items()}
    return Family(
        name=name,
        pipelines={operation: cls.__name__ for operation, cls in classes.items()},
        size_multiple_px=size_multiple_px(place),
        arguments=functools.partial(arguments, calls=calls),
        uses=_uses(own, frozenset[str]().union(*calls.values())),
        left_out=tuple(name for name in LEFT_OUT if name in own._optional_components),  # noqa: SLF001 - diffusers has no other name for them
        options={"requires_safety_checker": False},
        spatial=plain if _draws_plainly(own) else None,
    )


def arguments(canvas: Canvas, calls: Calls) -> dict[str, Any]:
    """
    Say in a pipeline's words what to draw: what it does not take is left out.

    Args:
        canvas: What to draw, and on what.
        calls: The arguments that the pipeline of each operation takes.
    """
    generation, call = canvas.generation, common(canvas)
    if generation.negative_prompt:
        call["negative_prompt"] = generation.negative_prompt
    takes = calls[canvas.operation]
    guidance = next((name for name in GUIDANCE if name in takes), None)
    if guidance and generation.HasField("guidance_scale"):
        call[guidance] = generation.guidance_scale
    # Otherwise another size would be drawn, and scaled and cut to this one.
    call["use_resolution_binning"] = False
    return {name: value for name, value in call.items() if name in takes}


def size_multiple_px(place: pathlib.Path) -> int:
    """Return what must divide the sides: the pixels of a latent, and the latents of a patch."""
    vae, transformer = (_config(place / part) for part in ("vae", "transformer"))
    widths = vae.get("block_out_channels") or vae.get("encoder_block_out_channels")
    halvings = len(widths) - 1 if widths else len(vae.get("temperal_downsample", ()))
    patch = transformer.get("patch_size", 1)
    latents = patch if isinstance(patch, int) else max(patch, default=1)
    return max(LEAST_MULTIPLE_PX, int(2**halvings * latents))


def _mapping(name: str) -> Mapping[str, Any]:
    auto = importlib.import_module("diffusers.pipelines.auto_pipeline")
    return getattr(auto, name)  # type: ignore[no-any-return]  # diffusers is untyped


def _is_plain(cls: Any, pictures: set[str]) -> bool:
    """Whether a pipeline draws pictures, in one stage, from what a request has."""
    takes = _takes(cls.__call__)
    if takes & FOREIGN or not {"prompt", *pictures} <= takes:
        return False
    return not any(part.startswith(FOREIGN_PARTS) for part in _takes(cls.__init__))


def _takes(function: Any) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _uses(cls: Any, takes: frozenset[str]) -> frozenset[str]:
    uses = {"schedule"}
    if "negative_prompt" in takes:
        uses.add("negative_prompt")
    if takes & set(GUIDANCE):
        uses.add("guidance_scale")
    # The name of diffusers' schedulers that may stand in for each other.
    if _annotation(cls, "scheduler") == "KarrasDiffusionSchedulers":
        uses.add("sampler")
    return frozenset(uses)


def _draws_plainly(cls: Any) -> bool:
    return _annotation(cls, "vae") in PLAIN_DECODERS and not hasattr(cls, "_pack_latents")


def _annotation(cls: Any, part: str) -> str:
    parameter = inspect.signature(cls.__init__).parameters.get(part)
    return str(getattr(parameter.annotation, "__name__", "")) if parameter else ""


def _config(part: pathlib.Path) -> dict[str, Any]:
    try:
        config = json.loads((part / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
