import pytest

from pictor.inference.v1 import job_pb2
from services.inference.store import JobStore

Job = job_pb2.Job
SECOND_US = 1_000_000
START = 1_800_000_000


@pytest.fixture
async def queue(database_url):
    store = await JobStore.open(database_url)
    yield Queue(store)
    await store.close()


class Queue:
    """Puts jobs into a queue at chosen seconds, and takes them out in its order."""

    def __init__(self, store):
        self.store = store

    async def add(self, account, *names, at=0.0, work=10, priority=0):
        for name in names:
            job = Job(
                name=f"jobs/{name}",
                account=f"accounts/{account}",
                state=Job.STATE_QUEUED,
                revision=1,
                priority=priority,
            )
            job.create_time.FromMicroseconds(int((START + at) * SECOND_US))
            assert await self.store.insert(job, work_us=work * SECOND_US)

    async def take(self):
        def run(job):
            job.state, job.revision = Job.STATE_RUNNING, job.revision + 1
            return job

        return (await self.store.lease(run)).name.removeprefix("jobs/")

    async def names(self):
        return [name.removeprefix("jobs/") for name in await self.store.queue(100)]


async def test_the_jobs_of_one_account_keep_their_order(queue):
    """
    Whatever work they are.
    """
    await queue.add("a", "1", "2", at=0)
    await queue.add("a", "3", at=1, work=1)
    await queue.add("a", "4", at=500)

    assert await queue.names() == ["1", "2", "3", "4"]


async def test_a_greedy_account_holds_nobody_up(queue):
    """
    Who comes later with one job waits for one job of the other, not for its thousand.
    """
    await queue.add("greedy", *(f"g{k}" for k in range(50)), at=0)
    assert await queue.take() == "g0"
    await queue.add("modest", "m", at=5)
    taken = [await queue.take() for _ in range(3)]

    assert taken.index("m") <= 1


async def test_accounts_that_wait_take_turns(queue):
    """
    One each, for as long as both have some.
    """
    await queue.add("a", *(f"a{k}" for k in range(4)), at=0)
    await queue.add("b", *(f"b{k}" for k in range(4)), at=1)

    order = await queue.names()

    assert [name[0] for name in order] in (list("abababab"), list("aabababb"))
    assert sorted(order[:4]) == ["a0", "a1", "b0", "b1"]


async def test_turns_are_measured_in_work(queue):
    """
    Who asks for larger pictures gets fewer of them in the same time.
    """
    await queue.add("large", *(f"L{k}" for k in range(4)), at=0, work=30)
    await queue.add("small", *(f"s{k}" for k in range(12)), at=1, work=10)

    first = (await queue.names())[:8]

    assert sum(name[0] == "L" for name in first) in (2, 3)


async def test_who_waited_long_is_not_put_behind_again_and_again(queue):
    """
    New accounts go beside those that wait, not before them.
    """
    await queue.add("patient", "p0", "p1", at=0)
    for k in range(5):
        await queue.add(f"new{k}", f"n{k}", at=100 + k)

    assert (await queue.names())[0] == "p0"
    assert (await queue.names()).index("p1") <= 6


async def test_an_idle_account_saves_nothing_up(queue):
    """
    A share that was not used is no claim to more of them later.
    """
    await queue.add("a", "a0", at=0)
    assert await queue.take() == "a0"
    await queue.add("b", *(f"b{k}" for k in range(3)), at=1000)
    await queue.add("a", *(f"a{k}" for k in range(1, 4)), at=1000)

    assert sorted((await queue.names())[:4]) == ["a1", "a2", "b0", "b1"]


async def test_priorities_stand_above_turns(queue):
    """
    Within the minute that a step of it is worth; turns are taken within a priority.
    """
    await queue.add("a", "a0", "a1", at=0, priority=1)
    await queue.add("b", "b0", at=0)
    await queue.add("c", "c0", at=1, priority=1)

    assert await queue.names() == ["a0", "c0", "a1", "b0"]
