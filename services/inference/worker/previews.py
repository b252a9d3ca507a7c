"""Rough pictures of unfinished images."""

import functools
import io
from typing import Any

import diffusers
import torch
from PIL import Image

from services.inference.worker.families.family import Family
from services.inference.worker.frames import Size

# Decoding at this size costs a hundredth of a second where a step costs a tenth.
SIDE_LATENTS = 32
SIDE_PX = 256
QUALITY = 80


class Predictions:
    """
    Remembers what a scheduler expects the finished latents to be.

    The latents after a step still hold noise; the prediction from which the step was computed shows
    the picture much earlier. The scheduler is the drawing's own, so its ``step`` may be wrapped.
    """

    def __init__(self, scheduler: Any) -> None:
        self.latents: torch.Tensor | None = None
        take = scheduler.step

        # Pipelines look at the signature to see which arguments a step takes.
        @functools.wraps(take)
        def step(model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
            result = take(model_output, timestep, sample, *args, **kwargs)
            self.latents = _predicted(scheduler, result, model_output, sample)
            return result

        scheduler.step = step


def preview_steps(count: int, step_count: int) -> list[int]:
    """Spread previews evenly over the steps, none after the last; fewer where steps are few."""
    wanted = (round((k + 1) * step_count / (count + 1)) for k in range(count))
    return sorted({step for step in wanted if 1 <= step < step_count})


def rough_picture(
    family: Family, pipeline: Any, latents: torch.Tensor, size: Size
) -> Image.Image | None:
    """
    Decode latents roughly.

    Args:
        family: Says how.
        pipeline: The drawing's.
        latents: Of one image, as the pipeline's callback gives them.
        size: The canvas's.
    """
    if not family.rough_picture:
        return None
    with torch.no_grad():
        if family.spatial:
            latents = family.spatial(pipeline, latents, size)
        if latents.ndim == 4 and max(latents.shape[-2:]) > SIDE_LATENTS:
            scale = SIDE_LATENTS / max(latents.shape[-2:])
            latents = torch.nn.functional.interpolate(
                latents, scale_factor=scale, mode="area", recompute_scale_factor=True
            )
        decoded = family.rough_picture(pipeline, latents)[0]
        pixels = decoded.float().nan_to_num().clamp(-1, 1).add(1).mul(127.5).round()
        return Image.fromarray(pixels.byte().permute(1, 2, 0).cpu().numpy())


def file_of(picture: Image.Image) -> bytes:
    """Write a preview: JPEG, at most 256 pixels a side, far below 96 KiB."""
    picture = picture.copy()
    picture.thumbnail((SIDE_PX, SIDE_PX))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _predicted(
    scheduler: Any, result: Any, output: torch.Tensor, sample: torch.Tensor
) -> torch.Tensor:
    flows = isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler)
    if flows:
        # The model's output is the way from the picture to the noise.
        sigma = scheduler.sigmas[scheduler.step_index - 1].to(sample.device)
        clean: torch.Tensor = sample.float() - sigma * output.float()
        return clean
    if len(result) > 1:
        return result[1]  # type: ignore[no-any-return]  # diffusers is untyped
    solver = str(scheduler.config.get("algorithm_type", ""))
    if solver.endswith("dpmsolver++") or scheduler.config.get("predict_x0"):
        return scheduler.model_outputs[-1]  # type: ignore[no-any-return]
    return result[0]  # type: ignore[no-any-return]
