"""An attempt from its assignment to its result: inputs read, images drawn, results stored."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator

import structlog

from pictor.inference.v1 import job_pb2
from pictor.inference.v1.progress_pb2 import Progress
from pictor.storage.v1 import storage_service_pb2_grpc
from pictor.worker.v1 import worker_pb2
from services.inference.worker.device import Device
from services.inference.worker.drawing import Drawing
from services.inference.worker.inputs import read_inputs
from services.inference.worker.lease import Lease
from services.inference.worker.reports import Reports, duration
from services.inference.worker.results import store
from services.rpc.crash import crash_point
from services.rpc.errors import Internal, SuiteError, Unavailable, to_status
from services.rpc.principals import acting_for

log = structlog.get_logger()


class Attempts:
    """
    Runs attempts.

    Args:
        device: Draws.
        storage: Holds the input images, and takes the results.
    """

    def __init__(
        self, device: Device, storage: "storage_service_pb2_grpc.StorageServiceAsyncStub"
    ) -> None:
        self._device = device
        self._storage = storage
        self._lease = Lease()
        self._running: dict[Reports, str] = {}
        self._stopping = False

    def stop(self) -> None:
        """End every attempt at its next step, and take no more: the process is stopping."""
        self._stopping = True
        for reports in self._running:
            reports.stop()

    def renew(self, seconds: float) -> None:
        """Let attempts go on for so long from now; before the first call they do for ever."""
        self._lease.renew(seconds)

    def finish(self, job: str) -> None:
        """Let the attempts at a job end with what they have."""
        for reports, name in self._running.items():
            if name == job:
                reports.finish()

    async def run(
        self, assignment: worker_pb2.Assignment, time_limit_seconds: float = math.inf
    ) -> AsyncGenerator[worker_pb2.Report, None]:
        """
        Report what becomes of an assignment; the last report is its result or its error.

        Args:
            assignment: Says what to draw.
            time_limit_seconds: After this the attempt ends at its next step.

        Leaving the iterator stops the attempt at its next step; nothing more is stored then.

        Raises:
            Unavailable: If the process is stopping. The job is not at fault: another may draw it.
        """
        self._require_going_on()
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[worker_pb2.Report | None] = asyncio.Queue()
        deadline = time.monotonic() + time_limit_seconds
        reports = Reports(lambda report: _emit(loop, queue, report), deadline, self._lease)
        attempt = asyncio.create_task(self._outcome(assignment, reports))
        attempt.add_done_callback(lambda _: queue.put_nowait(None))
        self._running[reports] = assignment.job
        try:
            while (report := await queue.get()) is not None:
                yield report
            outcome = await attempt
            if outcome.HasField("error"):
                self._require_going_on()
            yield outcome
        finally:
            self._running.pop(reports, None)
            reports.stop()
            attempt.cancel()

    def _require_going_on(self) -> None:
        if self._stopping:
            raise Unavailable("the device process is stopping", retry_after_seconds=1.0)

    async def _outcome(
        self, assignment: worker_pb2.Assignment, reports: Reports
    ) -> worker_pb2.Report:
        structlog.contextvars.bind_contextvars(job=assignment.job)
        request_id = str(structlog.contextvars.get_contextvars().get("request_id", ""))
        try:
            with acting_for(assignment.account):
                return worker_pb2.Report(result=await self._result(assignment, reports))
        except SuiteError as error:
            log.info("attempt.failed", code=error.code.name, reason=error.reason)
            return worker_pb2.Report(error=to_status(error, request_id))
        except Exception:
            log.exception("attempt.broken")
            hidden = Internal(f"internal error; the logs know it as request {request_id}")
            return worker_pb2.Report(error=to_status(hidden, request_id))

    async def _result(
        self, assignment: worker_pb2.Assignment, reports: Reports
    ) -> worker_pb2.Result:
        reports.wait()
        inputs = await read_inputs(self._storage, assignment.generation)
        drawing = await self._device.draw(assignment, inputs, reports)
        reports.phase(Progress.PHASE_STORING)
        started = time.monotonic()
        crash_point("device.before_store")
        images = await store(self._storage, assignment, drawing)
        crash_point("device.after_store")
        timings = _timings(drawing, time.monotonic() - started)
        log.info(
            "attempt.finished", images=len(images), seconds=round(drawing.inference_seconds, 2)
        )
        return worker_pb2.Result(
            job_result=job_pb2.JobResult(images=images, timings=timings),
            receipt=drawing.receipt,
        )


def _timings(drawing: Drawing, store_seconds: float) -> job_pb2.Timings:
    return job_pb2.Timings(
        load=duration(drawing.load_seconds),
        inference=duration(drawing.inference_seconds),
        store=duration(store_seconds),
    )


def _emit(
    loop: asyncio.AbstractEventLoop,
    queue: asyncio.Queue[worker_pb2.Report | None],
    report: worker_pb2.Report,
) -> None:
    # The loop is closed when the process ends in the midst of a step.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(queue.put_nowait, report)
