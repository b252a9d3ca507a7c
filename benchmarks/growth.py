"""
Growth: what jobs cost with 100,000 of them in the table, over the same with 100.

A tenth waits in the queue, the others have ended, of fifty accounts. Each is done through the job
service's own domain and store, on SQLite and on PostgreSQL, the two tables in turn.
"""

import asyncio
import contextlib
import pathlib
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from sqlalchemy import insert

from benchmarks.report import NotMeasurable, Row
from pictor.inference.v1 import generation_pb2, job_pb2
from services.database import Database, open_database
from services.inference.hub import Hub
from services.inference.jobs import Jobs
from services.inference.store import EVENTS, JOBS, PRIORITY_US, JobStore
from services.inference.watching import Watching
from services.rpc.logs import configure
from services.rpc.principals import acting_for
from tests.postgres import NotInstalledError, running_postgres

FEW, MANY = 100, 100_000
ACCOUNTS = 50
QUEUED_SHARE = 10
REPEATS = 60
BATCH = 1000
MOST = 1.3
DAY_US = 86_400_000_000

Measured = Callable[["Table"], Awaitable[float]]


class Table:
    """
    The job service over a table of some size.

    Args:
        database: Open, and empty.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store, hub = JobStore(database), Hub()
        self.jobs = Jobs(self.store, hub)
        self.watching = Watching(self.jobs, self.store, hub)

    async def fill(self, count: int) -> None:
        """Put jobs into the table, older than any that will be made."""
        for start in range(0, count, BATCH):
            made = [_old(number) for number in range(start, min(count, start + BATCH))]
            async with self.database.begin() as connection:
                await connection.execute(insert(JOBS), [job for job, _ in made])
                await connection.execute(insert(EVENTS), [one for _, all_ in made for one in all_])

    async def create(self) -> float:
        """Time the making of a job."""
        started = time.perf_counter()
        job = await self._create()
        seconds = time.perf_counter() - started
        await self.jobs.cancel(job.name)
        return seconds

    async def lease(self) -> float:
        """Time the leasing of the first job of the queue, and put it back."""
        started = time.perf_counter()
        job = await self.jobs.start(lambda _: True)
        seconds = time.perf_counter() - started
        assert job
        await self.jobs.release(job)
        return seconds

    async def watch(self) -> float:
        """Time the watch of a job that has ended."""
        job = await self.jobs.cancel((await self._create()).name)
        started = time.perf_counter()
        async for _ in self.watching.watch(job.name, 0, previews=False):
            pass
        return time.perf_counter() - started

    async def list(self) -> float:
        """Time a page of an account's twenty newest jobs."""
        started = time.perf_counter()
        await self.jobs.page([], 20, "")
        return time.perf_counter() - started

    async def _create(self) -> job_pb2.Job:
        generation = generation_pb2.Generation(model="models/a", prompt="a red circle")
        return await self.jobs.create(generation, dialect="", served_by="models/a", receipt=[])


def measure() -> list[Row]:
    """Time each on both databases."""
    configure("error", "json")
    return [row for kind, urls in _databases() for row in asyncio.run(_measured(kind, urls))]


async def _measured(kind: str, url: Callable[[], Awaitable[str]]) -> list[Row]:
    async with _table(await url(), FEW) as few, _table(await url(), MANY) as many:
        rows = []
        for name in ("create", "lease", "watch", "list"):
            times: dict[Table, list[float]] = {few: [], many: []}
            with acting_for("accounts/0"):
                for _ in range(REPEATS):
                    for table in (few, many):
                        times[table].append(await getattr(table, name)())
            claim = f"{kind}: {name}, {MANY:,} jobs over {FEW}"
            rows.append(Row(claim, times[many], times[few], MOST))
        return rows


@contextlib.asynccontextmanager
async def _table(url: str, count: int) -> AsyncIterator[Table]:
    database = await open_database(url, "inference")
    table = Table(database)
    try:
        await table.fill(count)
        yield table
    finally:
        await database.close()


def _databases() -> Iterator[tuple[str, Callable[[], Awaitable[str]]]]:
    with tempfile.TemporaryDirectory() as folder:

        async def sqlite() -> str:
            return f"sqlite+aiosqlite:///{pathlib.Path(folder) / uuid.uuid4().hex}"

        yield "SQLite", sqlite
    try:
        with running_postgres(durable=True) as cluster:
            yield "PostgreSQL", cluster.database
    except NotInstalledError:
        raise NotMeasurable("PostgreSQL is not installed") from None


def _old(number: int) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Return the row of a job that was made yesterday, and those of its events."""
    queued = number % QUEUED_SHARE == 0
    state = job_pb2.Job.STATE_QUEUED if queued else job_pb2.Job.STATE_SUCCEEDED
    job = job_pb2.Job(
        name=f"jobs/{uuid.uuid4()}",
        account=f"accounts/{number % ACCOUNTS}",
        state=state,
        revision=1 if queued else 3,
        generation=generation_pb2.Generation(model="models/a", prompt="a red circle " * 10),
    )
    moment = int(time.time() * 1e6) - DAY_US
    job.create_time.FromMicroseconds(moment)
    row = {
        "name": job.name,
        "account": job.account,
        "state": int(state),
        "rank_us": moment - job.priority * PRIORITY_US,
        "revision": job.revision,
        "owner": "",
        "message": job.SerializeToString(),
    }
    events = [
        {"name": job.name, "revision": revision, "state": int(state), "event_us": moment}
        for revision in range(1, job.revision + 1)
    ]
    return row, events
