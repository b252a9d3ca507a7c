"""Jobs that end early, with what there is; and what can be seen of them before."""

import asyncio

import pytest

from pictor.inference.v1 import inference_service_pb2, job_pb2
from services.rpc.errors import NotFound
from services.rpc.principals import acting_for
from tests.services.inference.scripted import ALICE, BOB


async def finish(service, name, account=ALICE):
    with acting_for(account):
        request = inference_service_pb2.FinishJobRequest(name=name)
        return await service.stub.FinishJob(request)


async def started(service, name):
    async with asyncio.timeout(10):
        async for message in service.watch(name):
            if message.state == job_pb2.Job.STATE_RUNNING:
                return


async def test_a_running_job_ends_with_its_result(service):
    """
    The executor is told that what there is is enough; the job has succeeded.
    """
    job = await service.create()
    await started(service, job.name)
    await finish(service, job.name)

    ended = await service.ended(job.name)
    assert service.executor.finished == [job.name]
    assert ended.state == job_pb2.Job.STATE_SUCCEEDED


async def test_a_queued_job_is_canceled(service):
    """
    There is nothing of it yet.
    """
    running = await service.create()
    await started(service, running.name)
    queued = await service.create()

    assert (await finish(service, queued.name)).state == job_pb2.Job.STATE_CANCELED
    service.executor.gate.set()
    await service.ended(running.name)


async def test_a_job_that_has_ended_stays_as_it_is(service):
    """
    Finishing it again is fine, and changes nothing.
    """
    service.executor.gate.set()
    job = await service.create()
    ended = await service.ended(job.name)

    assert (await finish(service, job.name)).revision == ended.revision
    assert not service.executor.finished


async def test_nobody_finishes_anothers_job(service):
    """
    It does not exist for them.
    """
    job = await service.create()
    with pytest.raises(NotFound):
        await finish(service, job.name, BOB)
    service.executor.gate.set()
    await service.ended(job.name)


async def test_samplers_are_listed_with_their_schedules(service):
    """
    By the names that a request may use.
    """
    with acting_for(ALICE):
        known = await service.stub.ListSamplers(inference_service_pb2.ListSamplersRequest())

    euler = next(one for one in known.samplers if one.name == "Euler")
    assert euler.scheduler == "EulerDiscreteScheduler"
    assert set(euler.schedules) <= {schedule.name for schedule in known.schedules}
    assert "SGM Uniform" in {schedule.label for schedule in known.schedules}
