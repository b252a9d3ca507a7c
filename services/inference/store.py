"""
Where jobs lie: one row a job, and one row for each change of its state.

A job's revision counts the changes of its state, and every write names the revision that it
changes. So the revision is the fencing token: an attempt whose job was canceled, or taken from it,
holds an old revision, and its write changes nothing.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import stamina
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    and_,
    delete,
    func,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pictor.inference.v1 import job_pb2
from services.database import open_database

AWAY_SECONDS = 60.0

TABLES = MetaData()

JOBS = Table(
    "jobs",
    TABLES,
    # The order of admission.
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("account", String(64), nullable=False),
    Column("state", Integer, nullable=False),
    # The order of the queue: when the job was made, earlier or later by its priority.
    Column("rank_us", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    # The Job message without its progress.
    Column("message", LargeBinary, nullable=False),
    Index("jobs_by_account", "account", "sequence"),
    Index("jobs_by_state", "state", "rank_us", "sequence"),
)
EVENTS = Table(
    "job_events",
    TABLES,
    Column("name", String(64), primary_key=True),
    Column("revision", BigInteger, primary_key=True),
    Column("state", Integer, nullable=False),
    Column("event_us", BigInteger, nullable=False),
)
OUTBOX = Table(
    "outbox",
    TABLES,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("job", String(64), nullable=False),
    Column("topic", String(20), nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("due_us", BigInteger, nullable=False),
    Column("create_us", BigInteger, nullable=False),
    Index("outbox_by_time", "due_us", "sequence"),
    Index("outbox_by_job", "job"),
)
DELIVERIES = Table(
    "webhook_deliveries",
    TABLES,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("account", String(64), nullable=False),
    Column("job", String(64), nullable=False),
    Column("url", String(4096), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("status_code", Integer, nullable=False),
    Column("error", String(200), nullable=False),
    Column("send_us", BigInteger, nullable=False),
    Column("duration_us", BigInteger, nullable=False),
    Index("deliveries_by_account", "account", "sequence"),
    Index("deliveries_by_job", "job", "sequence"),
    Index("deliveries_by_time", "send_us"),
)
# Topics of the outbox: spend what is held for a job, give it back, tell its webhook.
CAPTURE, RELEASE, WEBHOOK = "capture", "release", "webhook"

QUEUE = (JOBS.c.rank_us, JOBS.c.sequence)
# What one step of priority is worth, in waiting: nobody waits for ever behind more important jobs.
PRIORITY_US = 60_000_000


class Event(NamedTuple):
    """One change of a job's state."""

    revision: int
    state: job_pb2.Job.State.ValueType
    event_time: Timestamp


class OutboxMessage(NamedTuple):
    """
    Something to be told after a job has ended.

    Attributes:
        topic: What it is about: CAPTURE, RELEASE or WEBHOOK.
        attempt_count: How often it was tried to deliver it.
        due_us: When to try next, in microseconds since the epoch.
        create_us: When the job ended.
    """

    sequence: int
    job: str
    topic: str
    attempt_count: int
    due_us: int
    create_us: int


class Delivery(NamedTuple):
    """
    One attempt to tell a webhook of a job's end.

    Attributes:
        status_code: Of the answer; 0 where there was none.
        error: Why there was none.
        send_us: In microseconds since the epoch.
        duration_us: Until the answer, in microseconds.
    """

    account: str
    job: str
    url: str
    attempt: int
    status_code: int
    error: str
    send_us: int
    duration_us: int


