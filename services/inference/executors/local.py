"""
The local executor: one device process beside this one, started again whenever it ends.

The process is a child that ends when its standard input is closed, so it never outlives its parent.
It prints one line of JSON with its address; everything after that is gRPC.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator

import grpc
import structlog

from pictor.worker.v1 import worker_pb2, worker_service_pb2, worker_service_pb2_grpc
from services.inference.executor import DeviceLost, ExecutorSettings
from services.inference.worker.__main__ import WorkerSettings
from services.rpc.channels import open_channel
from services.rpc.errors import DeadlineExceeded, Unavailable
from services.rpc.principals import SUITE, become, caller
from services.rpc.settings import read

MODULE = "services.inference.worker"
STOP_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
# A process that lived this long has not failed to start.
HEALTHY_SECONDS = 30.0

log = structlog.get_logger()


@contextlib.asynccontextmanager
async def open_executor(settings: ExecutorSettings) -> AsyncIterator["LocalExecutor"]:
    """Keep a device process running within the block."""
    # The child reads the same environment: what is wrong with it stops this process, at once.
    read(WorkerSettings, settings.environ)
    executor = LocalExecutor(settings)
    keeping = asyncio.create_task(executor.keep_running())
    try:
        yield executor
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


class LocalExecutor:
    """
    Gives assignments to a child process.

    Args:
        settings: The child's environment, and the token that it accepts.
    """

    slot_count = 1

    def __init__(self, settings: ExecutorSettings) -> None:
        self._settings = settings
        self._channel: grpc.aio.Channel | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._up = asyncio.Event()

    async def ready(self) -> None:
        """Wait until the process has told its address."""
        await self._up.wait()

    async def run(self, assignment: worker_pb2.Assignment) -> AsyncIterator[worker_pb2.Report]:
        """
        Give the process an assignment and pass on what it reports.

        Raises:
            DeviceLost: If the process ends or does not answer.
        """
        await self._up.wait()
        assert self._channel is not None
        become(SUITE)
        call = worker_service_pb2_grpc.WorkerServiceStub(self._channel).Run(
            worker_service_pb2.RunRequest(assignment=assignment)
        )
        try:
            async for response in call:
                yield response.report
        except (Unavailable, DeadlineExceeded) as error:
            self._kill()
            raise DeviceLost(error.message) from error
        except asyncio.CancelledError:
            # The channel is closed when the process ends, which cancels its calls, not this task.
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            raise DeviceLost("the process ended") from None
        finally:
            call.cancel()

    async def finish(self, job: str) -> None:
        """Tell the process that what it has of a job is enough."""
        if self._channel is None or not self._up.is_set():
            return
        stub = worker_service_pb2_grpc.WorkerServiceStub(self._channel)
        request = worker_service_pb2.FinishRequest(job=job)
        before = caller()
        become(SUITE)
        try:
            await stub.Finish(request)
        finally:
            become(before)

    def _kill(self) -> None:
        """End a process that does not answer: it may hang, and would be given the next job."""
        if self._process and self._process.returncode is None:
            self._process.kill()

    async def keep_running(self) -> None:
        """Start the process, and start it again when it ends; more slowly if it ends at once."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            started = time.monotonic()
            try:
                await self._run_once()
            except Exception:
                log.exception("device.start_failed")
            lived = time.monotonic() - started
            pause = FIRST_PAUSE_SECONDS if lived > HEALTHY_SECONDS else pause
            log.warning("device.ended", lived_seconds=round(lived, 1), pause_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _run_once(self) -> None:
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            MODULE,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=dict(self._settings.environ),
        )
        try:
            address = await _address(process)
            if not address:
                return
            log.info("device.started", pid=process.pid, address=address)
            async with open_channel(address, self._settings.token) as self._channel:
                self._up.set()
                await process.wait()
        finally:
            self._up.clear()
            await _end(process)


async def _address(process: asyncio.subprocess.Process) -> str:
    """Read the line with the process's address; empty if it ended before it had one."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    return str(json.loads(line)["address"]) if line else ""


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close the process's standard input, and kill it if that does not end it."""
    if process.returncode is not None:
        return
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
