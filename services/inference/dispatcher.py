"""
Gives queued jobs to the executor, in the order of the queue, and writes down how each attempt ends.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from pictor.catalog.v1 import catalog_service_pb2, catalog_service_pb2_grpc
from pictor.inference.v1 import job_pb2
from pictor.worker.v1 import worker_pb2
from services.inference.executor import DeviceLost, Executor
from services.inference.hub import Hub
from services.inference.jobs import Jobs
from services.inference.stand_in import adapt
from services.inference.store import JobStore
from services.rpc.errors import DeadlineExceeded, Internal, SuiteError, from_status

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
        executor: Where jobs run.
        catalog: Knows the models.
        max_attempts: How often a job is given to a device before its loss is the job's failure.
        time_limit_seconds: How long one attempt may take.
    """

    def __init__(
        self,
        jobs: Jobs,
        store: JobStore,
        hub: Hub,
        executor: Executor,
        catalog: "catalog_service_pb2_grpc.CatalogServiceAsyncStub",
        *,
        max_attempts: int,
        time_limit_seconds: float,
    ) -> None:
        self._jobs = jobs
        self._store = store
        self._hub = hub
        self._executor = executor
        self._catalog = catalog
        self._max_attempts = max_attempts
        self._time_limit_seconds = time_limit_seconds
        self._attempts: dict[str, asyncio.Task[None]] = {}
        self._queued = asyncio.Event()
        jobs.on_change(self._queued.set, self._stop_attempt, self._finish_attempt)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Dispatch within the block; attempts that run at its end are given up and queued again."""
        dispatching = asyncio.create_task(self._dispatch())
        try:
            yield
        finally:
            tasks = [dispatching, *self._attempts.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _dispatch(self) -> None:
        while True:
            try:
                await self._executor.ready()
                self._queued.clear()
                await self._jobs.rescue(self._attempts, self._max_attempts)
                while await self._start_next():
                    pass
            except Exception:
                # A database that is away comes back; the queue must go on then.
                log.exception("dispatch.failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._queued.wait()

    async def _start_next(self) -> bool:
        """Start the first queued job; False if there is none, or no slot."""
        if len(self._attempts) >= self._executor.slot_count:
            return False
        queued = await self._store.in_state(job_pb2.Job.STATE_QUEUED, 1)
        if not queued:
            return False
        if job := await self._jobs.start(queued[0]):
            task = asyncio.create_task(self._attempt(job))
            self._attempts[job.name] = task
            task.add_done_callback(lambda _: self._ended(job.name))
            await self._tell_positions()
        return True

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
        self._queued.set()

    def _stop_attempt(self, name: str) -> None:
        if task := self._attempts.get(name):
            task.cancel()

    async def _finish_attempt(self, name: str) -> None:
        if name in self._attempts:
            await self._executor.finish(name)

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
                elif kind == "preview":
                    self._hub.publish_preview(job.name, report.preview)
                elif kind == "result":
                    return await self._jobs.succeed(job, report.result)
                elif kind == "error":
                    raise from_status(report.error)
        raise DeviceLost("the device's reports ended without a result")

    async def _assignment(self, job: job_pb2.Job) -> worker_pb2.Assignment:
        name = job.served_by or job.generation.model
        model = await self._catalog.GetModel(catalog_service_pb2.GetModelRequest(name=name))
        generation = adapt(job.generation, model)[0] if job.served_by else job.generation
        return worker_pb2.Assignment(
            job=job.name,
            attempt=job.attempt_count,
            account=job.account,
            generation=generation,
            model=model,
            priority=job.priority,
        )