class JobStore:
    """
    Reads and writes jobs.

    Args:
        engine: An open database with this module's tables.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @classmethod
    async def open(cls, url: str) -> "JobStore":
        """Open the database at a SQLAlchemy URL."""
        return cls(await open_database(url, TABLES))

    async def close(self) -> None:
        """Give the connections back."""
        await self._engine.dispose()

    async def insert(self, job: job_pb2.Job) -> bool:
        """Make a job durable, with its first event; False if there is one of this name."""
        try:
            async with self._engine.begin() as connection:
                await connection.execute(
                    insert(JOBS).values(name=job.name, account=job.account, **_values(job))
                )
                await _add_event(connection, job)
        except IntegrityError:
            return False
        return True

    @stamina.retry(on=OperationalError, attempts=None, timeout=AWAY_SECONDS, wait_max=2.0)
    async def change(self, job: job_pb2.Job) -> bool:
        """
        Write a job whose revision the caller has counted up by one, with the event.

        Tried again for a minute while the database is locked or away: what was drawn is not lost.

        Returns:
            False if the stored revision is not the one before; nothing is changed then.
        """
        async with self._engine.begin() as connection:
            written = await connection.execute(
                update(JOBS)
                .where(and_(JOBS.c.name == job.name, JOBS.c.revision == job.revision - 1))
                .values(**_values(job))
            )
            if written.rowcount != 1:
                return False
            await _add_event(connection, job)
            await _add_messages(connection, job)
        return True

    async def get(self, name: str) -> job_pb2.Job | None:
        """Read one job."""
        async with self._engine.connect() as connection:
            message = await connection.scalar(select(JOBS.c.message).where(JOBS.c.name == name))
        return job_pb2.Job.FromString(message) if message is not None else None

    async def page(
        self,
        account: str | None,
        states: Sequence[job_pb2.Job.State.ValueType],
        before: int | None,
        count: int,
    ) -> list[tuple[int, job_pb2.Job]]:
        """
        Read jobs, newest first, each with its sequence number.

        Args:
            account: Whose jobs; None for everybody's.
            states: Which states; empty for all.
            before: Only jobs with a smaller sequence number; None for all.
            count: At most this many.
        """
        query = select(JOBS.c.sequence, JOBS.c.message).order_by(JOBS.c.sequence.desc())
        if account is not None:
            query = query.where(JOBS.c.account == account)
        if states:
            query = query.where(JOBS.c.state.in_({int(state) for state in states}))
        if before is not None:
            query = query.where(JOBS.c.sequence < before)
        async with self._engine.connect() as connection:
            rows = await connection.execute(query.limit(count))
        return [(row.sequence, job_pb2.Job.FromString(row.message)) for row in rows]

    async def in_state(self, state: job_pb2.Job.State.ValueType, count: int) -> list[job_pb2.Job]:
        """Read the first jobs in a state, in the order of the queue."""
        query = select(JOBS.c.message).where(JOBS.c.state == state).order_by(*QUEUE)
        async with self._engine.connect() as connection:
            rows = await connection.execute(query.limit(count))
        return [job_pb2.Job.FromString(row.message) for row in rows]

    async def queue_position(self, name: str) -> int:
        """Count the queued jobs whose turn comes before this one's."""
        own = select(*QUEUE).where(JOBS.c.name == name).subquery()
        queued = JOBS.c.state == job_pb2.Job.STATE_QUEUED
        earlier = tuple_(*QUEUE) < tuple_(own.c.rank_us, own.c.sequence)
        query = select(func.count()).select_from(JOBS, own).where(and_(queued, earlier))
        async with self._engine.connect() as connection:
            return int(await connection.scalar(query) or 0)

    async def events(self, name: str, after_revision: int) -> list[Event]:
        """Read the changes of a job's state behind a revision, in order."""
        query = (
            select(EVENTS)
            .where(and_(EVENTS.c.name == name, EVENTS.c.revision > after_revision))
            .order_by(EVENTS.c.revision)
        )
        async with self._engine.connect() as connection:
            rows = await connection.execute(query)
        return [Event(row.revision, row.state, _time(row.event_us)) for row in rows]

    async def due_messages(
        self, topics: Collection[str], now_us: int, count: int
    ) -> list[OutboxMessage]:
        """Read the messages whose time has come, those that wait longest first."""
        query = select(OUTBOX).where(and_(OUTBOX.c.due_us <= now_us, OUTBOX.c.topic.in_(topics)))
        query = query.order_by(OUTBOX.c.due_us, OUTBOX.c.sequence).limit(count)
        async with self._engine.connect() as connection:
            return [OutboxMessage(*row) for row in await connection.execute(query)]

    async def take_message(self, message: OutboxMessage, until_us: int) -> bool:
        """Take a message until then, counting an attempt; False if somebody else has it."""
        unchanged = and_(OUTBOX.c.sequence == message.sequence, OUTBOX.c.due_us == message.due_us)
        async with self._engine.begin() as connection:
            taken = await connection.execute(
                update(OUTBOX)
                .where(unchanged)
                .values(due_us=until_us, attempt_count=OUTBOX.c.attempt_count + 1)
            )
        return bool(taken.rowcount)

    async def postpone_message(self, sequence: int, due_us: int) -> None:
        """Say when to try again."""
        this = OUTBOX.c.sequence == sequence
        async with self._engine.begin() as connection:
            await connection.execute(update(OUTBOX).where(this).values(due_us=due_us))

    async def drop_message(self, sequence: int) -> None:
        """Forget a message, which was delivered."""
        async with self._engine.begin() as connection:
            await connection.execute(delete(OUTBOX).where(OUTBOX.c.sequence == sequence))

    async def is_to_be_settled(self, job: str) -> bool:
        """Tell whether a message about a job's hold is still to be delivered."""
        settling = OUTBOX.c.topic.in_((CAPTURE, RELEASE))
        query = select(func.count()).where(and_(OUTBOX.c.job == job, settling))
        async with self._engine.connect() as connection:
            return bool(await connection.scalar(query))

    async def add_delivery(self, delivery: Delivery, forget_us: int) -> None:
        """Write down a delivery, and forget those sent before *forget_us*."""
        async with self._engine.begin() as connection:
            await connection.execute(insert(DELIVERIES).values(delivery._asdict()))
            await connection.execute(delete(DELIVERIES).where(DELIVERIES.c.send_us < forget_us))

    async def deliveries(
        self, account: str | None, job: str, before: int | None, count: int
    ) -> list[tuple[int, Delivery]]:
        """
        Read deliveries, newest first, each with its sequence number.

        Args:
            account: Whose; None for everybody's.
            job: Of which job; empty for all.
            before: Only those with a smaller sequence number; None for all.
            count: At most this many.
        """
        query = select(DELIVERIES).order_by(DELIVERIES.c.sequence.desc())
        if account is not None:
            query = query.where(DELIVERIES.c.account == account)
        if job:
            query = query.where(DELIVERIES.c.job == job)
        if before is not None:
            query = query.where(DELIVERIES.c.sequence < before)
        async with self._engine.connect() as connection:
            rows = await connection.execute(query.limit(count))
            return [(row.sequence, Delivery(*row[1:])) for row in rows]

    async def count_before(self, rank_us: int) -> int:
        """Count the queued jobs whose turn comes before that of one with this rank."""
        queued = JOBS.c.state == job_pb2.Job.STATE_QUEUED
        query = select(func.count()).where(and_(queued, JOBS.c.rank_us <= rank_us))
        async with self._engine.connect() as connection:
            return int(await connection.scalar(query) or 0)


