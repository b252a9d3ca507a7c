"""
What a request must satisfy to become a job, and what it leaves to the model.

Pure functions over a Generation and the Model that it names: each check raises InvalidRequest with
the value, the rule and the alternatives; ``admit`` returns the effective Generation.
"""

import math
import re
import secrets
from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, job_pb2
from pictor.inference.v1.inference_service_pb2 import CreateJobRequest
from services.inference.adapters import take_tags, without_tags
from services.inference.refinement import check_refinement
from services.inference.samplers import check_sampler
from services.inference.strength import at_least_one_step
from services.rpc.errors import InvalidRequest, invalid
from services.rpc.principals import Principal

MAX_PREVIEWS = 20
# Ten years.
MOST_TTL_SECONDS = 10 * 366 * 24 * 3600
MOST_PRIORITY = 10
MAX_NOTES = 100
MAX_NOTE_BYTES = 2_000
MAX_IMAGES_WITHOUT_LIMIT = 1
SEEDS = 2**32

Operation = model_pb2.Operation
# The others begin with noise alone, and a strength means nothing to them.
FROM_A_PICTURE = (model_pb2.OPERATION_IMAGE_TO_IMAGE, model_pb2.OPERATION_INPAINT)
OPERATION_NAMES = {
    model_pb2.OPERATION_TEXT_TO_IMAGE: "text-to-image",
    model_pb2.OPERATION_IMAGE_TO_IMAGE: "image-to-image",
    model_pb2.OPERATION_INPAINT: "inpainting",
    model_pb2.OPERATION_EDIT: "editing by instruction",
}


def check_limits(generation: generation_pb2.Generation, model: model_pb2.Model) -> None:
    """
    Check a model's documented limits: the prompt's length and the number of images.

    Tags of adapters are no part of what the model reads, and do not count.

    Raises:
        InvalidRequest: With FIELD_REQUIRED, PROMPT_TOO_LONG or INPUT_IMAGE_COUNT.
    """
    limits, images = model.limits, len(generation.input_images)
    prompt = without_tags(generation.prompt)
    webui = generation.prompt_syntax == generation_pb2.Generation.PROMPT_SYNTAX_WEBUI
    if not prompt.strip() and not images and not webui:
        raise invalid("generation.prompt", "prompt is empty", reasons.ERROR_REASON_FIELD_REQUIRED)
    lengths = {"prompt": len(prompt), "negative_prompt": len(generation.negative_prompt)}
    for field, length in lengths.items():
        if length > limits.max_prompt_chars:
            raise invalid(
                f"generation.{field}",
                f"{field} has {length} characters; {model_id(model)} takes at most"
                f" {limits.max_prompt_chars}",
                reasons.ERROR_REASON_PROMPT_TOO_LONG,
            )
    if not limits.min_input_images <= images <= limits.max_input_images:
        raise invalid(
            "generation.input_images",
            f"{images} input images; {model_id(model)} takes"
            f" {_count(limits.min_input_images, limits.max_input_images)}",
            reasons.ERROR_REASON_INPUT_IMAGE_COUNT,
        )


def check_origin(dialect: str, receipt: Sequence[job_pb2.ParameterNote]) -> None:
    """
    Check what a caller says of where its request came from; both go into the job and the logs.

    Raises:
        InvalidRequest: If one of them is longer than a dialect of the suite would make it.
    """
    if not re.fullmatch(r"[a-z0-9_/.-]{0,63}", dialect):
        raise invalid("dialect", "dialect is not a name of at most 63 of a-z, 0-9 and _/.-")
    if len(receipt) > MAX_NOTES or any(note.ByteSize() > MAX_NOTE_BYTES for note in receipt):
        raise invalid(
            "receipt", f"receipt has over {MAX_NOTES} notes, or one over {MAX_NOTE_BYTES} bytes"
        )


def check_priority(priority: int, caller: Principal) -> None:
    """
    Check a job's priority.

    Raises:
        InvalidRequest: With FIELD_OUT_OF_RANGE.
        PermissionDenied: With SCOPE_MISSING, if it puts others back and the caller may not.
    """
    if not -MOST_PRIORITY <= priority <= MOST_PRIORITY:
        raise invalid(
            "priority",
            f"priority {priority} is outside {-MOST_PRIORITY} to {MOST_PRIORITY}",
            reasons.ERROR_REASON_FIELD_OUT_OF_RANGE,
        )
    if priority > 0:
        caller.require("accounts:admin")


def checked_ttl(request: CreateJobRequest) -> Duration | None:
    """
    Return how long the results are kept; None where the request does not say.

    Raises:
        InvalidRequest: With FIELD_OUT_OF_RANGE.
    """
    if not request.HasField("result_ttl"):
        return None
    if not 1 <= request.result_ttl.seconds <= MOST_TTL_SECONDS:
        raise invalid(
            "result_ttl",
            f"result_ttl {request.result_ttl.seconds} s is outside 1 s to {MOST_TTL_SECONDS} s",
            reasons.ERROR_REASON_FIELD_OUT_OF_RANGE,
        )
    return request.result_ttl


