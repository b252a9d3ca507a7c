"""
Served: eight clients over gRPC, through the whole suite, over the serial loop.

As ``throughput``, with jobs that are admitted, made durable, dispatched, watched and stored. The
suite's processes and this one, which has the clients, share the machine's cores.
"""

import asyncio
import pathlib
import statistics
import time
from collections.abc import Sequence

from PIL import Image

from benchmarks.checkpoints import UNET
from benchmarks.in_process import Bare, Job, require_same, saved
from benchmarks.over_grpc import Client, served
from benchmarks.report import Row
from benchmarks.throughput import CLIENTS, Case
from pictor.inference.v1 import job_pb2

REPEATS = 5
CASES = (Case("UNet, latent 8", UNET, 64, 1.0), Case("UNet, latent 16", UNET, 128, 1.0))


def measure() -> list[Row]:
    """Draw in both ways, in turn, *REPEATS* times."""
    with saved(UNET) as folder:
        return asyncio.run(_measured(folder))


async def _measured(folder: pathlib.Path) -> list[Row]:
    bare = Bare(folder, UNET)
    async with served(folder, UNET) as client:
        return [await _compared(case, client, bare) for case in CASES]


async def _compared(case: Case, client: Client, bare: Bare) -> Row:
    ours: list[float] = []
    serial: list[float] = []
    latencies: list[float] = []
    drawing: list[float] = []
    for repeat in range(REPEATS + 1):
        seconds, expected = _serial(bare, [own[0] for own in case.jobs])
        started = time.perf_counter()
        finished = await asyncio.gather(
            *(
                _client(client, own, k * seconds / CLIENTS / case.steps)
                for k, own in enumerate(case.jobs)
            )
        )
        took = time.perf_counter() - started
        if repeat:  # the first turn warms both up
            serial.append(CLIENTS / seconds)
            ours.append(sum(len(jobs) for jobs in finished) / took)
            latencies += [_latency(job) for jobs in finished for job in jobs]
            drawing += [_drawing(job) for jobs in finished for job in jobs]
    pictures = {k: await client.picture(jobs[0]) for k, jobs in enumerate(finished)}
    print(f"{case.title}: greatest difference of a pixel: {require_same(pictures, expected)}/255")
    return Row(
        f"{case.title}: over the serial loop",
        ours,
        serial,
        unit="img/s",
        at_least=True,
        note=f"a job takes {statistics.median(latencies):.3f} s from admission to its end,"
        f" {statistics.median(drawing):.3f} s of them on the device",
    )


def _serial(bare: Bare, jobs: Sequence[Job]) -> tuple[float, dict[int, Image.Image]]:
    started = time.perf_counter()
    pictures = {job.number: bare.draw([job])[0] for job in jobs}
    return time.perf_counter() - started, pictures


async def _client(client: Client, jobs: Sequence[Job], delay_seconds: float) -> list[job_pb2.Job]:
    await asyncio.sleep(delay_seconds)
    return [await client.finished(await client.create(job)) for job in jobs]


def _latency(job: job_pb2.Job) -> float:
    return (job.finish_time.ToNanoseconds() - job.create_time.ToNanoseconds()) / 1e9


def _drawing(job: job_pb2.Job) -> float:
    return job.result.timings.inference.ToNanoseconds() / 1e9
