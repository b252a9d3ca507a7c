"""Several processes of the inference service on one database."""

import asyncio
import contextlib
import os
import signal
import sys
import time

import pytest

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import inference_service_pb2, job_pb2
from services.rpc.errors import Unavailable
from services.rpc.principals import acting_for, service_token
from tests.services.inference.scripted import (
    ALICE,
    ScriptedExecutor,
    inference_in,
    neighbours,
    serve_model,
)

Job = job_pb2.Job
LEASE_SECONDS = 2.0
QUICK = {"PICTOR_HEARTBEAT_SECONDS": "0.5", "PICTOR_LEASE_SECONDS": str(LEASE_SECONDS)}


@pytest.fixture
async def environ(tmp_path, postgres):
    """As elsewhere, on PostgreSQL, with a short lease."""
    settings = {**QUICK, "PICTOR_INFERENCE_DATABASE_URL": await postgres.database()}
    async with neighbours(tmp_path, **settings) as bound:
        token = service_token(tmp_path)
        await serve_model(bound["PICTOR_CATALOG_ADDRESS"], token, "pictor/shapes")
        yield bound


@pytest.fixture
async def two(environ):
    """Two processes' worth of the service, in one loop, which may be slow for a while."""
    patient = {**environ, "PICTOR_LEASE_SECONDS": "30"}
    async with (
        inference_in(patient, ScriptedExecutor()) as one,
        inference_in(patient, ScriptedExecutor()) as other,
    ):
        yield one, other


