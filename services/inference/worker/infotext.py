"""The generation's parameters as AUTOMATIC1111 writes them into its images."""

import json

from pictor.inference.v1 import generation_pb2
from pictor.storage.v1 import resampling_pb2
from services.inference.adapters import with_tags
from services.inference.samplers import AUTOMATIC, SCHEDULES

SAME_FACTOR = 0.01
UPSCALERS = {
    resampling_pb2.RESAMPLING_UNSPECIFIED: "Lanczos",
    resampling_pb2.RESAMPLING_LANCZOS: "Lanczos",
    resampling_pb2.RESAMPLING_NEAREST: "Nearest",
    resampling_pb2.RESAMPLING_BILINEAR: "Latent",
    resampling_pb2.RESAMPLING_BICUBIC: "Latent (bicubic)",
}


def infotext(generation: generation_pb2.Generation, *, seed: int, sampler: str, size: str) -> str:
    """
    Write the parameters of one image.

    Args:
        generation: What was drawn.
        seed: The image's own.
        sampler: The name of the sampler that was used.
        size: ``WIDTHxHEIGHT``.
    """
    pairs: list[tuple[str, object]] = []
    if generation.HasField("step_count"):
        pairs.append(("Steps", generation.step_count))
    pairs.append(("Sampler", sampler))
    if generation.schedule and generation.schedule != AUTOMATIC:
        pairs.append(("Schedule type", _label(generation.schedule)))
    if generation.HasField("guidance_scale"):
        pairs.append(("CFG scale", f"{generation.guidance_scale:g}"))
    if generation.HasField("hires"):
        # The size is the first pass's: a reader multiplies it.
        size = f"{generation.width_px}x{generation.height_px}"
    pairs += [("Seed", seed), ("Size", size), ("Model", generation.model.removeprefix("models/"))]
    if generation.input_images and generation.HasField("strength"):
        pairs.append(("Denoising strength", f"{generation.strength:g}"))
    if generation.clip_skip > 1:
        pairs.append(("Clip skip", generation.clip_skip))
    if generation.HasField("hires"):
        pairs += _of_hires(generation)
    if generation.HasField("tiles"):
        upscaler = UPSCALERS[generation.tiles.resampling]
        pairs += [
            ("SD upscale overlap", generation.tiles.overlap_px),
            ("SD upscale upscaler", upscaler),
        ]
    pairs.append(("Version", "Pictor"))
    lines = [with_tags(generation.prompt, generation.loras)]
    if generation.negative_prompt:
        lines.append(f"Negative prompt: {generation.negative_prompt}")
    return "\n".join([*lines, ", ".join(f"{key}: {_quoted(value)}" for key, value in pairs)])


def _of_hires(generation: generation_pb2.Generation) -> list[tuple[str, object]]:
    hires = generation.hires
    factors = (hires.width_px / generation.width_px, hires.height_px / generation.height_px)
    pairs: list[tuple[str, object]] = [("Denoising strength", f"{hires.strength:g}")]
    if abs(factors[0] - factors[1]) < SAME_FACTOR:
        pairs.append(("Hires upscale", f"{factors[0]:g}"))
    else:
        pairs.append(("Hires resize", f"{hires.width_px}x{hires.height_px}"))
    if hires.HasField("step_count"):
        pairs.append(("Hires steps", hires.step_count))
    if hires.prompt:
        pairs.append(("Hires prompt", hires.prompt))
    return [*pairs, ("Hires upscaler", UPSCALERS[hires.resampling])]


def _label(schedule: str) -> str:
    known = SCHEDULES.get(schedule)
    return known.label if known else schedule


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ",:\n") else text
