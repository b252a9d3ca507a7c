"""
Cancel: from the cancel to the row's being gone, while seven other jobs run.

The limit is one step of the batch and 10 ms. Each repeat counts the worst of its cancels; it fails
if a forward that begins afterwards still computes the row.
"""

import asyncio
import contextlib
import pathlib
import statistics
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.checkpoints import UNET
from benchmarks.in_process import Attempt, Job, Ours, gaps, ours, saved
from benchmarks.report import Row
from benchmarks.spans import FORWARD, Span, recorded
from services.rpc.errors import Canceled

REPEATS = 5
CANCELS = 4
OTHERS = 7
# Without a second pass a job is one row of each forward.
SIDE_PX, GUIDANCE = 128, 1.0
ENDLESS_STEPS = 999
GRACE_SECONDS = 0.010


def measure() -> list[Row]:
    """Cancel at any moment of a step, *REPEATS* times *CANCELS*."""
    with saved(UNET) as folder:
        return asyncio.run(_measured(folder))


async def _measured(folder: pathlib.Path) -> list[Row]:
    moments = np.random.default_rng(0)
    worst: list[float] = []
    permitted: list[float] = []
    async with ours(folder, UNET) as engine:
        others = [Attempt(Job(k, SIDE_PX, ENDLESS_STEPS, GUIDANCE)) for k in range(OTHERS)]
        tasks = [asyncio.create_task(engine.draw(attempt)) for attempt in others]
        await asyncio.gather(*(attempt.reached(3) for attempt in others))
        for _ in range(REPEATS):
            took = [await _canceled(engine, others[0], moments.random()) for _ in range(CANCELS)]
            worst.append(max(seconds for seconds, _ in took))
            permitted.append(statistics.median(step for _, step in took) + GRACE_SECONDS)
        for attempt in others:
            attempt.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [Row(f"UNet, latent 16, beside {OTHERS} jobs, worst of {CANCELS}", worst, permitted, 1)]


async def _canceled(engine: Ours, other: Attempt, moment: float) -> tuple[float, float]:
    """
    Cancel at a moment of a step, 0 to 1.

    Returns:
        How long that took, and how long a step of the batch is, in seconds.
    """
    with recorded() as spans:
        attempt = Attempt(Job(50, SIDE_PX, ENDLESS_STEPS, GUIDANCE))
        task = asyncio.create_task(engine.draw(attempt))
        await attempt.reached(6)
        step = statistics.median(gaps(attempt.steps[1:]))
        await asyncio.sleep(moment * step)
        canceled = time.perf_counter()
        attempt.stop()
        with contextlib.suppress(Canceled):
            await task
            raise RuntimeError("the canceled job has drawn its picture")
        gone = time.perf_counter()
        await other.reached(len(other.steps) + 3)
    _require_gone(spans, gone)
    return gone - canceled, step


def _require_gone(spans: Sequence[Span], gone: float) -> None:
    rows = [span.rows for span in spans if span.kind == FORWARD and span.begin > gone]
    if not rows or max(rows) > OTHERS:
        raise RuntimeError(f"forwards of {rows} rows after the cancel; {OTHERS} jobs are left")
