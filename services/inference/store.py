"""
Where jobs lie: one row a job, one row for each change of its state, one row for each process of
the service.

A job's revision counts the changes of its state, and every write names the revision that it
changes. So the revision is the fencing token: an attempt whose job was canceled, or taken from it,
holds an old revision, and its write changes nothing.
"""

import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    and_,
    delete,
    false,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from pictor.inference.v1 import job_pb2
from services.database import Database, exclude, notify, open_database
from services.rpc.crash import crash_point
from services.rpc.patience import outlast

# Nobody is told more exactly how many go before; counting all would take longer the more there are.
COUNTED_POSITIONS = 1000
CHANNEL = "pictor_jobs"

TABLES = MetaData()
# SQLite counts rows by itself only in what it calls an INTEGER.
SEQUENCE = BigInteger().with_variant(Integer, "sqlite")

JOBS = Table(
    "jobs",
    TABLES,
    # The order of admission.
    Column("sequence", SEQUENCE, primary_key=True, autoincrement=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("account", String(64), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", Integer, nullable=False),
    # The order of the queue: when the job's turn begins, earlier or later by its priority.
    Column("rank_us", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    # Where its turn ends within its priority, see ``_turn``.
    Column("turn_end_us", BigInteger, nullable=False),
    # Which process of the service runs it; empty unless it runs.
    Column("owner", String(40), nullable=False),
    # What lists are narrowed by, and what is searched; all of it stands in the message too.
    Column("model", String(512), nullable=False),
    Column("dialect", String(63), nullable=False),
    Column("create_us", BigInteger, nullable=False),
    Column("prompt", Text, nullable=False),
    # NULL until it has ended.
    Column("finish_us", BigInteger),
    # The Job message without its progress.
    Column("message", LargeBinary, nullable=False),
    Index("jobs_by_account", "account", "sequence"),
    Index("jobs_by_account_state", "account", "state"),
    Index("jobs_by_turn", "state", "priority", "account", "turn_end_us"),
    Index("jobs_by_priority", "state", "priority", "rank_us"),
    Index("jobs_by_state", "state", "rank_us", "sequence"),
    Index("jobs_by_end", "finish_us"),
)
EVENTS = Table(
    "job_events",
    TABLES,
    Column("name", String(64), primary_key=True),
    Column("revision", BigInteger, primary_key=True),
    Column("state", Integer, nullable=False),
    Column("event_us", BigInteger, nullable=False),
)
KEYS = Table(
    "idempotency_keys",
    TABLES,
    Column("account", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("job", String(64), nullable=False),
    Column("create_us", BigInteger, nullable=False),
    Index("idempotency_keys_by_age", "create_us"),
)
INPUTS = Table(
    "job_inputs",
    TABLES,
    Column("job", String(64), primary_key=True),
    Column("asset", String(64), primary_key=True),
    Index("job_inputs_by_asset", "asset"),
)
DISCARDED = Table(
    "discarded_assets",
    TABLES,
    # Of jobs that were deleted; storage is still to be asked.
    Column("asset", String(64), primary_key=True),
    Column("account", String(64), nullable=False),
)
PROCESSES = Table(
    "inference_processes",
    TABLES,
    Column("id", String(40), primary_key=True),
    # Counts its heartbeats; who sees it stand still knows that the process is gone.
    Column("beat", BigInteger, nullable=False),
)
OUTBOX = Table(
    "outbox",
    TABLES,
    Column("sequence", SEQUENCE, primary_key=True, autoincrement=True),
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
    Column("sequence", SEQUENCE, primary_key=True, autoincrement=True),
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

QUEUED, RUNNING = int(job_pb2.Job.STATE_QUEUED), int(job_pb2.Job.STATE_RUNNING)
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


class Key(NamedTuple):
    """
    An idempotency key, and what it was used for.

    Attributes:
        key: As the account chose it; empty for none.
        fingerprint: Tells requests apart.
    """

    key: str = ""
    fingerprint: bytes = b""


NO_KEY = Key()


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


class Filter(NamedTuple):
    """
    Which jobs a list shows; what is empty or None narrows it by nothing.

    Attributes:
        models: Names.
        dialects: Each with all its routes.
        created_after_us, created_before_us: From one moment until before the other.
        prompt_contains: In capitals or not.
    """

    states: Collection[job_pb2.Job.State.ValueType] = ()
    models: Collection[str] = ()
    dialects: Collection[str] = ()
    created_after_us: int | None = None
    created_before_us: int | None = None
    prompt_contains: str = ""


ANY = Filter()


class Bounds(NamedTuple):
    """
    How many jobs there may be; 0 for any number.

    Attributes:
        account_unfinished: Of the account, queued and running.
        account_queued: Of the account, waiting.
        queued: Of everybody, waiting. Processes that admit at the same moment may exceed it.
    """

    account_unfinished: int = 0
    account_queued: int = 0
    queued: int = 0


UNBOUNDED = Bounds()


class FullError(Exception):
    """
    There are as many jobs as there may be.

    Attributes:
        bound: The name of the bound, a field of Bounds.
        limit: How many there may be.
    """

    def __init__(self, bound: str, limit: int) -> None:
        super().__init__(bound, limit)
        self.bound = bound
        self.limit = limit


class JobStore:
    """
    Reads and writes jobs.

    Args:
        database: Open, with this module's tables.

    Attributes:
        process: Names this process among those that share the database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.process = _new_process()

    @classmethod
    async def open(cls, url: str) -> "JobStore":
        """Open the database at a SQLAlchemy URL."""
        return cls(await open_database(url, "inference"))

    async def close(self) -> None:
        """Give the connections back."""
        await self._database.close()

    async def insert(
        self,
        job: job_pb2.Job,
        key: Key = NO_KEY,
        work_us: int = 0,
        bounds: Bounds = UNBOUNDED,
    ) -> bool:
        """
        Make a job durable, with its first event.

        Args:
            job: Is to be queued.
            key: Belongs to it from now on.
            work_us: How much of the account's share it takes.
            bounds: How many jobs there may be, this one included.

        Returns:
            False if there is one of this name, or the key is used.

        Raises:
            FullError: If there would be too many.
        """
        try:
            async with self._database.begin() as connection:
                if any(bounds[:2]):
                    # Where transactions see each other late, those of one account take turns.
                    await exclude(connection, f"jobs of {job.account}")
                begin = await _turn(connection, job)
                row = new_row(job, begin, work_us)
                await connection.execute(insert(JOBS).values(row | self._values(job)))
                if inputs := [{"job": job.name, "asset": asset} for asset in _inputs(job)]:
                    await connection.execute(insert(INPUTS), inputs)
                # Now that the row is there, no other can come in between.
                require_room(await _counts(connection, job.account, bounds), bounds)
                await self._add_event(connection, job)
                if key.key:
                    await _add_key(connection, job, key)
                crash_point("inference.before_admission")
        except IntegrityError:
            return False
        crash_point("inference.after_admission")
        return True

    async def counts(self, account: str, bounds: Bounds) -> Bounds:
        """Count what has a bound, each up to one more than that."""
        async with self._database.connect() as connection:
            return await _counts(connection, account, bounds)

    async def key(self, account: str, key: str) -> tuple[bytes, str] | None:
        """Read the fingerprint and the job of a key, if it was used."""
        query = select(KEYS.c.fingerprint, KEYS.c.job).where(
            and_(KEYS.c.account == account, KEYS.c.key == key)
        )
        async with self._database.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return (row.fingerprint, row.job) if row else None

    async def forget_keys(self, before_us: int) -> None:
        """Drop the keys that were used before a moment."""
        async with self._database.begin() as connection:
            await connection.execute(delete(KEYS).where(KEYS.c.create_us < before_us))

    async def change(self, job: job_pb2.Job) -> bool:
        """
        Write a job whose revision the caller has counted up by one, with the event.

        Tried again for a minute while the database is locked or away: what was drawn is not lost.

        Returns:
            False if the stored revision is not the one before; nothing is changed then.
        """
        return await outlast(lambda: self._change(job))

    async def lease(
        self, change: Callable[[job_pb2.Job], job_pb2.Job | None]
    ) -> job_pb2.Job | None:
        """
        Take the first job of the queue for this process, past those that others are taking.

        Args:
            change: Makes of it the job that runs, its revision counted up by one; None to let it
                lie.

        Returns:
            None if there is none, or it was let lie, or somebody was first.
        """
        first = (
            select(JOBS.c.message)
            .where(JOBS.c.state == job_pb2.Job.STATE_QUEUED)
            .order_by(*QUEUE)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        async with self._database.begin() as connection:
            message = await connection.scalar(first)
            running = change(job_pb2.Job.FromString(message)) if message is not None else None
            if running and await self._write(connection, running):
                return running
        return None

    async def running(self, count: int) -> list[tuple[str, job_pb2.Job]]:
        """Read jobs that run, in the order of the queue, each with the process that runs it."""
        query = select(JOBS.c.owner, JOBS.c.message).where(
            JOBS.c.state == job_pb2.Job.STATE_RUNNING
        )
        async with self._database.connect() as connection:
            rows = await connection.execute(query.order_by(*QUEUE).limit(count))
        return [(row.owner, job_pb2.Job.FromString(row.message)) for row in rows]

    async def beat(self) -> bool:
        """Tell the others that this process lives; False if they have given it up."""
        count = PROCESSES.c.beat + 1
        async with self._database.begin() as connection:
            told = await connection.execute(
                update(PROCESSES).where(PROCESSES.c.id == self.process).values(beat=count)
            )
        return told.rowcount == 1

    async def join(self, *, as_the_only_one: bool = False) -> None:
        """Begin to be one of the processes, under a new name; or the only one, from now on."""
        process = _new_process()
        async with self._database.begin() as connection:
            if as_the_only_one:
                await connection.execute(delete(PROCESSES))
            await connection.execute(insert(PROCESSES).values(id=process, beat=0))
        self.process = process

    async def forget(self, processes: Collection[str]) -> None:
        """Drop processes that are gone, or go."""
        async with self._database.begin() as connection:
            await connection.execute(delete(PROCESSES).where(PROCESSES.c.id.in_(list(processes))))

    async def beats(self) -> Mapping[str, int]:
        """Read how often each process has beaten."""
        async with self._database.connect() as connection:
            return {row.id: row.beat for row in await connection.execute(select(PROCESSES))}

    @property
    def notifies(self) -> bool:
        """Whether processes that share the database hear of each other's news."""
        return self._database.notifies

    async def tell(self, news: str) -> None:
        """Tell the other processes something, at most 7,900 characters; they hear who told it."""
        await self._database.notify(CHANNEL, f"{self.process} {news}")

    async def listen(self, hear: Callable[[str, str], None]) -> None:
        """
        Call *hear* with who told what, for ever; with two empty texts after an interruption.

        A change of state is told as its state's number and the job's name.
        """

        def split(payload: str) -> None:
            process, _, news = payload.partition(" ")
            hear(process, news)

        await self._database.listen(CHANNEL, split)

    async def get(self, name: str) -> job_pb2.Job | None:
        """Read one job."""
        async with self._database.connect() as connection:
            message = await connection.scalar(select(JOBS.c.message).where(JOBS.c.name == name))
        return job_pb2.Job.FromString(message) if message is not None else None

    async def page(
        self, account: str | None, wanted: Filter, before: int | None, count: int
    ) -> list[tuple[int, job_pb2.Job]]:
        """
        Read jobs, newest first, each with its sequence number.

        Args:
            account: Whose jobs; None for everybody's.
            wanted: Which of them.
            before: Only jobs with a smaller sequence number; None for all.
            count: At most this many.
        """
        query = select(JOBS.c.sequence, JOBS.c.message).order_by(JOBS.c.sequence.desc())
        if account is not None:
            query = query.where(JOBS.c.account == account)
        if before is not None:
            query = query.where(JOBS.c.sequence < before)
        query = query.where(*_conditions(wanted))
        async with self._database.connect() as connection:
            rows = await connection.execute(query.limit(count))
        return [(row.sequence, job_pb2.Job.FromString(row.message)) for row in rows]

    async def delete(self, job: job_pb2.Job) -> bool:
        """
        Delete a job that has ended, and note which assets are to be deleted with it.

        Returns:
            False if somebody else has deleted it.
        """
        async with self._database.begin() as connection:
            # Two jobs with one input, deleted at once, must not each leave it to the other.
            await exclude(connection, f"inputs of {job.account}")
            this = and_(JOBS.c.name == job.name, JOBS.c.revision == job.revision)
            deleted = await connection.execute(delete(JOBS).where(this))
            if deleted.rowcount != 1:
                return False
            await connection.execute(delete(EVENTS).where(EVENTS.c.name == job.name))
            await connection.execute(delete(INPUTS).where(INPUTS.c.job == job.name))
            assets = {image.asset for image in job.result.images}
            if job.dialect:
                # Who calls gRPC has stored the inputs itself, and may have more plans with them.
                assets |= await _unused(connection, _inputs(job))
            await connection.execute(delete(DISCARDED).where(DISCARDED.c.asset.in_(assets)))
            if assets:
                rows = [{"asset": asset, "account": job.account} for asset in sorted(assets)]
                await connection.execute(insert(DISCARDED), rows)
        return True

    async def ended_before(self, moment_us: int, count: int) -> list[job_pb2.Job]:
        """Read jobs that ended before a moment, those that ended first."""
        query = select(JOBS.c.message).where(JOBS.c.finish_us < moment_us)
        async with self._database.connect() as connection:
            rows = await connection.execute(query.order_by(JOBS.c.finish_us).limit(count))
        return [job_pb2.Job.FromString(row.message) for row in rows]

    async def discarded(self, count: int) -> list[tuple[str, str]]:
        """Name assets of deleted jobs that storage is still to delete, each with its account."""
        query = select(DISCARDED.c.asset, DISCARDED.c.account).order_by(DISCARDED.c.asset)
        async with self._database.connect() as connection:
            rows = await connection.execute(query.limit(count))
        return [(row.asset, row.account) for row in rows]

    async def forget_discarded(self, asset: str) -> None:
        """Note that storage has deleted an asset."""
        async with self._database.begin() as connection:
            await connection.execute(delete(DISCARDED).where(DISCARDED.c.asset == asset))

    async def in_state(self, state: job_pb2.Job.State.ValueType, count: int) -> list[job_pb2.Job]:
        """Read the first jobs in a state, in the order of the queue."""
        query = select(JOBS.c.message).where(JOBS.c.state == state).order_by(*QUEUE)
        async with self._database.connect() as connection:
            rows = await connection.execute(query.limit(count))
        return [job_pb2.Job.FromString(row.message) for row in rows]

    async def queue_position(self, name: str) -> int:
        """Count the queued jobs whose turn comes before this one's, up to COUNTED_POSITIONS."""
        queued = JOBS.c.state == job_pb2.Job.STATE_QUEUED
        async with self._database.connect() as connection:
            own = (await connection.execute(select(*QUEUE).where(JOBS.c.name == name))).first()
            if own is None:
                return 0
            earlier = select(JOBS.c.sequence).where(and_(queued, tuple_(*QUEUE) < tuple(own)))
            # In order, so that the index is read, and only its beginning.
            first = earlier.order_by(*QUEUE).limit(COUNTED_POSITIONS)
            query = select(func.count()).select_from(first.subquery())
            return int(await connection.scalar(query) or 0)

    async def queue(self, count: int) -> list[str]:
        """Name the first queued jobs, in the order of the queue."""
        query = select(JOBS.c.name).where(JOBS.c.state == job_pb2.Job.STATE_QUEUED)
        async with self._database.connect() as connection:
            return list(await connection.scalars(query.order_by(*QUEUE).limit(count)))

    async def events(self, name: str, after_revision: int) -> list[Event]:
        """Read the changes of a job's state behind a revision, in order."""
        query = (
            select(EVENTS)
            .where(and_(EVENTS.c.name == name, EVENTS.c.revision > after_revision))
            .order_by(EVENTS.c.revision)
        )
        async with self._database.connect() as connection:
            rows = await connection.execute(query)
        return [Event(row.revision, row.state, _time(row.event_us)) for row in rows]

    async def due_messages(
        self, topics: Collection[str], now_us: int, count: int
    ) -> list[OutboxMessage]:
        """Read the messages whose time has come, those that wait longest first."""
        query = select(OUTBOX).where(and_(OUTBOX.c.due_us <= now_us, OUTBOX.c.topic.in_(topics)))
        query = query.order_by(OUTBOX.c.due_us, OUTBOX.c.sequence).limit(count)
        async with self._database.connect() as connection:
            return [OutboxMessage(*row) for row in await connection.execute(query)]

    async def take_message(self, message: OutboxMessage, until_us: int) -> bool:
        """Take a message until then, counting an attempt; False if somebody else has it."""
        unchanged = and_(OUTBOX.c.sequence == message.sequence, OUTBOX.c.due_us == message.due_us)
        async with self._database.begin() as connection:
            taken = await connection.execute(
                update(OUTBOX)
                .where(unchanged)
                .values(due_us=until_us, attempt_count=OUTBOX.c.attempt_count + 1)
            )
        return bool(taken.rowcount)

    async def postpone_message(self, sequence: int, due_us: int) -> None:
        """Say when to try again."""
        this = OUTBOX.c.sequence == sequence
        async with self._database.begin() as connection:
            await connection.execute(update(OUTBOX).where(this).values(due_us=due_us))

    async def drop_message(self, sequence: int) -> None:
        """Forget a message, which was delivered."""
        async with self._database.begin() as connection:
            await connection.execute(delete(OUTBOX).where(OUTBOX.c.sequence == sequence))

    async def is_to_be_settled(self, job: str) -> bool:
        """Tell whether a message about a job's hold is still to be delivered."""
        settling = OUTBOX.c.topic.in_((CAPTURE, RELEASE))
        query = select(func.count()).where(and_(OUTBOX.c.job == job, settling))
        async with self._database.connect() as connection:
            return bool(await connection.scalar(query))

    async def add_delivery(self, delivery: Delivery, forget_us: int) -> None:
        """Write down a delivery, and forget those sent before *forget_us*."""
        async with self._database.begin() as connection:
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
        async with self._database.connect() as connection:
            rows = await connection.execute(query.limit(count))
            return [(row.sequence, Delivery(*row[1:])) for row in rows]

    async def count_before(self, job: job_pb2.Job) -> int:
        """Count the queued jobs before whose turn one would come that is made now."""
        async with self._database.connect() as connection:
            rank = await _turn(connection, job) - job.priority * PRIORITY_US
            earlier = and_(JOBS.c.state == job_pb2.Job.STATE_QUEUED, JOBS.c.rank_us <= rank)
            first = select(JOBS.c.sequence).where(earlier).order_by(*QUEUE).limit(COUNTED_POSITIONS)
            query = select(func.count()).select_from(first.subquery())
            return int(await connection.scalar(query) or 0)

    async def _change(self, job: job_pb2.Job) -> bool:
        async with self._database.begin() as connection:
            written = await self._write(connection, job)
        crash_point("inference.after_change")
        return written

    async def _write(self, connection: AsyncConnection, job: job_pb2.Job) -> bool:
        written = await connection.execute(
            update(JOBS)
            .where(and_(JOBS.c.name == job.name, JOBS.c.revision == job.revision - 1))
            .values(**self._values(job))
        )
        if written.rowcount != 1:
            return False
        await self._add_event(connection, job)
        await _add_messages(connection, job)
        crash_point("inference.before_change")
        return True

    async def _add_event(self, connection: AsyncConnection, job: job_pb2.Job) -> None:
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
        await notify(connection, CHANNEL, f"{self.process} {int(job.state)} {job.name}")

    def _values(self, job: job_pb2.Job) -> dict[str, object]:
        ended = job.HasField("finish_time")
        return {
            "state": int(job.state),
            "revision": job.revision,
            "finish_us": job.finish_time.ToMicroseconds() if ended else None,
            "owner": self.process if job.state == job_pb2.Job.STATE_RUNNING else "",
            "message": job.SerializeToString(deterministic=True),
        }


def new_row(job: job_pb2.Job, begin_us: int, work_us: int) -> dict[str, object]:
    """Return what a job's row says for good, of a job whose turn begins then."""
    return {
        "name": job.name,
        "account": job.account,
        "priority": job.priority,
        "rank_us": begin_us - job.priority * PRIORITY_US,
        "turn_end_us": begin_us + work_us,
        "model": job.generation.model,
        "dialect": job.dialect,
        "create_us": job.create_time.ToMicroseconds(),
        # PostgreSQL's texts cannot hold it.
        "prompt": job.generation.prompt.replace("\0", ""),
    }


def _inputs(job: job_pb2.Job) -> set[str]:
    images = {image.asset for image in job.generation.input_images}
    return images | ({job.generation.mask} if job.generation.mask else set())


async def _unused(connection: AsyncConnection, assets: Collection[str]) -> set[str]:
    """Return those of some assets that are no job's input."""
    used = select(INPUTS.c.asset).where(INPUTS.c.asset.in_(assets))
    return set(assets) - set(await connection.scalars(used))


def _conditions(wanted: Filter) -> Iterator[ColumnElement[bool]]:
    if wanted.states:
        yield JOBS.c.state.in_({int(state) for state in wanted.states})
    if wanted.models:
        yield JOBS.c.model.in_(wanted.models)
    if wanted.dialects:
        routes = (JOBS.c.dialect.startswith(f"{one}/", autoescape=True) for one in wanted.dialects)
        yield or_(JOBS.c.dialect.in_(wanted.dialects), *routes)
    if wanted.created_after_us is not None:
        yield JOBS.c.create_us >= wanted.created_after_us
    if wanted.created_before_us is not None:
        yield JOBS.c.create_us < wanted.created_before_us
    if wanted.prompt_contains:
        yield JOBS.c.prompt.icontains(wanted.prompt_contains, autoescape=True)


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


async def _turn(connection: AsyncConnection, job: job_pb2.Job) -> int:
    """
    Return when a job's turn begins: fair queueing by start times (Goyal, Vin and Cheng, 1996).

    Accounts that wait take turns, in proportion to the work of their jobs. A job's turn begins now,
    or with the first of those that wait if that has waited longer; but where its account has jobs
    that wait, behind the last of them. All of this is within the jobs of one priority: across
    priorities the time of waiting counts.
    """
    now = job.create_time.ToMicroseconds()
    waits = and_(
        JOBS.c.state == int(job_pb2.Job.STATE_QUEUED), JOBS.c.priority == int(job.priority)
    )
    first = await connection.scalar(select(func.min(JOBS.c.rank_us)).where(waits))
    own = and_(waits, JOBS.c.account == job.account)
    last = await connection.scalar(select(func.max(JOBS.c.turn_end_us)).where(own))
    begin = now if first is None else min(now, first + job.priority * PRIORITY_US)
    return begin if last is None else max(begin, last)


def require_room(counts: Bounds, bounds: Bounds) -> None:
    """
    Insist that there are no more jobs than there may be.

    Raises:
        FullError: If there are.
    """
    for name, count, limit in zip(Bounds._fields, counts, bounds, strict=True):
        if limit and count > limit:
            raise FullError(name, limit)


async def _counts(connection: AsyncConnection, account: str, bounds: Bounds) -> Bounds:
    own = (JOBS.c.account == account,) if account else (false(),)
    queued, unfinished = (JOBS.c.state == QUEUED,), (JOBS.c.state.in_([QUEUED, RUNNING]),)
    counts = []
    for limit, conditions in zip(
        bounds, ((*own, *unfinished), (*own, *queued), queued), strict=True
    ):
        some = select(JOBS.c.sequence).where(*conditions).limit(limit + 1).subquery()
        count = await connection.scalar(select(func.count()).select_from(some)) if limit else 0
        counts.append(int(count or 0))
    return Bounds(*counts)


async def _add_key(connection: AsyncConnection, job: job_pb2.Job, key: Key) -> None:
    await connection.execute(
        insert(KEYS).values(
            account=job.account,
            key=key.key,
            fingerprint=key.fingerprint,
            job=job.name,
            create_us=job.create_time.ToMicroseconds(),
        )
    )


def _new_process() -> str:
    return f"inference-{uuid.uuid4().hex[:16]}"


def _time(microseconds: int) -> Timestamp:
    time = Timestamp()
    time.FromMicroseconds(microseconds)
    return time