def admit(
    generation: generation_pb2.Generation,
    model: model_pb2.Model,
    image_size: model_pb2.Size | None = None,
) -> tuple[generation_pb2.Generation, list[job_pb2.ParameterNote]]:
    """
    Merge the model's defaults under a request and check every field.

    Args:
        generation: The request. It is not changed.
        model: The model that it names.
        image_size: The size of the first input image, if there is one and it is known.

    Returns:
        The effective Generation, with every tunable set that the model has a default for, and the
        notes for the receipt.

    Raises:
        InvalidRequest: If a field breaks a rule.
    """
    check_limits(generation, model)
    merged = generation_pb2.Generation()
    merged.CopyFrom(generation)
    merged.model = model.name
    merged.operation = _operation(generation, model)
    notes = [*take_tags(merged), *_merge_size(merged, model, image_size)]
    _merge_defaults(merged, model.parameter_defaults)
    if not merged.HasField("seed"):
        merged.seed = secrets.randbelow(SEEDS)
    if not merged.HasField("image_count"):
        merged.image_count = 1
    _check_size(merged, model)
    _check_numbers(merged, model.limits)
    check_sampler(merged.sampler, merged.schedule)
    _check_rest(merged)
    check_refinement(merged, model)
    if merged.operation in FROM_A_PICTURE:
        merged, clamped = at_least_one_step(merged)
        notes += clamped
    return merged, notes


def ignored(
    generation: generation_pb2.Generation, model: model_pb2.Model
) -> list[job_pb2.ParameterNote]:
    """Note what a request sets and the table of the model that draws says has no effect."""
    given = {field.name: value for field, value in generation.ListFields()}
    return [
        job_pb2.ParameterNote(
            parameter=support.parameter,
            treatment=job_pb2.ParameterNote.TREATMENT_IGNORED,
            requested=str(given[support.parameter])[:100],
            reason=support.reason,
        )
        for support in model.parameters
        if support.level == model_pb2.ParameterSupport.LEVEL_IGNORED and support.parameter in given
    ]


def model_id(model: model_pb2.Model) -> str:
    """Return the id by which people know a model, e.g. ``black-forest-labs/FLUX.1-dev``."""
    return model.name.removeprefix("models/")


def _count(least: int, most: int) -> str:
    if most == 0:
        return "none"
    return f"exactly {most}" if least == most else f"{least} to {most}"


def _operation(
    generation: generation_pb2.Generation, model: model_pb2.Model
) -> model_pb2.Operation.ValueType:
    operation = generation.operation or _implied_operation(generation, model)
    if operation not in OPERATION_NAMES:
        raise invalid("generation.operation", f"operation {operation} is none of the enum's values")
    needs_image = operation != model_pb2.OPERATION_TEXT_TO_IMAGE
    if needs_image and not generation.input_images:
        raise invalid(
            "generation.input_images",
            f"{OPERATION_NAMES[operation]} needs an input image",
            reasons.ERROR_REASON_INPUT_IMAGE_COUNT,
        )
    if (operation == model_pb2.OPERATION_INPAINT) != bool(generation.mask):
        raise invalid("generation.mask", "a mask and inpainting go together: one came alone")
    if operation not in model.operations:
        can = ", ".join(OPERATION_NAMES[o] for o in model.operations)
        raise InvalidRequest(
            f"{model_id(model)} does not do {OPERATION_NAMES[operation]}; it does {can}",
            reason=reasons.ERROR_REASON_OPERATION_UNSUPPORTED,
            metadata={"operation": Operation.Name(operation), "model": model.name},
        )
    return operation


def _implied_operation(
    generation: generation_pb2.Generation, model: model_pb2.Model
) -> model_pb2.Operation.ValueType:
    if generation.mask:
        return model_pb2.OPERATION_INPAINT
    if not generation.input_images:
        return model_pb2.OPERATION_TEXT_TO_IMAGE
    roles = {image.role for image in generation.input_images}
    edits = model_pb2.OPERATION_EDIT in model.operations
    if generation_pb2.InputImage.ROLE_INIT not in roles and edits:
        return model_pb2.OPERATION_EDIT
    return model_pb2.OPERATION_IMAGE_TO_IMAGE


