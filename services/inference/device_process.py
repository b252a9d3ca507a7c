"""
One device process as a child of this one, started again whenever it ends.

The child ends when its standard input is closed, so it never outlives its parent. It prints one
line of JSON with its address; everything after that is gRPC.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping

import grpc
import structlog

from pictor.worker.v1 import worker_pb2, worker_service_pb2, worker_service_pb2_grpc
from services.inference.executor import DeviceLost
from services.rpc.channels import open_channel
from services.rpc.errors import DeadlineExceeded, SuiteError, Unavailable
from services.rpc.principals import SUITE, become, caller
from services.rpc.process import ProcessSettings
from services.rpc.settings import read

MODULE = "services.inference.worker"
STOP_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
# A process that lived this long has not failed to start.
HEALTHY_SECONDS = 30.0
# One that imports torch at the moment answers late; the job need not wait for it.
ASK_SECONDS = 0.5
# Not longer, or one that hangs would keep the leases of the others from being renewed.
RENEW_SECONDS = 1.0

log = structlog.get_logger()


class DeviceProcess:
    """
    Keeps a child process running, and gives it assignments.

    Args:
        device: Its device, as PICTOR_DEVICE names one.
        environ: What it finds in its environment; PICTOR_DEVICE is set to the device.
        token: The service token that it accepts.
        on_change: Called when it can be reached, and when no longer.
        module: What it runs.
    """

    def __init__(
        self,
        device: str,
        environ: Mapping[str, str],
        token: str,
        on_change: Callable[[], None],
        module: str = MODULE,
    ) -> None:
        self.device = device
        self.running_count = 0
        self._environ = {**environ, "PICTOR_DEVICE": device}
        self._token = token
        self._tls = read(ProcessSettings, environ).tls
        self._on_change = on_change
        self._module = module
        self._channel: grpc.aio.Channel | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def is_up(self) -> bool:
        """Whether it can be given assignments."""
        return self._channel is not None

    async def models(self) -> Collection[str]:
        """Ask which models it holds; none, if it does not answer soon."""
        if not self._channel:
            return ()
        become(SUITE)
        stub = worker_service_pb2_grpc.WorkerServiceStub(self._channel)
        try:
            async with asyncio.timeout(ASK_SECONDS):
                device = await stub.GetDevice(worker_service_pb2.GetDeviceRequest())
        except (SuiteError, TimeoutError):
            return ()
        return device.models

    async def run(self, assignment: worker_pb2.Assignment) -> AsyncIterator[worker_pb2.Report]:
        """
        Give the process an assignment and pass on what it reports.

        Raises:
            DeviceLost: If the process ends, is not there, or does not answer.
        """
        if not self._channel:
            raise DeviceLost("the process ended")
        process = self._process
        become(SUITE)
        call = worker_service_pb2_grpc.WorkerServiceStub(self._channel).Run(
            worker_service_pb2.RunRequest(assignment=assignment)
        )
        try:
            async for response in call:
                yield response.report
        except (Unavailable, DeadlineExceeded) as error:
            _kill(process)
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
        """
        Tell the process that what it has of a job is enough.

        Does nothing where the job is not its own; with a process that ends, its attempts end too.
        """
        await self._tell(lambda stub: stub.Finish(worker_service_pb2.FinishRequest(job=job)))

    async def renew(self, seconds: float) -> None:
        """Let the process's attempts go on for so long from now."""
        request = worker_service_pb2.RenewRequest()
        request.lease.FromMicroseconds(round(seconds * 1e6))
        await self._tell(lambda stub: stub.Renew(request, timeout=RENEW_SECONDS))

    async def _tell(
        self, tell: "Callable[[worker_service_pb2_grpc.WorkerServiceAsyncStub], Awaitable[object]]"
    ) -> None:
        if not self._channel:
            return
        before = caller()
        become(SUITE)
        try:
            await tell(worker_service_pb2_grpc.WorkerServiceStub(self._channel))
        except (Unavailable, DeadlineExceeded) as error:
            log.warning("device.not_told", device=self.device, error=error.message)
        except asyncio.CancelledError:
            # As in run.
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
        finally:
            become(before)

    async def keep_running(self) -> None:
        """Start the process, and start it again when it ends; more slowly if it ends at once."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            started = time.monotonic()
            try:
                await self._run_once()
            except Exception:
                log.exception("device.start_failed", device=self.device)
            lived = time.monotonic() - started
            pause = FIRST_PAUSE_SECONDS if lived > HEALTHY_SECONDS else pause
            log.warning(
                "device.ended",
                device=self.device,
                lived_seconds=round(lived, 1),
                pause_seconds=pause,
            )
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _run_once(self) -> None:
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environ,
        )
        try:
            address = await _address(process)
            if not address:
                return
            log.info("device.started", device=self.device, pid=process.pid, address=address)
            async with open_channel(address, self._token, tls=self._tls) as channel:
                with self._reachable(channel):
                    await process.wait()
        finally:
            await _end(process)

    @contextlib.contextmanager
    def _reachable(self, channel: grpc.aio.Channel) -> Iterator[None]:
        self._channel = channel
        self._on_change()
        try:
            yield
        finally:
            self._channel = None
            self._on_change()


def _kill(process: asyncio.subprocess.Process | None) -> None:
    """End a process that does not answer: it may hang, and would be given the next job."""
    if process and process.returncode is None:
        process.kill()


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