async def _add_messages(connection: AsyncConnection, job: job_pb2.Job) -> None:
    """Write down what is to be told of a job that has ended."""
    if job.WhichOneof("outcome") is None:
        return
    now = Timestamp()
    now.GetCurrentTime()
    moment = now.ToMicroseconds()
    succeeded = job.state == job_pb2.Job.STATE_SUCCEEDED
    topics = [CAPTURE if succeeded else RELEASE] if job.price_microcredits else []
    topics += [WEBHOOK] if job.webhook_url else []
    for topic in topics:
        row = {"job": job.name, "topic": topic, "attempt_count": 0}
        await connection.execute(insert(OUTBOX).values(**row, due_us=moment, create_us=moment))


async def _add_event(connection: AsyncConnection, job: job_pb2.Job) -> None:
    now = Timestamp()
    now.GetCurrentTime()
    await connection.execute(
        insert(EVENTS).values(
            name=job.name,
            revision=job.revision,
            state=int(job.state),
            event_us=now.ToMicroseconds(),
        )
    )


def rank_us(job: job_pb2.Job) -> int:
    """Return a job's place in the queue: when it was made, earlier or later by its priority."""
    return job.create_time.ToMicroseconds() - job.priority * PRIORITY_US


def _values(job: job_pb2.Job) -> dict[str, object]:
    return {
        "state": int(job.state),
        "rank_us": rank_us(job),
        "revision": job.revision,
        "message": job.SerializeToString(deterministic=True),
    }


def _time(microseconds: int) -> Timestamp:
    time = Timestamp()
    time.FromMicroseconds(microseconds)
    return time
