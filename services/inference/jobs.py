"""
The life of a job.

    QUEUED -> RUNNING -> SUCCEEDED
      |  ^       |-----> FAILED
      |  +-------|          (the device was lost and attempts are left)
      +----------+-----> CANCELED

Every arrow is one transaction that counts the revision up by one; two that start from the same
revision cannot both happen, so a cancel that races a completion has one winner.
"""

import asyncio
import collections
import contextlib
import re
import uuid
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

import structlog
from google.protobuf import duration_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, job_pb2
from pictor.worker.v1 import worker_pb2
from services.inference.hub import Hub
from services.inference.leases import Leases
from services.inference.paces import Paces
from services.inference.prices import work_us
from services.inference.store import (
    COUNTED_POSITIONS,
    NO_KEY,
    UNBOUNDED,
    Bounds,
    Delivery,
    FullError,
    JobStore,
    Key,
    require_room,
)
from services.paging import encode_token, sequence_of
from services.rpc.errors import (
    AlreadyExists,
    Canceled,
    Exhausted,
    Internal,
    NotFound,
    StateConflict,
    SuiteError,
    invalid,
    to_status,
)
from services.rpc.principals import caller

log = structlog.get_logger()
State = job_pb2.Job.State
RESCUED_AT_ONCE = 1000
LONGEST_KEY = 255
_JOB_ID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TERMINAL = frozenset(
    [job_pb2.Job.STATE_SUCCEEDED, job_pb2.Job.STATE_FAILED, job_pb2.Job.STATE_CANCELED]
)


_BOUNDS = {
    "account_unfinished": "the account has {limit} jobs that have not ended, which is its limit",
    "account_queued": "the account has {limit} jobs that wait, which is its limit",
    "queued": "{limit} jobs wait already, which is the limit of this server",
}


