"""Previews: what an image is going to be, shown while it is drawn."""

import inspect
import io
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import diffusers
import torch
from PIL import Image

from services.inference.worker.frames import Frame, resized
from services.inference.worker.schedulers import LEAST_SIGNAL
from services.inference.worker.sketches import Sketch

SIDE_PX = 256
QUALITY = 80


class Predictions:
    """
    Knows what a scheduler expects the finished latents to be.

    The latents after a step still hold noise; the prediction from which the step was computed shows
    the picture much earlier. The scheduler is the drawing's own, so its ``step`` may be wrapped.
    """

    def __init__(self, scheduler: Any) -> None:
        self._predict: Callable[[], torch.Tensor] | None = None
        # Neither holds the other: what a drawing leaves behind is freed at once.
        take, known = type(scheduler).step, weakref.ref(scheduler)

        def step(model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
            result = take(known(), model_output, timestep, sample, *args, **kwargs)
            self._predict = lambda: _predicted(known(), result, model_output, timestep, sample)
            return result

        # Pipelines look at the signature to see which arguments a step takes.
        step.__signature__ = inspect.signature(scheduler.step)  # type: ignore[attr-defined]
        scheduler.step = step

    @property
    def latents(self) -> torch.Tensor | None:
        """Of the step last taken, until the next one; None before the first."""
        return self._predict() if self._predict else None


def preview_steps(count: int, step_count: int) -> list[int]:
    """Spread previews evenly over the steps, none after the last; fewer where steps are few."""
    wanted = (round((k + 1) * step_count / (count + 1)) for k in range(count))
    return sorted({step for step in wanted if 1 <= step < step_count})


def framed(picture: Image.Image, shape: Frame) -> Image.Image:
    """Make a preview of a picture of the whole canvas: the result's part, 256 pixels at most."""
    small = shape.reduced(SIDE_PX)
    return small.finish(resized(picture, small.canvas, Image.Resampling.BILINEAR))


def file_of(picture: Image.Image) -> bytes:
    """Write a preview: JPEG, at most 256 pixels a side, far below 96 KiB."""
    if max(picture.size) > SIDE_PX:
        picture = picture.copy()
        picture.thumbnail((SIDE_PX, SIDE_PX))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


class Writer:
    """
    Writes the previews of one image in a thread of its own, so that the device's need not wait.

    Args:
        shape: Says what part of the canvas the result is.
    """

    def __init__(self, shape: Frame) -> None:
        self._shape = shape
        self._thread = ThreadPoolExecutor(1, "previews")
        self._written: list[Future[None]] = []

    def write(self, sketch: Sketch, show: Callable[[bytes], None]) -> None:
        """Hand a file to *show* when it is written, in the order of the calls."""
        self._written.append(self._thread.submit(self._write, sketch, show))

    def close(self) -> None:
        """
        Wait until all are shown.

        Raises:
            Exception: Whatever writing or showing one of them raised.
        """
        self._thread.shutdown()
        for written in self._written:
            written.result()

    def _write(self, sketch: Sketch, show: Callable[[bytes], None]) -> None:
        show(file_of(framed(sketch.picture(), self._shape)))


def _predicted(
    scheduler: Any, result: Any, output: torch.Tensor, timestep: Any, sample: torch.Tensor
) -> torch.Tensor:
    flows = isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler)
    if flows:
        # The model's output is the way from the picture to the noise. The level stays where it is:
        # copied from the host to a GPU, it would make the host wait.
        clean: torch.Tensor = (
            sample.float() - scheduler.sigmas[scheduler.step_index - 1] * output.float()
        )
        return clean
    solver = str(scheduler.config.get("algorithm_type", ""))
    if solver.endswith("dpmsolver++") or scheduler.config.get("predict_x0"):
        return scheduler.model_outputs[-1]  # type: ignore[no-any-return]  # diffusers is untyped
    # What TCD tells besides is a picture with other noise.
    if len(result) > 1 and not isinstance(scheduler, diffusers.TCDScheduler):
        return result[1]  # type: ignore[no-any-return]
    if hasattr(scheduler, "alphas_cumprod") and scheduler.init_noise_sigma == 1:
        return _without_noise(scheduler, output.float(), timestep, sample.float())
    return result[0]  # type: ignore[no-any-return]


def _without_noise(
    scheduler: Any, output: torch.Tensor, timestep: Any, sample: torch.Tensor
) -> torch.Tensor:
    levels: torch.Tensor = scheduler.alphas_cumprod
    if sample.is_cuda and not levels.is_cuda:
        # From other memory the host would wait for the copy, and for all that goes before it.
        levels = levels.pin_memory().to(sample.device, non_blocking=True)
    number = torch.as_tensor(timestep, device=levels.device).long().clamp(0, len(levels) - 1)
    signal = levels.take(number).clamp(min=LEAST_SIGNAL)
    if scheduler.config.prediction_type == "v_prediction":
        return signal.sqrt() * sample - (1 - signal).sqrt() * output
    if scheduler.config.prediction_type == "sample":
        return output
    return (sample - (1 - signal).sqrt() * output) / signal.sqrt()
