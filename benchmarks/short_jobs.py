"""
Short jobs: the 95th percentile of jobs of 4 steps while jobs of 50 steps run, over alone.

The load are clients that have one job of 50 steps drawn after the other.
"""

import asyncio
import contextlib
import pathlib
import statistics
from collections.abc import AsyncIterator

from benchmarks.checkpoints import UNET
from benchmarks.in_process import Attempt, Job, Ours, ours, saved
from benchmarks.report import Row
from benchmarks.spans import FORWARD, recorded, seconds_of
from services.rpc.errors import Canceled

REPEATS = 5
SHORT_JOBS = 12
LONG_STEPS, SHORT_STEPS = 50, 4
SIDE_PX, GUIDANCE = 128, 5.0
LOADS = (1, 3, 7)
LIMIT = 3.0


def measure() -> list[Row]:
    """Draw short jobs alone and under each load, in turn, *REPEATS* times."""
    with saved(UNET) as folder:
        return asyncio.run(_measured(folder))


async def _measured(folder: pathlib.Path) -> list[Row]:
    slowest: dict[int, list[float]] = {load: [] for load in (0, *LOADS)}
    forwards: dict[int, list[float]] = {load: [] for load in slowest}
    async with ours(folder, UNET) as engine:
        await engine.draw(Attempt(_job(0, SHORT_STEPS)))
        for _ in range(REPEATS):
            for load, seconds in slowest.items():
                async with _load(engine, load):
                    with recorded() as spans:
                        seconds.append(
                            _percentile([await _short(engine, k) for k in range(SHORT_JOBS)])
                        )
                forward = [span for span in spans if span.kind == FORWARD]
                forwards[load].append(seconds_of(forward, FORWARD) / len(forward))
    alone = 1e3 * statistics.median(forwards[0])
    return [
        Row(
            f"UNet, latent 16, beside {load} long jobs",
            slowest[load],
            slowest[0],
            LIMIT,
            note=f"a forward takes {1e3 * statistics.median(forwards[load]):.1f} ms, alone"
            f" {alone:.1f} ms",
        )
        for load in LOADS
    ]


def _job(number: int, steps: int) -> Job:
    return Job(number, SIDE_PX, steps, GUIDANCE)


async def _short(engine: Ours, number: int) -> float:
    attempt = Attempt(_job(number, SHORT_STEPS))
    await engine.draw(attempt)
    return attempt.seconds


def _percentile(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=20, method="inclusive")[-1]


@contextlib.asynccontextmanager
async def _load(engine: Ours, clients: int) -> AsyncIterator[None]:
    """Keep so many clients' long jobs running within the block."""
    running: dict[int, Attempt] = {}

    async def client(number: int) -> None:
        # The other clients' jobs end at other steps.
        await asyncio.sleep(0.05 * number)
        while True:
            running[number] = Attempt(_job(100 + number, LONG_STEPS))
            await engine.draw(running[number])

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    while len(running) < clients:  # noqa: ASYNC110 - the last client begins a little later
        await asyncio.sleep(0.01)
    await asyncio.gather(*(attempt.reached(1) for attempt in running.values()))
    try:
        yield
    finally:
        for attempt in running.values():
            attempt.stop()
        with contextlib.suppress(Canceled):
            await asyncio.gather(*tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
