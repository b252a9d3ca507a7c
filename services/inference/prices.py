"""What a generation costs, and how much work it is."""

import math

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2
from services.rpc.errors import invalid

MEGAPIXEL = 1_000_000
# On which device, nobody knows; only the proportions count.
MEGAPIXEL_STEP_US = 100_000
LEAST_WORK_US = 100_000
# What accounts hold for one job at most, in micro-credits.
MOST_MICROCREDITS = 10**15


def price_of(generation: generation_pb2.Generation, model: model_pb2.Model) -> int:
    """
    Return the price of an admitted generation, in micro-credits.

    Args:
        generation: With every default merged.
        model: The one that draws.

    Raises:
        InvalidRequest: If the price is beyond what an account can hold.
    """
    price = -(-pixel_steps(generation) * model.price_microcredits // MEGAPIXEL)
    if not 0 <= price <= MOST_MICROCREDITS:
        raise invalid(
            "generation",
            f"this would cost {price} micro-credits; a job costs at most {MOST_MICROCREDITS}:"
            " draw fewer or smaller pictures, or with fewer steps",
            reasons.ERROR_REASON_FIELD_OUT_OF_RANGE,
        )
    return price


def work_us(generation: generation_pb2.Generation) -> int:
    """Return how much of its account's share a job takes: some time for each megapixel-step."""
    return max(LEAST_WORK_US, pixel_steps(generation) * MEGAPIXEL_STEP_US // MEGAPIXEL)


def pixel_steps(generation: generation_pb2.Generation) -> int:
    """Count the pixels that are drawn, each as often as there are steps: a measure of the work."""
    return sum(generation.image_count * area * steps for area, steps in _passes(generation))


def _passes(generation: generation_pb2.Generation) -> list[tuple[int, int]]:
    """List the area and the steps of each pass over one picture."""
    width, height, steps = generation.width_px, generation.height_px, generation.step_count
    if generation.HasField("tiles"):
        factor = generation.tiles.factor if generation.tiles.HasField("factor") else 1.0
        return [(math.ceil(width * factor) * math.ceil(height * factor), steps)]
    passes = [(width * height, steps)]
    if generation.HasField("hires"):
        hires = generation.hires
        again = hires.step_count if hires.HasField("step_count") else steps
        passes.append((hires.width_px * hires.height_px, again))
    return passes