def _merge_size(
    merged: generation_pb2.Generation, model: model_pb2.Model, image_size: model_pb2.Size | None
) -> list[job_pb2.ParameterNote]:
    """Let the first input image give the size that the request leaves out, as near as possible."""
    if image_size is None or merged.operation == model_pb2.OPERATION_TEXT_TO_IMAGE:
        return []
    drawn_anew = merged.operation == model_pb2.OPERATION_EDIT
    given = merged.HasField("width_px") or merged.HasField("height_px")
    if drawn_anew and (given or not merged.shape_from_image):
        return []
    pixels = image_size.width_px * image_size.height_px
    if drawn_anew:
        # The picture is a new one: of the first image it has the shape, of the model the area.
        pixels = model.parameter_defaults.width_px * model.parameter_defaults.height_px or pixels
    notes = []
    for field, used in _fitting_sides(image_size, pixels, model.limits).items():
        if merged.HasField(field):  # type: ignore[arg-type]  # one of two fields
            continue
        asked = getattr(image_size, field)
        setattr(merged, field, used)
        if used != asked:
            notes.append(
                job_pb2.ParameterNote(
                    parameter=field,
                    treatment=job_pb2.ParameterNote.TREATMENT_TRANSLATED,
                    requested=str(asked),
                    used=str(used),
                    reason="the input image's side, brought to what the model draws",
                )
            )
    return notes


def _fitting_sides(size: model_pb2.Size, pixels: int, limits: model_pb2.Limits) -> dict[str, int]:
    """Return the sides of a picture of about this shape and area that the model can draw."""
    sides = {"width_px": size.width_px, "height_px": size.height_px}
    area, longest = size.width_px * size.height_px, max(sides.values())
    scale = math.sqrt(min(pixels, limits.max_pixels) / area)
    scale = min(scale, limits.max_side_px / longest)
    return {name: _nearest_side(side * scale, limits) for name, side in sides.items()}


def _nearest_side(side: float, limits: model_pb2.Limits) -> int:
    multiple = limits.size_multiple_px
    # A side that is whole but for the last digit of a float must not lose a multiple.
    rounded = max(multiple, int(side + 1e-6) // multiple * multiple)
    return min(max(rounded, limits.min_side_px), limits.max_side_px)


def _merge_defaults(
    merged: generation_pb2.Generation, defaults: model_pb2.ParameterDefaults
) -> None:
    for field, value in defaults.ListFields():
        needs_image = field.name == "strength"
        if needs_image and merged.operation == model_pb2.OPERATION_TEXT_TO_IMAGE:
            continue
        if not merged.HasField(field.name):  # type: ignore[arg-type]  # ParameterDefaults mirrors Generation
            setattr(merged, field.name, value)


def _check_size(merged: generation_pb2.Generation, model: model_pb2.Model) -> None:
    limits = model.limits
    for field in ("width_px", "height_px"):
        side = getattr(merged, field)
        _check_range(field, side, limits.min_side_px, limits.max_side_px)
        if side % limits.size_multiple_px:
            below = side // limits.size_multiple_px * limits.size_multiple_px
            raise _out_of_range(
                field,
                f"{field} {side} is not a multiple of {limits.size_multiple_px}; nearest are"
                f" {below} and {below + limits.size_multiple_px}",
            )
    pixels = merged.width_px * merged.height_px
    if pixels > limits.max_pixels:
        raise _out_of_range(
            "width_px",
            f"{merged.width_px} x {merged.height_px} is {pixels} pixels; {model_id(model)} draws"
            f" at most {limits.max_pixels}",
        )


def _check_numbers(merged: generation_pb2.Generation, limits: model_pb2.Limits) -> None:
    most_images = limits.max_image_count or MAX_IMAGES_WITHOUT_LIMIT
    _check_range("step_count", merged.step_count, 1, limits.max_step_count)
    _check_range("image_count", merged.image_count, 1, most_images)
    _check_range("preview_count", merged.preview_count, 0, MAX_PREVIEWS)
    _check_range("guidance_scale", merged.guidance_scale, 0, limits.max_guidance_scale)
    if merged.HasField("strength") and not 0 < merged.strength <= 1:
        raise _out_of_range(
            "strength", f"strength {merged.strength:g} is outside 0 to 1 (0 itself excluded)"
        )
    if merged.output.HasField("quality"):
        _check_range("output.quality", merged.output.quality, 1, 100)


def _check_rest(merged: generation_pb2.Generation) -> None:
    if merged.output.format not in generation_pb2.Output.Format.values():
        value = merged.output.format
        raise invalid("generation.output.format", f"format {value} is none of the enum's values")


def _check_range(field: str, value: float, least: float, most: float) -> None:
    if not (math.isfinite(value) and least <= value <= most):
        raise _out_of_range(field, f"{field} {value:g} is outside {least:g} to {most:g}")


def _out_of_range(field: str, description: str) -> InvalidRequest:
    return invalid(f"generation.{field}", description, reasons.ERROR_REASON_FIELD_OUT_OF_RANGE)