class Jobs:
    """
    Makes, reads and ends jobs.

    Args:
        store: Where they lie.
        hub: Who is told of changes.
    """

    def __init__(self, store: JobStore, hub: Hub) -> None:
        self._store = store
        self._hub = hub
        self._wake_dispatcher: Callable[[], None] = lambda: None
        self._stop_attempt: Callable[[str], None] = lambda _name: None
        self._finish_attempt: Callable[[str], Awaitable[None]] = _do_nothing
        self._on_end: list[Callable[[], None]] = []
        self._twins: weakref.WeakValueDictionary[tuple[str, str], asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        # How many of each account are on their way to become jobs.
        self._admitting: collections.Counter[str] = collections.Counter()
        self.paces = Paces()

    def on_change(
        self,
        wake_dispatcher: Callable[[], None],
        stop_attempt: Callable[[str], None],
        finish_attempt: Callable[[str], Awaitable[None]],
    ) -> None:
        """
        Name what is called when a job is queued, when one that runs must stop, and when one that
        runs is to end with what it has.
        """
        self._wake_dispatcher = wake_dispatcher
        self._stop_attempt = stop_attempt
        self._finish_attempt = finish_attempt

    def on_end(self, wake_outbox: Callable[[], None]) -> None:
        """Name what is called, among others, when a job has ended."""
        self._on_end.append(wake_outbox)

    async def create(
        self,
        generation: generation_pb2.Generation,
        *,
        dialect: str,
        served_by: str,
        receipt: Sequence[job_pb2.ParameterNote],
        priority: int = 0,
        job_id: str = "",
        retry_of: str = "",
        price: int = 0,
        key: Key = NO_KEY,
        webhook_url: str = "",
        bounds: Bounds = UNBOUNDED,
        result_ttl: duration_pb2.Duration | None = None,
    ) -> job_pb2.Job:
        """
        Queue an admitted generation; the job is durable when this returns.

        Its *price*, in micro-credits, is held by then. Where the *key* has made a job, that one is
        the answer.

        Raises:
            AlreadyExists: If *job_id* is taken.
            Exhausted: If there are as many jobs as *bounds* permit.
            InvalidRequest: If the key was used for another request.
        """
        job = job_pb2.Job(
            name=f"jobs/{job_id or uuid.uuid4()}",
            account=caller().account,
            state=job_pb2.Job.STATE_QUEUED,
            generation=generation,
            dialect=dialect,
            revision=1,
            receipt=receipt,
            priority=priority,
            served_by="" if served_by == generation.model else served_by,
            request_id=structlog.contextvars.get_contextvars().get("request_id", ""),
            create_time=_now(),
            retry_of=retry_of,
            price_microcredits=price,
            webhook_url=webhook_url,
            result_ttl=result_ttl,
        )
        try:
            is_new = await self._store.insert(job, key, work_us(generation), bounds)
        except FullError as full:
            # A twin may have taken the last place.
            if before := await self.replayed(key):
                return before
            raise self._full(full) from None
        if not is_new:
            # A twin may have come first; what was held for this one is given back later.
            if before := await self.replayed(key):
                return before
            raise _taken(job.name)
        log.info("job.queued", job=job.name, model=generation.model, dialect=dialect)
        self._wake_dispatcher()
        return await self._with_progress(job)

    @contextlib.asynccontextmanager
    async def place(self, bounds: Bounds) -> AsyncIterator[None]:
        """
        Take a place for one more job of the caller within the block, in which it is made.

        No more than fit are let in, so that those that do not need not wait for the database to
        learn it.

        Raises:
            Exhausted: If there are as many jobs as *bounds* permit.
        """
        account = caller().account
        counts = await self._store.counts(account, bounds)
        own, all_ = self._admitting[account] + 1, self._admitting.total() + 1
        try:
            require_room(
                Bounds(
                    counts.account_unfinished + own,
                    counts.account_queued + own,
                    counts.queued + all_,
                ),
                bounds,
            )
        except FullError as full:
            raise self._full(full) from None
        self._admitting[account] += 1
        try:
            yield
        finally:
            self._admitting -= collections.Counter([account])

    def _full(self, full: FullError) -> Exhausted:
        whose = "everybody" if full.bound == "queued" else "account"
        what = _BOUNDS[full.bound].format(limit=full.limit)
        return Exhausted(
            f"{what}; try again when one of them has ended",
            reason=reasons.ERROR_REASON_QUEUE_FULL,
            metadata={"limit": str(full.limit), "of": whose},
            retry_after_seconds=self.paces.next_end_seconds(),
        )

    @contextlib.asynccontextmanager
    async def alone(self, key: Key) -> AsyncIterator[None]:
        """Let one request at a time with a key of the caller's into the block, in this process."""
        if not key.key:
            yield
            return
        lock = self._twins.setdefault((caller().account, key.key), asyncio.Lock())
        async with lock:
            yield

    async def replayed(self, key: Key) -> job_pb2.Job | None:
        """
        Return the job that the caller's key has made, if it has.

        Raises:
            InvalidRequest: If the key is too long, or was used for another request.
        """
        if len(key.key) > LONGEST_KEY:
            raise invalid(
                "idempotency_key",
                f"idempotency_key has {len(key.key)} characters; it has at most {LONGEST_KEY}",
            )
        used = await self._store.key(caller().account, key.key) if key.key else None
        if used is None:
            return None
        fingerprint, name = used
        if fingerprint != key.fingerprint:
            raise invalid(
                "idempotency_key",
                "the idempotency key came with another request before; choose a new one for each"
                " request, and repeat a request unchanged",
                reasons.ERROR_REASON_IDEMPOTENCY_KEY_REUSED,
            )
        job = await self.get(name)
        job.replayed = True
        return job

    async def quote(self, job: job_pb2.Job) -> job_pb2.Job:
        """Add to a job that has not been made when it would be drawn."""
        job.create_time.CopyFrom(_now())
        job.progress.step_count = job.generation.step_count
        job.progress.queue_position = await self._store.count_before(job)
        self._expect(job)
        job.ClearField("create_time")
        return job

    async def check_free(self, job_id: str) -> None:
        """
        Insist that a caller may choose this id, or leaves the choice.

        Raises:
            InvalidRequest: If it is no UUID of version 4 in lower case.
            AlreadyExists: If there is such a job, the caller's or another's.
        """
        if not job_id:
            return
        if not _JOB_ID.fullmatch(job_id):
            raise invalid(
                "job_id",
                f"job_id {job_id[:60]!r} is not a UUID of version 4 in lower case,"
                " such as c3b1e0e7-2f7c-4c66-bd13-97b6c2b87f1d",
            )
        if await self._store.get(f"jobs/{job_id}"):
            raise _taken(f"jobs/{job_id}")

    async def get(self, name: str, *, preview: bool = False) -> job_pb2.Job:
        """
        Read one of the caller's jobs, with its newest preview if that is wanted.

        Raises:
            NotFound: If there is none of this name, or another account's.
        """
        job = await self._with_progress(await self.own(name))
        if preview and (newest := self._hub.preview(name)):
            job.preview.CopyFrom(newest)
        return job

    async def own(self, name: str) -> job_pb2.Job:
        """
        Read one of the caller's jobs as it is stored.

        Raises:
            NotFound: If there is none of this name, or another account's.
        """
        job = await self._store.get(name)
        account = caller().account
        if job is None or (account and job.account != account):
            raise NotFound(
                f"there is no job {name[:100]!r}",
                reason=reasons.ERROR_REASON_JOB_NOT_FOUND,
                metadata={"job": name[:100]},
            )
        return job

    async def with_progress(self, jobs: Sequence[job_pb2.Job]) -> list[job_pb2.Job]:
        """Add to jobs how far they are; the queue is read once for all of them."""
        places: dict[str, int] = {}
        if any(job.state == job_pb2.Job.STATE_QUEUED for job in jobs):
            queue = await self._store.queue(COUNTED_POSITIONS)
            places = {name: place for place, name in enumerate(queue)}
        return [
            await self._with_progress(job, places.get(job.name, COUNTED_POSITIONS)) for job in jobs
        ]

    async def deliveries(self, job: str, count: int, page_token: str) -> tuple[list[Delivery], str]:
        """
        Read a page of what the caller's webhooks were told, and the token of the next page.

        Raises:
            InvalidRequest: If the page token is not one of ours.
        """
        before = sequence_of(page_token) if page_token else None
        rows = await self._store.deliveries(caller().account or None, job, before, count + 1)
        token = encode_token(str(rows[count - 1][0])) if len(rows) > count else ""
        return [delivery for _, delivery in rows[:count]], token

    async def ended_badly(self, name: str) -> job_pb2.Job:
        """
        Read one of the caller's jobs that may be tried again: it has failed, or was canceled.

        Raises:
            NotFound: If there is none of this name, or another account's.
            StateConflict: If it goes on, or has succeeded.
        """
        job = await self.own(name)
        if job.state not in (job_pb2.Job.STATE_FAILED, job_pb2.Job.STATE_CANCELED):
            state = State.Name(job.state)
            raise StateConflict(
                f"the job is {state.removeprefix('STATE_').lower()}; only one that has failed or"
                " was canceled is tried again",
                metadata={"job": name, "state": state},
            )
        return job

    async def cancel(self, name: str) -> job_pb2.Job:
        """
        End one of the caller's jobs.

        Raises:
            NotFound: If there is none of this name, or another account's.
            StateConflict: If it has succeeded or failed.
        """
        job = await self.own(name)
        while job.state not in TERMINAL:
            reason = Canceled("the job was canceled")
            if ended := await self._end(job, job_pb2.Job.STATE_CANCELED, error=reason):
                self._stop_attempt(name)
                return ended
            job = await self.own(name)
        if job.state != job_pb2.Job.STATE_CANCELED:
            state = State.Name(job.state)
            raise StateConflict(
                f"the job has ended already: {state.removeprefix('STATE_').lower()}",
                metadata={"job": name, "state": state},
            )
        return job

    async def finish(self, name: str) -> job_pb2.Job:
        """
        End one of the caller's jobs with what there is; one that has not started is canceled.

        Raises:
            NotFound: If there is none of this name, or another account's.
        """
        job = await self.own(name)
        while job.state == job_pb2.Job.STATE_QUEUED:
            reason = Canceled("the job was interrupted before it had begun")
            if ended := await self._end(job, job_pb2.Job.STATE_CANCELED, error=reason):
                return ended
            job = await self.own(name)
        if job.state == job_pb2.Job.STATE_RUNNING:
            await self._finish_attempt(name)
        return await self.get(name)

    async def start(self, may_start: Callable[[job_pb2.Job], bool]) -> job_pb2.Job | None:
        """Lease the first queued job to an attempt here; None if there is none that may start."""

        def run(job: job_pb2.Job) -> job_pb2.Job | None:
            if not may_start(job):
                return None
            running = _changed(job, job_pb2.Job.STATE_RUNNING)
            running.attempt_count += 1
            running.start_time.CopyFrom(_now())
            return running

        started = await self._store.lease(run)
        return self._told(started) if started else None

    async def succeed(self, job: job_pb2.Job, result: worker_pb2.Result) -> None:
        """End an attempt with its result, unless it has lost its lease."""
        done = _changed(job, job_pb2.Job.STATE_SUCCEEDED)
        done.result.CopyFrom(result.job_result)
        _add_notes(done, result.receipt)
        done.progress.step_count = job.generation.step_count
        if newest := self._hub.progress(job.name):
            done.progress.CopyFrom(newest)
        done.progress.step = done.progress.step_count
        done.finish_time.CopyFrom(_now())
        done.cost_microcredits = job.price_microcredits
        if await self._write(done):
            self.paces.note(done)

    async def fail(self, job: job_pb2.Job, error: SuiteError) -> None:
        """End an attempt with an error, unless it has lost its lease."""
        await self._end(job, job_pb2.Job.STATE_FAILED, error=error)

    async def lose(self, job: job_pb2.Job, max_attempts: int) -> None:
        """Queue a job whose device was lost again, or fail it after its last attempt."""
        if job.attempt_count < max_attempts:
            if await self._write(_changed(job, job_pb2.Job.STATE_QUEUED)):
                self._wake_dispatcher()
            return
        lost = Internal(
            f"the device was lost while it drew this, {job.attempt_count} times",
            reason=reasons.ERROR_REASON_DEVICE_LOST,
            metadata={"attempts": str(job.attempt_count)},
        )
        await self.fail(job, lost)

    async def release(self, job: job_pb2.Job) -> None:
        """Queue a job again whose attempt this process gives up; the attempt does not count."""
        queued = _changed(job, job_pb2.Job.STATE_QUEUED)
        queued.attempt_count -= 1
        await self._write(queued)

    async def rescue(self, attempts: Collection[str], leases: Leases, max_attempts: int) -> bool:
        """
        Take back the jobs that run nowhere: those of a process that is gone, or whose end could
        not be written.

        Args:
            attempts: The names of the jobs that run here.
            leases: Knows who is gone.
            max_attempts: As in ``lose``.

        Returns:
            Whether there are other processes of the service.
        """
        # What ends here meanwhile has not been lost.
        here = set(attempts)
        # In this order: a process is there before it holds a job.
        running = await self._store.running(RESCUED_AT_ONCE)
        beats = await self._store.beats()
        own = self._store.process
        gone = leases.gone(beats) - {own}
        self._hub.keep([job.name for _, job in running])
        for owner, job in running:
            # What runs here and is given up writes so itself.
            lost = owner == own or owner in gone or owner not in beats
            if lost and job.name not in here:
                log.warning("job.rescued", job=job.name, attempts=job.attempt_count, owner=owner)
                await self.lose(job, max_attempts)
        if gone:
            await self._store.forget(gone)
        return len(beats) > 1

    async def _with_progress(self, job: job_pb2.Job, place: int | None = None) -> job_pb2.Job:
        if job.state == job_pb2.Job.STATE_QUEUED:
            job.progress.Clear()
            job.progress.step_count = job.generation.step_count
            if place is None:
                place = await self._store.queue_position(job.name)
            job.progress.queue_position = place
            self._expect(job)
        elif job.state == job_pb2.Job.STATE_RUNNING:
            job.progress.step_count = job.generation.step_count
            if newest := self._hub.progress(job.name):
                job.progress.CopyFrom(newest)
        return job

    def _expect(self, job: job_pb2.Job) -> None:
        ahead = job.progress.queue_position
        seconds = self.paces.expected_seconds(job, ahead)
        if seconds is not None:
            job.expected_duration.FromNanoseconds(int(seconds * 1e9))

    async def _end(
        self, job: job_pb2.Job, state: State.ValueType, *, error: SuiteError
    ) -> job_pb2.Job | None:
        ended = _changed(job, state)
        ended.error.CopyFrom(to_status(error, job.request_id))
        if newest := self._hub.progress(job.name):
            ended.progress.CopyFrom(newest)
        ended.finish_time.CopyFrom(_now())
        return await self._write(ended)

    async def _write(self, job: job_pb2.Job) -> job_pb2.Job | None:
        if not await self._store.change(job):
            log.info("job.write_refused", job=job.name, revision=job.revision)
            return None
        return self._told(job)

    def _told(self, job: job_pb2.Job) -> job_pb2.Job:
        state = State.Name(job.state).removeprefix("STATE_").lower()
        log.info("job.changed", job=job.name, state=state, revision=job.revision)
        self._hub.publish_state(job.name)
        if job.state in TERMINAL:
            for wake_outbox in self._on_end:
                wake_outbox()
        return job


async def _do_nothing(_name: str) -> None:
    pass


def _changed(job: job_pb2.Job, state: State.ValueType) -> job_pb2.Job:
    changed = job_pb2.Job()
    changed.CopyFrom(job)
    changed.state = state
    changed.revision += 1
    return changed


def _taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        f"there is a job {name.removeprefix('jobs/')!r} already; choose a new id for each request",
        metadata={"job": name},
    )


def _add_notes(job: job_pb2.Job, notes: Sequence[job_pb2.ParameterNote]) -> None:
    """Add the device's notes: what it did with a parameter is known better after than before."""
    honoured = job_pb2.ParameterNote.TREATMENT_HONOURED
    before = [note for note in job.receipt if note.treatment != honoured]
    noted = {note.parameter for note in before}
    added = [note for note in notes if note.parameter not in noted]
    noted.update(note.parameter for note in added)
    rest = [
        note for note in job.receipt if note.treatment == honoured and note.parameter not in noted
    ]
    del job.receipt[:]
    job.receipt.extend([*before, *added, *rest])


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now
