"""The generation's parameters as AUTOMATIC1111 writes them into its images."""

import json

from pictor.inference.v1 import generation_pb2
from services.inference.adapters import with_tags
from services.inference.samplers import AUTOMATIC


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
        pairs.append(("Schedule type", generation.schedule))
    if generation.HasField("guidance_scale"):
        pairs.append(("CFG scale", f"{generation.guidance_scale:g}"))
    pairs += [("Seed", seed), ("Size", size), ("Model", generation.model.removeprefix("models/"))]
    if generation.input_images and generation.HasField("strength"):
        pairs.append(("Denoising strength", f"{generation.strength:g}"))
    pairs.append(("Version", "Pictor"))
    lines = [with_tags(generation.prompt, generation.loras)]
    if generation.negative_prompt:
        lines.append(f"Negative prompt: {generation.negative_prompt}")
    return "\n".join([*lines, ", ".join(f"{key}: {_quoted(value)}" for key, value in pairs)])


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ",:\n") else text
