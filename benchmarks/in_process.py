"""
What is measured in this process: a device with its engine, and the bare pipeline beside it.

Both read the same folder and compute in float32 on one thread, so that the event loop, and whoever
else is on the machine, has the other core.
"""

import asyncio
import contextlib
import itertools
import math
import os
import pathlib
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from PIL import Image

from pictor.catalog.v1 import model_pb2
from pictor.inference.v1.generation_pb2 import Generation
from pictor.worker.v1 import worker_pb2
from services.inference.worker.__main__ import go_offline
from services.inference.worker.device import Device
from services.inference.worker.drawing import Drawing
from services.inference.worker.inputs import Inputs
from services.inference.worker.reports import Reports

# Before anything imports torch's friends.
go_offline(os.environ)

import diffusers  # noqa: E402  # after the environment is set
import structlog  # noqa: E402
import torch  # noqa: E402

from benchmarks.checkpoints import Checkpoint  # noqa: E402
from services.inference.worker.families import families  # noqa: E402
from services.inference.worker.families.family import Family  # noqa: E402

THREADS = 1
SEED = 7
POLL_SECONDS = 0.001
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Job:
    """
    What is drawn once.

    Attributes:
        number: Different for jobs that draw different pictures; chooses seed and prompt.
        side_px: Of a square picture.
        steps: Denoising steps.
        guidance: As the family means it; 1 leaves out the second pass of those that have one.
    """

    number: int
    side_px: int
    steps: int
    guidance: float

    @property
    def prompt(self) -> str:
        """A prompt of its own, as long as the others'."""
        return f"picture {self.number:03}"

    @property
    def seed(self) -> int:
        """A seed of its own."""
        return SEED + self.number


@dataclass
class Attempt:
    """
    A job on the device, and what became of it.

    Attributes:
        job: What is drawn.
        started: When it was given to the device, in seconds of ``time.perf_counter``.
        steps: When each of its steps was reported.
        ended: When it was over.
    """

    job: Job
    started: float = 0.0
    steps: list[float] = field(default_factory=list)
    ended: float = 0.0
    reports: Reports = field(init=False)

    def __post_init__(self) -> None:
        self.reports = Reports(self._take)

    @property
    def seconds(self) -> float:
        """From its arrival to its picture."""
        return self.ended - self.started

    def stop(self) -> None:
        """Make it end at its next step."""
        self.reports.stop()

    async def reached(self, step: int) -> None:
        """
        Wait until so many of its steps are reported.

        Raises:
            TimeoutError: If that takes longer than anything here should.
        """
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.steps) < step:  # noqa: ASYNC110 - the device thread reports them
                await asyncio.sleep(POLL_SECONDS)

    def _take(self, report: worker_pb2.Report) -> None:
        if report.progress.step > len(self.steps):
            self.steps.append(time.perf_counter())


@dataclass
class Ours:
    """
    A device with one model.

    Args:
        device: Draws.
        checkpoint: What it draws with.
        acceleration: The profiles under which the model is served.
    """

    device: Device
    checkpoint: Checkpoint
    acceleration: Sequence[str] = ()

    async def draw(self, attempt: Attempt) -> Image.Image:
        """Draw as the servicer of a device process does, without inputs and without storage."""
        job = attempt.job
        assignment = worker_pb2.Assignment(
            job=f"jobs/{job.number}",
            account="accounts/bench",
            generation=Generation(
                model=f"models/{self.checkpoint.name}",
                prompt=job.prompt,
                width_px=job.side_px,
                height_px=job.side_px,
                step_count=job.steps,
                guidance_scale=job.guidance,
                seed=job.seed,
                image_count=1,
            ),
            model=self._model(),
        )
        attempt.started = time.perf_counter()
        try:
            return (await _drawn(self.device, assignment, attempt.reports)).images[0]
        finally:
            attempt.ended = time.perf_counter()

    def _model(self) -> model_pb2.Model:
        options: dict[str, Any] = {"acceleration": self.acceleration} if self.acceleration else {}
        return model_pb2.Model(
            name=f"models/{self.checkpoint.name}",
            family=_served_family(self.checkpoint),
            checkpoint=model_pb2.Checkpoint(folder=self.checkpoint.name),
            **options,
        )


