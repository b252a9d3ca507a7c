"""What a request must satisfy that asks for more than one plain pass over the picture."""

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, refinement_pb2
from pictor.storage.v1 import resampling_pb2
from services.rpc.errors import InvalidRequest, invalid

MOST_CLIP_SKIP = 12
MOST_PADDING_PX = 1024
MOST_OVERLAP_PX = 256
FACTORS = (1.0, 8.0)

Generation = generation_pb2.Generation


def check_refinement(generation: Generation, model: model_pb2.Model) -> None:
    """
    Check the hires pass, the tiles, the mask's treatment and how prompts are read.

    Raises:
        InvalidRequest: If one of them breaks a rule, or does not fit to the rest.
    """
    if generation.prompt_syntax not in Generation.PromptSyntax.values():
        value = generation.prompt_syntax
        raise invalid(
            "generation.prompt_syntax", f"prompt_syntax {value} is none of the enum's values"
        )
    if generation.HasField("clip_skip"):
        _within("clip_skip", generation.clip_skip, 1, MOST_CLIP_SKIP)
    if generation.HasField("hires"):
        _check_hires(generation, model)
    if generation.HasField("tiles"):
        _check_tiles(generation)
    if generation.HasField("mask_treatment"):
        _check_mask_treatment(generation)


def _check_hires(generation: Generation, model: model_pb2.Model) -> None:
    hires, limits = generation.hires, model.limits
    if generation.input_images:
        raise _unfit("hires", "hires draws a second time what was drawn without an input image")
    if model_pb2.OPERATION_IMAGE_TO_IMAGE not in model.operations:
        raise _unfit(
            "hires", "hires needs a model that draws from an image, which this one does not"
        )
    for side in ("width_px", "height_px"):
        _within(f"hires.{side}", getattr(hires, side), limits.min_side_px, limits.max_side_px)
        if getattr(hires, side) % limits.size_multiple_px:
            rule = f"hires.{side} is not a multiple of {limits.size_multiple_px}"
            raise _out_of_range(f"hires.{side}", rule)
    if hires.width_px * hires.height_px > limits.max_pixels:
        rule = f"hires has {hires.width_px} x {hires.height_px} pixels; at most {limits.max_pixels}"
        raise _out_of_range("hires.width_px", rule)
    _within("hires.strength", hires.strength, 0, 1)
    if hires.HasField("step_count"):
        _within("hires.step_count", hires.step_count, 1, limits.max_step_count)
    for field in ("prompt", "negative_prompt"):
        if len(getattr(hires, field)) > limits.max_prompt_chars:
            raise invalid(
                f"generation.hires.{field}",
                f"hires.{field} has more than {limits.max_prompt_chars} characters",
                reasons.ERROR_REASON_PROMPT_TOO_LONG,
            )
    _check_resampling("hires", hires.resampling)


def _check_tiles(generation: Generation) -> None:
    tiles = generation.tiles
    if generation.operation != model_pb2.OPERATION_IMAGE_TO_IMAGE:
        raise _unfit("tiles", "tiles need an init image, and no mask")
    if tiles.HasField("factor"):
        _within("tiles.factor", tiles.factor, *FACTORS)
    shorter = min(generation.width_px, generation.height_px)
    most = min(MOST_OVERLAP_PX, shorter - 1)
    _within("tiles.overlap_px", tiles.overlap_px, 0, most)
    _check_resampling("tiles", tiles.resampling)


def _check_mask_treatment(generation: Generation) -> None:
    treatment = generation.mask_treatment
    if not generation.mask:
        raise _unfit("mask_treatment", "mask_treatment needs a mask")
    if treatment.fill not in refinement_pb2.MaskTreatment.Fill.values():
        raise _unfit("mask_treatment.fill", f"fill {treatment.fill} is none of the enum's values")
    _within("mask_treatment.padding_px", treatment.padding_px, 0, MOST_PADDING_PX)


def _check_resampling(field: str, value: int) -> None:
    if value not in resampling_pb2.Resampling.values():
        raise _unfit(f"{field}.resampling", f"resampling {value} is none of the enum's values")


def _within(field: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise _out_of_range(field, f"{field} {value:g} is outside {least:g} to {most:g}")


def _unfit(field: str, description: str) -> InvalidRequest:
    return invalid(f"generation.{field}", description)


def _out_of_range(field: str, description: str) -> InvalidRequest:
    return invalid(f"generation.{field}", description, reasons.ERROR_REASON_FIELD_OUT_OF_RANGE)
