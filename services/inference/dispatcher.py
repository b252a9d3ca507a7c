"""
Gives queued jobs to the executor, in the order of the queue, and writes down how each attempt ends.

As long as its heartbeat is acknowledged by the database, this process holds its jobs, and so do the
devices that draw them. When it is not, for the length of a lease, others may have taken them: the
attempts end here, and the devices end them by themselves even if they are told nothing any more.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import structlog

from pictor.catalog.v1 import catalog_service_pb2, catalog_service_pb2_grpc
from pictor.inference.v1 import job_pb2
from pictor.worker.v1 import worker_pb2
from services.inference.executor import DeviceLost, Executor
from services.inference.hub import Hub
from services.inference.jobs import Jobs
from services.inference.leases import Leases
from services.inference.news import News
from services.inference.stand_in import adapt
from services.inference.store import JobStore
from services.rpc.crash import crash_point
from services.rpc.errors import Canceled, DeadlineExceeded, Internal, SuiteError, from_status
from services.rpc.patience import outlast

# Also without a wake-up the queue is looked at this often.
POLL_SECONDS = 1.0
# Who waits further back learns of it when it has come closer.
TOLD_POSITIONS = 200

log = structlog.get_logger()


class Dispatcher:
    """
    Runs jobs.

    Args:
        jobs: The life of a job.
        store: The queue.
        hub: Who is told of progress.
        news: What other processes of the service tell, and are told.
        executor: Where jobs run.
        catalog: Knows the models.
        max_attempts: How often a job is given to a device before its loss is the job's failure.
        time_limit_seconds: How long one attempt may take.
        heartbeat_seconds: How often this process tells that it lives.
        leases: Knows how long that counts.
        drain_seconds: How long attempts may go on when the process stops.
    """

    def __init__(
        self,
        jobs: Jobs,
        store: JobStore,
        hub: Hub,
        news: News,
        executor: Executor,
        *,
        catalog: "catalog_service_pb2_grpc.CatalogServiceAsyncStub",
        max_attempts: int,
        time_limit_seconds: float,
        heartbeat_seconds: float,
        leases: Leases,
        drain_seconds: float,
    ) -> None:
        self._jobs = jobs
        self._store = store
        self._hub = hub
        self._news = news
        self._executor = executor
        self._catalog = catalog
        self._max_attempts = max_attempts
        self._time_limit_seconds = time_limit_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._leases = leases
        self._drain_seconds = drain_seconds
        self._attempts: dict[str, asyncio.Task[None]] = {}
        # Those that only write how they ended: it is refused if others have taken them.
        self._ending: set[str] = set()
        # The one that has nobody beside it, if any.
        self._alone = ""
        self._finishing: set[asyncio.Task[None]] = set()
        self._queued = asyncio.Event()
        self._dispatching: asyncio.Task[None]
        jobs.on_change(self._queued.set, self._stop_attempt, self._finish_attempt)
        news.on_news(self._queued.set, self._stop_attempt, self._finish_soon)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """
        Dispatch within the block. At its end no more is begun; attempts that have not ended some
        time later are given up and queued again.
        """
        # One process has a SQLite database: who held jobs in it before is gone.
        await self._store.join(as_the_only_one=not self._store.notifies)
        beating, listening, self._dispatching = [
            asyncio.create_task(forever)
            for forever in (self._keep_beating(), self._news.keep_listening(), self._dispatch())
        ]
        try:
            yield
        finally:
            await self.drain()
            await _canceled(beating, listening)
            with contextlib.suppress(SuiteError):
                await self._store.forget([self._store.process])

    async def drain(self) -> None:
        """Begin nothing more, let attempts end for some time, and queue the others again."""
        await _canceled(self._dispatching)
        if self._attempts:
            await asyncio.wait(self._attempts.values(), timeout=self._drain_seconds)
        await _canceled(*self._attempts.values())

    async def _keep_beating(self) -> None:
        while True:
            try:
                await self._beat()
            except SuiteError:
                log.warning("lease.not_renewed", left_seconds=round(self._leases.left_seconds, 1))
            except Exception:
                # Without it this process would lose all that it holds.
                log.exception("lease.not_renewed")
            if self._leases.left_seconds <= 0:
                self._give_up()
            await asyncio.sleep(self._heartbeat_seconds)

    async def _beat(self) -> None:
        """Renew the lease, and those of the devices, if it still was this process's to renew."""
        sent = self._leases.now()
        held = self._leases.left_seconds > 0
        if not (held and await self._store.beat()):
            self._give_up()
            await self._store.join()
        self._leases.acknowledge(sent)
        await self._executor.renew(self._leases.left_seconds)

    def _give_up(self) -> None:
        """End what others may have taken."""
        for name in set(self._attempts) - self._ending:
            log.warning("lease.lost", job=name)
            self._ending.add(name)
            self._attempts[name].cancel()

    async def _dispatch(self) -> None:
        while True:
            try:
                self._queued.clear()
                self._news.has_peers = await self._jobs.rescue(
                    self._attempts, self._leases, self._max_attempts
                )
                while await self._start_next():
                    pass
            except SuiteError as error:
                # A database that is away comes back; the queue must go on then.
                log.warning("dispatch.failed", detail=error.message)
            except Exception:
                log.exception("dispatch.failed")
            await self._wait_for_news()

    async def _wait_for_news(self) -> None:
        """Wait until there may be something to do; to take over what is lost needs no device."""
        tidings: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._queued.wait())]
        if not self._executor.slot_count:
            tidings.append(asyncio.ensure_future(self._executor.ready()))
        try:
            await asyncio.wait(
                tidings, timeout=self._poll_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            await _canceled(*tidings)

    @property
    def _poll_seconds(self) -> float:
        """How long to wait at most for news: nobody tells of the end of another process."""
        return (
            min(POLL_SECONDS, self._leases.look_seconds) if self._news.has_peers else POLL_SECONDS
        )

    async def _start_next(self) -> bool:
        """Start the first queued job; False if there is none, or no slot."""
        if len(self._attempts) >= self._executor.slot_count or self._leases.left_seconds <= 0:
            return False
        job = await self._jobs.start(self._may_start)
        if job is None:
            return False
        crash_point("inference.after_lease")
        if self._is_suspect(job.attempt_count):
            self._alone = job.name
        task = asyncio.create_task(self._attempt(job))
        self._attempts[job.name] = task
        task.add_done_callback(lambda _: self._ended(job.name))
        await self._tell_positions()
        return True

    def _may_start(self, job: job_pb2.Job) -> bool:
        if self._is_suspect(job.attempt_count + 1):
            return not self._attempts
        return not self._alone

    def _is_suspect(self, attempt: int) -> bool:
        """
        Tell whether an attempt is the last of a job whose device was lost before.

        It is made alone: whichever of the jobs it was that killed the device, the others live.
        """
        return attempt == self._max_attempts > 1

    async def _tell_positions(self) -> None:
        watched = self._hub.watched()
        if not watched:
            return
        queued = await self._store.in_state(job_pb2.Job.STATE_QUEUED, TOLD_POSITIONS)
        for position, job in enumerate(queued):
            if job.name in watched:
                job.progress.step_count = job.generation.step_count
                job.progress.queue_position = position
                self._hub.publish_progress(job.name, job.progress)

    def _ended(self, name: str) -> None:
        self._attempts.pop(name, None)
        self._ending.discard(name)
        self._news.forget(name)
        self._alone = "" if self._alone == name else self._alone
        self._queued.set()

    def _stop_attempt(self, name: str) -> None:
        if task := self._attempts.get(name):
            task.cancel()

    async def _finish_attempt(self, name: str) -> None:
        if name in self._attempts:
            await self._executor.finish(name)
        else:
            self._news.tell_finish(name)

    def _finish_soon(self, name: str) -> None:
        if name in self._attempts:
            task = asyncio.create_task(self._executor.finish(name))
            self._finishing.add(task)
            task.add_done_callback(self._finishing.discard)

    async def _attempt(self, job: job_pb2.Job) -> None:
        with structlog.contextvars.bound_contextvars(job=job.name, request_id=job.request_id):
            try:
                async with asyncio.timeout(self._time_limit_seconds):
                    await self._run(job)
            except asyncio.CancelledError:
                # Refused where the job was canceled; where the process stops, it goes back.
                await self._jobs.release(job)
                raise
            except DeviceLost as lost:
                log.warning("job.device_lost", detail=str(lost))
                await self._jobs.lose(job, self._max_attempts)
            except Canceled:
                # The device let go of it because this process was not heard of for a lease.
                await self._jobs.release(job)
            except SuiteError as error:
                await self._jobs.fail(job, error)
            except TimeoutError:
                limit = f"the job ran longer than {self._time_limit_seconds:g} s"
                await self._jobs.fail(job, DeadlineExceeded(limit))
            except Exception:
                log.exception("job.attempt_failed")
                hidden = f"internal error; the logs know it as request {job.request_id}"
                await self._jobs.fail(job, Internal(hidden))

    async def _run(self, job: job_pb2.Job) -> None:
        assignment = await self._assignment(job)
        async with contextlib.aclosing(self._executor.run(assignment)) as reports:  # type: ignore[type-var]  # executors are async generators
            async for report in reports:
                kind = report.WhichOneof("content")
                if kind == "progress":
                    self._hub.publish_progress(job.name, report.progress)
                    self._news.tell_progress(job.name, report.progress)
                elif kind == "preview":
                    self._hub.publish_preview(job.name, report.preview)
                elif kind == "result":
                    self._ending.add(job.name)
                    crash_point("inference.result")
                    return await self._jobs.succeed(job, report.result)
                elif kind == "error":
                    raise from_status(report.error)
        raise DeviceLost("the device's reports ended without a result")

    async def _assignment(self, job: job_pb2.Job) -> worker_pb2.Assignment:
        name = job.served_by or job.generation.model
        request = catalog_service_pb2.GetModelRequest(name=name)
        model = await outlast(lambda: self._catalog.GetModel(request))
        generation = adapt(job.generation, model)[0] if job.served_by else job.generation
        return worker_pb2.Assignment(
            job=job.name,
            attempt=job.attempt_count,
            account=job.account,
            generation=generation,
            model=model,
            priority=job.priority,
            result_ttl=job.result_ttl if job.HasField("result_ttl") else None,
        )


async def _canceled(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