async def _drawn(device: Device, assignment: worker_pb2.Assignment, reports: Reports) -> Drawing:
    """Ask the device; the one place that knows how that is done."""
    return await device.draw(assignment, Inputs(), reports)


class Bare:
    """
    The pipeline as a user of diffusers loads and calls it.

    Args:
        folder: Holds the checkpoint's folder.
        checkpoint: What to draw with.
        device: Where to.
        dtype: What to compute in.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        checkpoint: Checkpoint,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.checkpoint = checkpoint
        cls = getattr(diffusers, checkpoint.pipeline)
        self.pipeline: Any = cls.from_pretrained(folder / checkpoint.name, dtype=dtype).to(device)
        self.pipeline.set_progress_bar_config(disable=True)

    def draw(self, jobs: Sequence[Job]) -> list[Image.Image]:
        """Draw with one call; the jobs have different prompts and seeds, and all else in common."""
        first = jobs[0]
        images: list[Image.Image] = self.pipeline(
            prompt=[job.prompt for job in jobs],
            num_inference_steps=first.steps,
            guidance_scale=first.guidance,
            width=first.side_px,
            height=first.side_px,
            generator=[torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
            **self.checkpoint.call,
        ).images
        return images


@contextlib.contextmanager
def saved(*checkpoints: Checkpoint, device: str = "cpu") -> Iterator[pathlib.Path]:
    """Write checkpoints to a folder that lasts as long as the block; drawn on *device*."""
    quieten()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for checkpoint in checkpoints:
            checkpoint.save(folder, device)
        yield folder


@contextlib.asynccontextmanager
async def ours(
    folder: pathlib.Path,
    checkpoint: Checkpoint,
    device: str = "cpu",
    acceleration: Sequence[str] = (),
) -> AsyncIterator[Ours]:
    """Run a device within the block, through the real loading path."""
    from services.inference.worker.engine import Engine  # noqa: PLC0415 - imports torch

    running = Device(lambda: Engine(device, [folder]), device)
    running.start()
    try:
        yield Ours(running, checkpoint, acceleration)
    finally:
        running.close()


def quieten() -> None:
    """Keep torch to its thread, and libraries and logs to errors."""
    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))


def require_same(some: Mapping[int, Image.Image], others: Mapping[int, Image.Image]) -> int:
    """
    Compare pictures of the same jobs; return the greatest difference of a pixel, in 1/255.

    Args:
        some: Pictures by the number of the job; there may be more than in *others*.
        others: What they are compared with.

    Raises:
        RuntimeError: If the difference is more than 1, or if different jobs have drawn the same
            picture, so that a comparison would say nothing.
    """
    if len({picture.tobytes() for picture in others.values()}) < len(others):
        raise RuntimeError("different seeds have drawn the same picture; nothing can be compared")
    greatest = max(int(np.abs(off).max()) for off in _differences(some, others))
    if greatest > 1:
        raise RuntimeError(f"the pictures differ by {greatest}/255")
    return greatest


def least_psnr_db(some: Mapping[int, Image.Image], others: Mapping[int, Image.Image]) -> float:
    """Compare pictures of the same jobs by their peak signal-to-noise ratio; return the worst."""
    mean_squares = [max(1e-9, float((off**2).mean())) for off in _differences(some, others)]
    return 10 * math.log10(255**2 / max(mean_squares))


def gaps(moments: Sequence[float]) -> list[float]:
    """Return what lies between moments, in seconds."""
    return [after - before for before, after in itertools.pairwise(moments)]


def _differences(
    some: Mapping[int, Image.Image], others: Mapping[int, Image.Image]
) -> Iterator[Any]:
    for number, other in others.items():
        pair = (np.asarray(picture.convert("RGB"), int) for picture in (some[number], other))
        yield np.subtract(*pair)


def _served_family(checkpoint: Checkpoint) -> str:
    """
    Return the name of the family that draws with a checkpoint.

    FLUX.1's own pads each prompt to 512 tokens, eight times as many as a small picture has; the
    same record under another name keeps to what the checkpoint says. Nothing else is changed.
    """
    if not checkpoint.call:
        return checkpoint.family
    name = f"{checkpoint.family}-short"
    known = cast("dict[str, Family]", families())
    own = known[checkpoint.family]
    known[name] = replace(
        own, name=name, arguments=lambda canvas: {**own.arguments(canvas), **checkpoint.call}
    )
    return name
