import asyncio
import time

import pytest

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, inference_service_pb2, job_pb2
from services.inference.store import JobStore, Key
from services.rpc.errors import InvalidRequest
from services.rpc.principals import acting_for
from tests.services.inference.scripted import ALICE, BOB

Job = job_pb2.Job


async def create(service, key="k", account=ALICE, *, fingerprint=b"", **fields):
    fields = {"model": "pictor/shapes", "prompt": "a red circle", **fields}
    validate_only = fields.pop("validate_only", False)
    request = inference_service_pb2.CreateJobRequest(
        generation=generation_pb2.Generation(**fields),
        idempotency_key=key,
        request_fingerprint=fingerprint,
        validate_only=validate_only,
    )
    with acting_for(account):
        return await service.stub.CreateJob(request)


async def test_the_same_key_gives_the_same_job(service):
    """
    However often, and also when the job has ended.
    """
    first = await create(service)
    second = await create(service)
    service.executor.gate.set()
    await service.ended(first.name)
    third = await create(service)

    assert {first.name, second.name, third.name} == {first.name}
    assert [first.replayed, second.replayed, third.replayed] == [False, True, True]
    assert third.state == Job.STATE_SUCCEEDED
    assert len(await service.jobs()) == 1


async def test_of_many_twins_at_once_one_makes_a_job(service):
    """
    All of them get that one.
    """
    jobs = await asyncio.gather(*(create(service) for _ in range(20)))

    assert len({job.name for job in jobs}) == 1
    assert sum(not job.replayed for job in jobs) == 1


async def test_a_key_with_another_request_is_refused(service):
    """
    A key stands for one request; the first one's job is not shown to who sends another.
    """
    await create(service)
    with pytest.raises(InvalidRequest, match="came with another request") as refused:
        await create(service, prompt="a blue square")

    assert refused.value.reason == reasons.ERROR_REASON_IDEMPOTENCY_KEY_REUSED
    assert len(await service.jobs()) == 1


async def test_what_tells_requests_apart_may_be_given(service):
    """
    The caller knows what was asked better than the message that became of it.
    """
    first = await create(service, fingerprint=b"one")
    same = await create(service, fingerprint=b"one", prompt="in other words")
    with pytest.raises(InvalidRequest, match="another request"):
        await create(service, fingerprint=b"two")

    assert same.name == first.name


async def test_a_refused_request_leaves_its_key_unused(service):
    """
    Whoever mends the request may send it with the same key.
    """
    with pytest.raises(InvalidRequest):
        await create(service, step_count=100_000)
    made = await create(service)

    assert not made.replayed


async def test_a_key_is_the_accounts_own(service):
    """
    Another account's same word is another key.
    """
    alice, bob = await create(service), await create(service, account=BOB)

    assert alice.name != bob.name
    assert not bob.replayed


async def test_a_rehearsal_finds_the_job_that_was_made(service):
    """
    So that nothing is stored on the way to a job that is there already.
    """
    nothing = await create(service, validate_only=True)
    made = await create(service)
    found = await create(service, validate_only=True)

    assert not nothing.name
    assert (found.name, found.replayed) == (made.name, True)


@pytest.mark.parametrize("fields", [{"key": "k" * 256}, {"fingerprint": b"f" * 65}])
async def test_a_key_has_bounds(service, fields):
    """
    The error says how long it is and may be; nothing is queued.
    """
    with pytest.raises(InvalidRequest, match="at most"):
        await create(service, **fields)
    assert not await service.jobs()


async def test_a_retry_may_be_repeated(service):
    """
    One job is drawn once more, not two.
    """
    job = await service.create()
    await service.cancel(job.name)
    request = inference_service_pb2.RetryJobRequest(name=job.name, idempotency_key="again")
    with acting_for(ALICE):
        first = await service.stub.RetryJob(request)
        second = await service.stub.RetryJob(request)

    assert first.name == second.name
    assert (first.retry_of, second.replayed) == (job.name, True)


async def test_keys_are_forgotten_after_a_day(database_url):
    """
    Not before, and never the jobs.
    """
    store = await JobStore.open(database_url)
    now = int(time.time())
    for name, age in (("old", 90_000), ("new", 80_000)):
        job = Job(name=f"jobs/{name}", account=ALICE, state=Job.STATE_QUEUED, revision=1)
        job.create_time.FromSeconds(now - age)
        await store.insert(job, Key(name, b"f"))
    await store.forget_keys((now - 86_400) * 1_000_000)
    found = [await store.key(ALICE, name) for name in ("old", "new")]
    jobs = [await store.get(f"jobs/{name}") for name in ("old", "new")]
    await store.close()

    assert found == [None, (b"f", "jobs/new")]
    assert all(jobs)
