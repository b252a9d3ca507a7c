"""
What the parts of an entry must agree on, and what entries must not share.

A rule is a sentence, which names key and value, and whether it holds.
"""

import itertools
import re
from collections.abc import Iterable

from pictor.catalog.v1 import model_pb2
from pictor.catalog.v1.model_pb2 import Limits, Model, ParameterDefaults, ParameterSupport, Size

PREFIX = "models/"
# The limits that may be zero; everything else counts from 1.
MAY_BE_ZERO = ("min_input_images", "max_input_images", "max_guidance_scale")
DTYPES = ("bfloat16", "float16", "float32")
# Which profiles there are, and which options they have, the device processes know.
ACCELERATION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*(=[A-Za-z0-9_.-]+)?")


class CatalogError(Exception):
    """An entry that breaks a rule: names entry, key and rule."""


def check_unique(models: Iterable[Model]) -> None:
    """Insist that no id names two models."""
    owners: dict[str, str] = {}
    for model in models:
        for name in (model.name.removeprefix(PREFIX), *model.aliases):
            if name in owners:
                raise CatalogError(
                    f"model {model.name.removeprefix(PREFIX)!r}: the id {name!r} is taken"
                    f" by {owners[name]!r}; names and aliases must differ"
                )
            owners[name] = model.name.removeprefix(PREFIX)


def check_model(where: str, model: Model) -> None:
    """Insist that the parts of an entry agree with each other."""
    # One after the other: the defaults are measured by limits that must themselves be sound.
    rules = (
        limit_rules(model),
        default_rules(model),
        operation_rules(model),
        device_rules(model),
    )
    for rule, holds in itertools.chain.from_iterable(rules):
        if not holds:
            raise CatalogError(f"{where}: {rule}")


def limit_rules(model: Model) -> Iterable[tuple[str, bool]]:
    """List what the limits must satisfy."""
    limits = model.limits
    for field in limits.DESCRIPTOR.fields_by_name:
        least = 0 if field in MAY_BE_ZERO else 1
        value = getattr(limits, field)
        yield f"limits.{field} = {value}: must be at least {least}", value >= least
    least, most = limits.min_input_images, limits.max_input_images
    yield f"limits.min_input_images = {least}: must not be above max_input_images", least <= most
    shortest, longest = limits.min_side_px, limits.max_side_px
    yield f"limits.min_side_px = {shortest}: must not be above max_side_px", shortest <= longest
    smallest = f"limits.max_pixels = {limits.max_pixels}: must hold min_side_px squared"
    yield smallest, limits.max_pixels >= shortest * shortest


def size_rules(
    table: str, size: Size | ParameterDefaults, limits: Limits
) -> Iterable[tuple[str, bool]]:
    """List what a size must satisfy that stands in *table*."""
    least, most, multiple = limits.min_side_px, limits.max_side_px, limits.size_multiple_px
    sides = {"width_px": size.width_px, "height_px": size.height_px}
    for side, value in sides.items():
        yield f"{table}.{side} = {value}: must be {least} to {most}", least <= value <= most
        yield f"{table}.{side} = {value}: must be a multiple of {multiple}", value % multiple == 0
    area = size.width_px * size.height_px
    yield f"{table}: {area} pixels: must be at most {limits.max_pixels}", area <= limits.max_pixels


def default_rules(model: Model) -> Iterable[tuple[str, bool]]:
    """List what the defaults and the native size must satisfy."""
    limits, defaults = model.limits, model.parameter_defaults
    yield from size_rules("defaults", defaults, limits)
    if model.HasField("native_size"):
        yield from size_rules("native_size", model.native_size, limits)
    if defaults.HasField("step_count"):
        steps = f"defaults.step_count = {defaults.step_count}: must be 1 to {limits.max_step_count}"
        yield steps, 1 <= defaults.step_count <= limits.max_step_count
    if defaults.HasField("guidance_scale"):
        scale, most = defaults.guidance_scale, limits.max_guidance_scale
        yield f"defaults.guidance_scale = {scale:g}: must be 0 to {most:g}", 0 <= scale <= most
    if defaults.HasField("strength"):
        strength = defaults.strength
        yield f"defaults.strength = {strength:g}: must be above 0, at most 1", 0 < strength <= 1


def operation_rules(model: Model) -> Iterable[tuple[str, bool]]:
    """List what operations, input images and the parameter table must agree on."""
    limits, operations = model.limits, set(model.operations)
    draws = model_pb2.OPERATION_TEXT_TO_IMAGE in operations
    paints = model_pb2.OPERATION_INPAINT in operations
    adds_noise = paints or model_pb2.OPERATION_IMAGE_TO_IMAGE in operations
    takes_images = bool(operations - {model_pb2.OPERATION_TEXT_TO_IMAGE})
    least, most = limits.min_input_images, limits.max_input_images
    levels = {line.parameter: line.level for line in model.parameters}
    ignored = {name for name, level in levels.items() if level == ParameterSupport.LEVEL_IGNORED}
    needed = levels["input_images"] == ParameterSupport.LEVEL_REQUIRED
    rule = "limits.max_input_images: must be above 0 exactly where an operation takes an image"
    yield rule, (most > 0) == takes_images
    rule = "limits.min_input_images: must be 0 exactly where operations has text-to-image"
    yield rule, (least == 0) == draws
    rule = "parameters: input_images must be required exactly where min_input_images is above 0"
    yield rule, needed == (least > 0)
    rule = "parameters: input_images must be ignored exactly where no operation takes an image"
    yield rule, ("input_images" in ignored) != takes_images
    rule = "parameters: mask must be ignored exactly where operations lacks inpaint"
    yield rule, ("mask" in ignored) != paints
    rule = "parameters: strength must be ignored exactly where no operation adds noise to an image"
    yield rule, ("strength" in ignored) != adds_noise


def device_rules(model: Model) -> Iterable[tuple[str, bool]]:
    """List what must hold of the way in which devices compute the model."""
    for dtype in model.dtypes:
        yield f"dtypes: {dtype!r} is unknown; there are {', '.join(DTYPES)}", dtype in DTYPES
    yield "dtypes: must name none twice", len(set(model.dtypes)) == len(model.dtypes)
    for words in model.acceleration:
        rule = f"acceleration: {words!r}: must be a profile's name, or name=option"
        yield rule, bool(ACCELERATION.fullmatch(words))
    names = [words.partition("=")[0] for words in model.acceleration]
    yield "acceleration: must name no profile twice", len(set(names)) == len(names)
