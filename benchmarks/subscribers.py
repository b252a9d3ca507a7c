"""
Subscribers: throughput with 32 watchers of the progress, over none.

Eight jobs run at the same time through the whole suite; in every other repeat each of them has four
watchers over gRPC, which are sent what WatchJob sends. The time is that of the jobs' own records,
from the first start to the last end, so that nobody needs to watch in order to measure.
"""

import asyncio
import pathlib
import statistics
from collections.abc import Sequence

import psutil

from benchmarks.checkpoints import UNET
from benchmarks.in_process import Job, saved
from benchmarks.over_grpc import Client, served
from benchmarks.report import Row
from pictor.inference.v1 import job_pb2
from pictor.inference.v1.inference_service_pb2 import GetJobRequest

REPEATS = 7
JOBS = 8
WATCHERS = 32
STEPS = 60
SIDE_PX, GUIDANCE = 128, 1.0
POLL_SECONDS = 0.5
LEAST = 0.97
TERMINAL = (job_pb2.Job.STATE_SUCCEEDED, job_pb2.Job.STATE_FAILED, job_pb2.Job.STATE_CANCELED)


def measure() -> list[Row]:
    """Draw with and without watchers, in turn, *REPEATS* times."""
    with saved(UNET) as folder:
        return asyncio.run(_measured(folder))


async def _measured(folder: pathlib.Path) -> list[Row]:
    rates: dict[int, list[float]] = {0: [], WATCHERS: []}
    told: list[int] = []
    busy: dict[int, list[dict[str, float]]] = {0: [], WATCHERS: []}
    async with served(folder, UNET) as client:
        for repeat in range(REPEATS + 1):
            for watchers, found in rates.items():
                before = _cpu_seconds(client)
                rate, messages = await _once(client, watchers)
                if repeat:  # the first turn warms up
                    found.append(rate)
                    after = _cpu_seconds(client)
                    busy[watchers].append({who: after[who] - before[who] for who in after})
                    told += messages
    note = (
        f"a watcher was sent {min(told)} to {max(told)} messages; CPU seconds of a repeat with"
        f" watchers: {_medians(busy[WATCHERS])}; without: {_medians(busy[0])}"
    )
    return [
        Row(
            f"UNet, latent 16, {JOBS} jobs of {STEPS} steps, {WATCHERS} watchers",
            rates[WATCHERS],
            rates[0],
            LEAST,
            "img/s",
            at_least=True,
            note=note,
        )
    ]


async def _once(client: Client, watchers: int) -> tuple[float, list[int]]:
    """Return the pictures a second, and how many messages each watcher was sent."""
    names = [await client.create(Job(k, SIDE_PX, STEPS, GUIDANCE)) for k in range(JOBS)]
    tasks = [asyncio.create_task(client.watch(names[k % JOBS])) for k in range(watchers)]
    jobs = await _ended(client, names)
    messages = [len(told) for told in await asyncio.gather(*tasks)]
    if failed := [job.error.message for job in jobs if not job.HasField("result")]:
        raise RuntimeError(f"a job was not drawn: {failed[0]}")
    started = min(job.start_time.ToNanoseconds() for job in jobs)
    ended = max(job.finish_time.ToNanoseconds() for job in jobs)
    return JOBS / ((ended - started) / 1e9), messages


def _cpu_seconds(client: Client) -> dict[str, float]:
    """Return the processor time of everybody who takes part."""
    suite = psutil.Process(client.suite_pid)
    everybody = {"suite": [suite], "device": suite.children(), "clients": [psutil.Process()]}
    return {
        who: sum(sum(process.cpu_times()[:2]) for process in processes)
        for who, processes in everybody.items()
    }


def _medians(repeats: Sequence[dict[str, float]]) -> str:
    return ", ".join(
        f"{who} {statistics.median(repeat[who] for repeat in repeats):.2f}" for who in repeats[0]
    )


async def _ended(client: Client, names: Sequence[str]) -> list[job_pb2.Job]:
    jobs = [await client.inference.GetJob(GetJobRequest(name=name)) for name in names]
    while not all(job.state in TERMINAL for job in jobs):
        await asyncio.sleep(POLL_SECONDS)
        jobs = [await client.inference.GetJob(GetJobRequest(name=name)) for name in names]
    return jobs
