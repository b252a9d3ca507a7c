"""
Throughput: eight clients that arrive one after another, over the serial loop and an offline batch.

Each client has four pictures drawn, one after the other, and comes one step after the client
before it. The serial loop calls the bare pipeline for one picture after another, as a script does;
the offline batch calls it for eight at a time, as nobody can whose requests arrive by themselves.
These draw the clients' first one and two pictures; the rates are pictures a second. Prompts, seeds,
steps, guidance and threads are the same, and the pictures are compared.
"""

import asyncio
import pathlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from benchmarks.checkpoints import TRANSFORMER, UNET, Checkpoint
from benchmarks.in_process import Attempt, Bare, Job, Ours, least_psnr_db, ours, require_same, saved
from benchmarks.report import Row
from benchmarks.spans import Span, recorded, shares

REPEATS = 5
CLIENTS = 8
PICTURES = 4
OFFLINE_BATCHES = 2
STEPS = 16


@dataclass(frozen=True)
class Case:
    """
    One model at one size.

    Attributes:
        title: Says so.
        checkpoint: The model.
        side_px: The size.
        guidance: 1 computes one row an image, more computes two, where the family does so.
        goal: Least throughput over the serial loop; None where there is no goal.
        offline_goal: Likewise over the offline batch.
        steps: Of each picture.
        least_psnr_db: What the pictures must reach; None where no pixel may differ by more than
            1/255.
    """

    title: str
    checkpoint: Checkpoint
    side_px: int
    guidance: float
    goal: float | None = None
    offline_goal: float | None = None
    steps: int = STEPS
    least_psnr_db: float | None = None

    @property
    def jobs(self) -> list[list[Job]]:
        """What each client draws."""
        numbers = [[CLIENTS * turn + k for turn in range(PICTURES)] for k in range(CLIENTS)]
        return [
            [Job(number, self.side_px, self.steps, self.guidance) for number in own]
            for own in numbers
        ]


CASES = (
    Case("UNet, latent 8", UNET, 64, 1.0, 2.5, 0.9),
    Case("UNet, latent 16", UNET, 128, 1.0, 2.0, 0.9),
    Case("UNet, latent 8, guided", UNET, 64, 5.0),
    Case("FLUX, 64 tokens", TRANSFORMER, 128, 3.5, 2.5, 0.9),
)


@dataclass
class Side:
    """One way of drawing: its pictures a second, its last pictures, and what its parts did."""

    rates: list[float] = field(default_factory=list)
    pictures: dict[int, Image.Image] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0

    def take(self, seconds: float, spans: Sequence[Span], jobs: Sequence[Job]) -> None:
        """Add a repeat."""
        self.rates.append(len(jobs) / seconds)
        self.spans += spans
        self.seconds += seconds
        self.steps += sum(job.steps for job in jobs)

    @property
    def shares(self) -> str:
        """Where the time goes."""
        return shares(self.spans, self.seconds, self.steps)


def measure() -> list[Row]:
    """Draw each case in all three ways, in turn, *REPEATS* times."""
    with saved(UNET, TRANSFORMER) as folder:
        return [row for case in CASES for row in asyncio.run(_measured(case, folder))]


async def _measured(case: Case, folder: pathlib.Path) -> list[Row]:
    bare = Bare(folder, case.checkpoint)
    async with ours(folder, case.checkpoint) as engine:
        return await compared(case, engine, bare, REPEATS)


async def compared(case: Case, engine: Ours, bare: Bare, repeats: int) -> list[Row]:
    """
    Draw one case in all three ways, in turn.

    Raises:
        RuntimeError: If a picture differs where none may.
    """
    for repeat in range(repeats + 1):
        if repeat <= 1:  # the first turn warms all up
            serial, offline, own = Side(), Side(), Side()
        _take_serial(serial, bare, case)
        _take_offline(offline, bare, case)
        await _take_ours(own, engine, case, serial.seconds / serial.steps)
    return [
        *_same(case, own, offline.pictures | serial.pictures),
        Row(
            f"{case.title}: over the serial loop",
            own.rates,
            serial.rates,
            case.goal,
            "img/s",
            at_least=True,
            note=f"serial {serial.shares}; offline {offline.shares}; ours {own.shares}",
        ),
        Row(
            f"{case.title}: over an offline batch of {CLIENTS}",
            own.rates,
            offline.rates,
            case.offline_goal,
            "img/s",
            at_least=True,
        ),
    ]


def _same(case: Case, own: Side, expected: Mapping[int, Image.Image]) -> list[Row]:
    """Compare the pictures; a row where they are compared by their noise."""
    if case.least_psnr_db is None:
        difference = require_same(own.pictures, expected)
        print(f"{case.title}: greatest difference of a pixel: {difference}/255", flush=True)
        return []
    found = [least_psnr_db(own.pictures, expected)]
    claim = f"{case.title}: worst PSNR of a picture"
    return [Row(claim, found, goal=case.least_psnr_db, unit="dB", at_least=True)]


def _take_serial(side: Side, bare: Bare, case: Case) -> None:
    jobs = [own[0] for own in case.jobs]
    with recorded() as spans:
        started = time.perf_counter()
        for job in jobs:
            side.pictures[job.number] = bare.draw([job])[0]
        seconds = time.perf_counter() - started
    side.take(seconds, spans, jobs)


def _take_offline(side: Side, bare: Bare, case: Case) -> None:
    batches = list(zip(*case.jobs, strict=True))[:OFFLINE_BATCHES]
    with recorded() as spans:
        started = time.perf_counter()
        for batch in batches:
            numbers = [job.number for job in batch]
            side.pictures |= zip(numbers, bare.draw(batch), strict=True)
        seconds = time.perf_counter() - started
    side.take(seconds, spans, [job for batch in batches for job in batch])


async def _take_ours(side: Side, engine: Ours, case: Case, step_seconds: float) -> None:
    async def client(number: int, jobs: Sequence[Job]) -> None:
        await asyncio.sleep(number * step_seconds)
        for job in jobs:
            side.pictures[job.number] = await engine.draw(Attempt(job))

    with recorded() as spans:
        started = time.perf_counter()
        await asyncio.gather(*(client(k, jobs) for k, jobs in enumerate(case.jobs)))
        seconds = time.perf_counter() - started
    side.take(seconds, spans, [job for own in case.jobs for job in own])