@pytest.fixture
async def other_process(environ):
    """A process of the service that may be killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.services.inference.replica_process",
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **environ},
    )
    async with asyncio.timeout(20):
        assert await process.stdout.readline()
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()


async def running_elsewhere(service, seconds):
    """Make a job that the other process runs for some seconds."""
    job = await service.create(prompt=str(seconds))
    return await service.in_state(job.name, Job.STATE_RUNNING)


async def events(service, name):
    with acting_for(ALICE):
        request = inference_service_pb2.WatchJobRequest(name=name, after_revision=1)
        call = service.stub.WatchJob(request)
        return list(dict.fromkeys([message.revision async for message in call]))


def owner_of(job, *services):
    """Return which of the services runs a job."""
    return next(
        service
        for service in services
        if job.name in [assignment.job for assignment in service.executor.assignments]
    )


async def test_jobs_are_shared_and_each_runs_once(two):
    """
    Whichever process has room takes the next one, and no other takes it too.
    """
    for service in two:
        service.executor.slots = 3
    jobs = [await two[k % 2].create() for k in range(60)]
    # The first one to be full leaves the others to the second.
    async with asyncio.timeout(10):
        while not all(service.executor.assignments for service in two):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    for service in two:
        service.executor.gate.set()
    ended = [await two[k % 2].ended(job.name) for k, job in enumerate(jobs)]
    counts = [len(service.executor.assignments) for service in two]

    assert {job.state for job in ended} == {Job.STATE_SUCCEEDED}
    assert {job.attempt_count for job in ended} == {1}
    assert sum(counts) == 60
    assert min(counts) > 0


async def test_a_watcher_sees_what_another_process_draws(two):
    """
    Every change of state, and the steps, whichever process it asks.
    """
    job = await two[0].create()
    await two[0].in_state(job.name, Job.STATE_RUNNING)
    owner = owner_of(job, *two)
    stranger = two[1] if owner is two[0] else two[0]
    watching = asyncio.create_task(stranger.ended(job.name))
    await asyncio.sleep(0.2)
    started = time.monotonic()
    owner.executor.gate.set()
    ended = await watching

    assert ended.state == Job.STATE_SUCCEEDED
    # Told, not polled for.
    assert time.monotonic() - started < 0.5


async def test_steps_are_told_across_processes(two):
    """
    Not each of them, but the picture is seen to come nearer.
    """
    for service in two:
        service.executor.slow_steps = 0.1
        service.executor.steps = 30
    # They have met.
    await asyncio.sleep(1.5)
    job = await two[0].create()
    steps = {0: [], 1: []}

    async def watch(index):
        async for message in two[index].watch(job.name):
            if message.progress.step:
                steps[index].append(message.progress.step)

    watching = [asyncio.create_task(watch(index)) for index in (0, 1)]
    async with asyncio.timeout(10):
        while not all(len(told) >= 3 for told in steps.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await two[0].cancel(job.name)
    await asyncio.gather(*watching)

    assert all(told == sorted(told) for told in steps.values())


async def test_canceling_at_one_process_stops_the_device_of_another(two):
    """
    Within a step, not at the next poll.
    """
    job = await two[0].create()
    await two[0].in_state(job.name, Job.STATE_RUNNING)
    owner = owner_of(job, *two)
    stranger = two[1] if owner is two[0] else two[0]
    started = time.monotonic()
    await stranger.cancel(job.name)
    async with asyncio.timeout(5):
        while job.name not in owner.executor.stopped:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    assert time.monotonic() - started < 0.5
    assert (await owner.get(job.name)).state == Job.STATE_CANCELED


async def test_a_killed_process_loses_no_job(environ, other_process):
    """
    What it ran runs again elsewhere, within the lease and a second, with no gap in its events.
    """
    async with inference_in(environ, ScriptedExecutor(slots=0)) as service:
        job = await running_elsewhere(service, 60)
        service.executor.slots = 1
        service.executor.gate.set()
        other_process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        ended = await service.ended(job.name)
        seconds = time.monotonic() - killed
        revisions = await events(service, job.name)

    assert ended.state == Job.STATE_SUCCEEDED
    assert ended.attempt_count == 2
    assert seconds <= LEASE_SECONDS + 1
    # Made, run, taken back, run, done.
    assert ended.revision == 5
    assert revisions == [2, 3, 4, 5]


async def test_a_process_without_a_device_takes_jobs_back_all_the_same(environ, other_process):
    """
    They wait in the queue for whoever can draw, and not for a process that is gone.
    """
    async with inference_in(environ, ScriptedExecutor(slots=0)) as service:
        job = await running_elsewhere(service, 60)
        service.executor.up.clear()
        service.executor.slots = 1
        service.executor.gate.set()
        other_process.send_signal(signal.SIGKILL)
        await service.in_state(job.name, Job.STATE_QUEUED)
        service.executor.up.set()
        ended = await service.ended(job.name)

    assert ended.state == Job.STATE_SUCCEEDED


async def test_a_process_that_was_paused_changes_nothing_when_it_wakes(environ, other_process):
    """
    Its job was drawn elsewhere meanwhile: its own result comes too late and is refused.
    """
    async with inference_in(environ, ScriptedExecutor(slots=0)) as service:
        job = await running_elsewhere(service, 1)
        service.executor.slots = 1
        service.executor.gate.set()
        other_process.send_signal(signal.SIGSTOP)
        ended = await service.ended(job.name)
        other_process.send_signal(signal.SIGCONT)
        service.executor.slots = 0
        # It lives on, under a new name, and takes jobs.
        again = await service.ended((await service.create(prompt="0.1")).name)
        after = await service.get(job.name)

    assert ended.attempt_count == 2
    assert after == ended
    assert again.state == Job.STATE_SUCCEEDED
    assert again.attempt_count == 1


async def test_a_process_that_stops_in_order_leaves_its_jobs_at_once(environ, other_process):
    """
    Nobody waits for its lease to end, and the attempt does not count.
    """
    async with inference_in(environ, ScriptedExecutor(slots=0)) as service:
        job = await running_elsewhere(service, 60)
        service.executor.slots = 1
        service.executor.gate.set()
        other_process.terminate()
        stopped = time.monotonic()
        ended = await service.ended(job.name)
        seconds = time.monotonic() - stopped

    assert ended.attempt_count == 1
    assert seconds < LEASE_SECONDS


async def test_a_database_that_is_away_loses_nothing(environ, postgres):
    """
    Requests are told to try again; what was drawn meanwhile is written when it is back.
    """
    lasting = {**environ, "PICTOR_LEASE_SECONDS": "60"}
    async with inference_in(lasting, ScriptedExecutor()) as service:
        job = await service.create()
        await service.in_state(job.name, Job.STATE_RUNNING)
        postgres.stop()
        try:
            service.executor.gate.set()
            await asyncio.sleep(1)
            with pytest.raises(Unavailable) as away:
                await service.create()
        finally:
            postgres.start()
        ended = await service.ended(job.name)
        following = await service.ended((await service.create()).name)

    assert away.value.reason == reasons.ERROR_REASON_SERVICE_UNAVAILABLE
    assert away.value.retry_after_seconds
    assert (ended.state, ended.attempt_count) == (Job.STATE_SUCCEEDED, 1)
    assert following.state == Job.STATE_SUCCEEDED


async def test_a_process_without_its_database_gives_its_attempts_up(environ, postgres):
    """
    After the lease others may have begun them: the device stops, and the job runs again.
    """
    async with inference_in(environ, ScriptedExecutor()) as service:
        job = await service.create()
        await service.in_state(job.name, Job.STATE_RUNNING)
        renewed = list(service.executor.renewed)
        postgres.stop()
        try:
            async with asyncio.timeout(LEASE_SECONDS + 2):
                while not service.executor.stopped:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        finally:
            postgres.start()
        service.executor.gate.set()
        ended = await service.ended(job.name)

    assert all(0 < seconds <= LEASE_SECONDS for seconds in renewed)
    assert ended.state == Job.STATE_SUCCEEDED
    # It knew, so the attempt does not count.
    assert ended.attempt_count == 1
