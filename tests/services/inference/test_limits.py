import asyncio
import contextlib

import pytest

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, inference_service_pb2, job_pb2
from services.inference.store import Bounds, FullError, JobStore
from services.rpc.errors import Exhausted
from services.rpc.limits import Limits
from services.rpc.principals import Principal, acting_for, become
from tests.services.inference.scripted import ALICE, BOB, ScriptedExecutor, inference_in

Job = job_pb2.Job


@contextlib.asynccontextmanager
async def limited(environ, **settings):
    async with inference_in({**environ, **settings}, ScriptedExecutor()) as service:
        yield service


async def create_as(service, principal):
    """Make a job as the gateway does for a caller with a key."""
    request = inference_service_pb2.CreateJobRequest(
        generation=generation_pb2.Generation(model="pictor/shapes", prompt="a")
    )

    async def asked():
        become(principal)
        return await service.stub.CreateJob(request)

    return await asyncio.create_task(asked())


def full(limit, of):
    return {"limit": str(limit), "of": of}


async def test_an_account_has_so_many_unfinished_jobs(environ):
    """
    One more is refused with RetryInfo, whether the others run or wait, until one has ended.
    """
    async with limited(environ, PICTOR_ACCOUNT_JOBS="3") as service:
        jobs = [await service.create() for _ in range(3)]
        await service.in_state(jobs[0].name, Job.STATE_RUNNING)
        with pytest.raises(Exhausted, match="3 jobs that have not ended") as refused:
            await service.create()
        other = await service.create(BOB)
        await service.cancel(jobs[1].name)
        again = await service.create()

    assert refused.value.reason == reasons.ERROR_REASON_QUEUE_FULL
    assert refused.value.metadata == full(3, "account")
    assert refused.value.retry_after_seconds >= 1
    assert other.name
    assert again.name


async def test_an_account_has_so_many_waiting_jobs(environ):
    """
    What runs does not count; what waits does.
    """
    async with limited(environ, PICTOR_ACCOUNT_QUEUE="2") as service:
        first = await service.create()
        await service.in_state(first.name, Job.STATE_RUNNING)
        for _ in range(2):
            await service.create()
        with pytest.raises(Exhausted, match="2 jobs that wait"):
            await service.create()
        count = len(await service.jobs())

    assert count == 3


async def test_everybody_shares_one_queue(environ):
    """
    Its bound holds for all accounts together.
    """
    async with limited(environ, PICTOR_QUEUE="2") as service:
        first = await service.create()
        await service.in_state(first.name, Job.STATE_RUNNING)
        for account in (ALICE, BOB):
            await service.create(account)
        with pytest.raises(Exhausted, match="2 jobs wait already") as refused:
            await service.create(BOB)

    assert refused.value.metadata == full(2, "everybody")


async def test_many_at_once_do_not_exceed_the_bound(environ):
    """
    Whoever comes at the same moment is counted one after the other.
    """
    async with limited(environ, PICTOR_ACCOUNT_JOBS="5") as service:
        answers = await asyncio.gather(
            *(service.create() for _ in range(30)), return_exceptions=True
        )
        made = [answer for answer in answers if isinstance(answer, Job)]
        stored = await service.jobs()

    assert len(made) == len(stored) == 5
    assert all(isinstance(a, Exhausted) for a in answers if a not in made)


async def test_an_account_may_have_bounds_of_its_own(environ):
    """
    They come with the caller and win over the settings; 0 lifts a bound.
    """
    scopes = frozenset({"inference"})
    tight = Principal(ALICE, scopes, limits=Limits(unfinished_jobs=1))
    free = Principal(BOB, scopes, limits=Limits(unfinished_jobs=0))
    async with limited(environ, PICTOR_ACCOUNT_JOBS="2") as service:
        await create_as(service, tight)
        with pytest.raises(Exhausted, match="1 jobs that have not ended"):
            await create_as(service, tight)
        for _ in range(4):
            await create_as(service, free)


async def test_a_rehearsal_is_refused_too(environ):
    """
    So that nothing is uploaded for a job that there is no room for.
    """
    request = inference_service_pb2.CreateJobRequest(
        generation=generation_pb2.Generation(model="pictor/shapes", prompt="a"), validate_only=True
    )
    async with limited(environ, PICTOR_ACCOUNT_JOBS="1") as service:
        await service.create()
        with acting_for(ALICE), pytest.raises(Exhausted):
            await service.stub.CreateJob(request)


async def test_a_retry_needs_room_too(environ):
    """
    It is one more job.
    """
    async with limited(environ, PICTOR_ACCOUNT_JOBS="1") as service:
        job = await service.create()
        await service.cancel(job.name)
        await service.create()
        request = inference_service_pb2.RetryJobRequest(name=job.name)
        with acting_for(ALICE), pytest.raises(Exhausted):
            await service.stub.RetryJob(request)


async def test_a_repeated_request_needs_no_room(environ):
    """
    What a key has made is shown again, however full it is.
    """
    request = inference_service_pb2.CreateJobRequest(
        generation=generation_pb2.Generation(model="pictor/shapes", prompt="a"),
        idempotency_key="k",
    )
    async with limited(environ, PICTOR_ACCOUNT_JOBS="1") as service:
        with acting_for(ALICE):
            first = await service.stub.CreateJob(request)
            again = await service.stub.CreateJob(request)

    assert again.name == first.name


async def test_the_bound_holds_in_the_database_itself(database_url):
    """
    Whatever each process believes: of those that insert at once, no more than fit succeed.
    """
    stores = [await JobStore.open(database_url) for _ in range(2)]

    async def insert(number):
        job = Job(name=f"jobs/{number}", account=ALICE, state=Job.STATE_QUEUED, revision=1)
        job.create_time.GetCurrentTime()
        return await stores[number % 2].insert(job, bounds=Bounds(account_unfinished=5))

    answers = await asyncio.gather(
        *(insert(number) for number in range(20)), return_exceptions=True
    )
    queue = await stores[0].queue(100)
    for store in stores:
        await store.close()

    assert len(queue) == sum(answer is True for answer in answers) == 5
    assert all(isinstance(answer, FullError) for answer in answers if answer is not True)
