"""
Admission: from a request's arrival to its first step, while a job of 50 steps runs.

In steps of the running job. Newcomers arrive at any moment of a step. A first step begins with the
last forward before its report; what comes before it is the rest of the step that is under way, the
newcomer's text encoding, and its turn.
"""

import asyncio
import pathlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.checkpoints import TRANSFORMER, UNET, Checkpoint
from benchmarks.in_process import Attempt, Job, Ours, gaps, ours, saved
from benchmarks.report import Row
from benchmarks.spans import FORWARD, TEXT, Span, recorded, seconds_of

REPEATS = 5
NEWCOMERS = 4
LONG_STEPS, SHORT_STEPS = 50, 4
LIMIT = 1.5


@dataclass
class Case:
    """One model at one size, with so many jobs running."""

    title: str
    checkpoint: Checkpoint
    side_px: int
    guidance: float
    running: int


CASES = (
    Case("UNet, latent 16, beside one job", UNET, 128, 5.0, 1),
    Case("UNet, latent 16, beside seven jobs", UNET, 128, 5.0, 7),
    Case("FLUX, 64 tokens, beside one job", TRANSFORMER, 128, 3.5, 1),
)


@dataclass
class Arrivals:
    """What became of the newcomers, in seconds, and how long a step of the running jobs is."""

    to_begin: list[float] = field(default_factory=list)
    to_end: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    under_way: list[float] = field(default_factory=list)
    text: list[float] = field(default_factory=list)

    @property
    def shares(self) -> str:
        """Where the time goes until the first step begins."""
        whole, under_way, text = (
            1e3 * statistics.fmean(seconds)
            for seconds in (self.to_begin, self.under_way, self.text)
        )
        return (
            f"on average {whole:.1f} ms = {under_way:.1f} until the forward under way has ended"
            f" + {text:.1f} text encoders + {whole - under_way - text:.1f} the rest"
        )


def measure() -> list[Row]:
    """Let newcomers arrive in *REPEATS* running jobs."""
    with saved(UNET, TRANSFORMER) as folder:
        rows = []
        for case in CASES:
            found = asyncio.run(_measured(case, folder))
            rows += [
                Row(
                    f"{case.title}: until the first step begins",
                    found.to_begin,
                    found.step,
                    LIMIT,
                    note=found.shares,
                ),
                Row(f"{case.title}: until it is reported", found.to_end, found.step),
            ]
    return rows


async def _measured(case: Case, folder: pathlib.Path) -> Arrivals:
    found = Arrivals()
    async with ours(folder, case.checkpoint) as engine:
        await engine.draw(Attempt(Job(0, case.side_px, SHORT_STEPS, case.guidance)))
        for _ in range(REPEATS):
            await _once(engine, case, found)
    return found


async def _once(engine: Ours, case: Case, found: Arrivals) -> None:
    arrivals = np.random.default_rng(len(found.step))
    with recorded() as spans:
        running = [
            Attempt(Job(k, case.side_px, LONG_STEPS, case.guidance)) for k in range(case.running)
        ]
        tasks = [asyncio.create_task(engine.draw(attempt)) for attempt in running]
        await asyncio.gather(*(attempt.reached(8) for attempt in running))
        step = statistics.median(gaps(running[0].steps[2:]))
        for number in range(NEWCOMERS):
            await asyncio.sleep(arrivals.random() * step)
            newcomer = Attempt(Job(100 + number, case.side_px, SHORT_STEPS, case.guidance))
            seen = len(spans)
            await engine.draw(newcomer)
            found.to_begin.append(_began(spans, newcomer) - newcomer.started)
            found.to_end.append(newcomer.steps[0] - newcomer.started)
            found.step.append(step)
            found.under_way.append(_under_way(spans, newcomer.started))
            found.text.append(seconds_of(spans[seen:], TEXT))
        await asyncio.gather(*tasks)


def _began(spans: Sequence[Span], attempt: Attempt) -> float:
    reported = attempt.steps[0]
    return max(span.begin for span in spans if span.kind == FORWARD and span.begin < reported)


def _under_way(spans: Sequence[Span], moment: float) -> float:
    """Return how long the forward that runs at a moment goes on; 0 if none runs."""
    return max(
        (s.end - moment for s in spans if s.kind == FORWARD and s.begin < moment < s.end),
        default=0.0,
    )
