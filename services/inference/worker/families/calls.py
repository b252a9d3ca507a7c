"""What the calls of most pipelines have in common."""

from typing import Any

from services.inference.worker.families.family import Canvas


def common(canvas: Canvas) -> dict[str, Any]:
    """Say what to draw, how large, in how many steps, and from what; guidance is the family's."""
    generation = canvas.generation
    call: dict[str, Any] = {
        "prompt": generation.prompt,
        "width": canvas.width_px,
        "height": canvas.height_px,
    }
    if generation.HasField("step_count"):
        call["num_inference_steps"] = generation.step_count
    if canvas.image:
        call["image"] = canvas.image
        if generation.HasField("strength"):
            call["strength"] = generation.strength
    if canvas.mask:
        call["mask_image"] = canvas.mask
    return call
