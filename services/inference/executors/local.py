"""
The local executor: device processes beside this one, one for each device.

``PICTOR_DEVICE=auto`` begins with one process at once and adds one for each further GPU, counted in
the meantime by a child: counting means importing torch, which this process never does.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog

from pictor.worker.v1 import worker_pb2
from services.inference.device_process import MODULE, DeviceProcess
from services.inference.executor import ExecutorSettings
from services.inference.worker.devices import AUTO, further, may_have_gpus
from services.inference.worker.settings import WorkerSettings
from services.rpc.process import ProcessSettings
from services.rpc.settings import count, read, setting

# So many more assignments than another must a process hold that has the model, before the other one
# is given one and loads the model too.
LOAD_WORTH_JOBS = 4
COUNT_MODULE = "services.inference.worker.devices"
# Threads that spin while they wait for each other starve those that they wait for.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}

log = structlog.get_logger()


@dataclass(frozen=True)
class LocalSettings(ProcessSettings):
    """What the local executor reads, besides the settings of its device processes."""

    device_jobs: int = setting(
        "PICTOR_DEVICE_JOBS",
        "32",
        count,
        "How many jobs a device process is given at once.",
    )


@contextlib.asynccontextmanager
async def open_executor(
    settings: ExecutorSettings, module: str = MODULE
) -> AsyncIterator["LocalExecutor"]:
    """
    Keep device processes running within the block.

    Args:
        settings: The children's environment, and the token that they accept.
        module: What the children run; another one than usual must speak as they do.

    Raises:
        SettingError: If a setting of theirs breaks its rule: better here at once than there.
    """
    names = read(WorkerSettings, settings.environ).devices
    executor = LocalExecutor(settings, module)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(executor.close)
        executor.start(names)
        if names == (AUTO,):
            executor.start_further()
        # Now the processes start, whatever the caller does next without awaiting anything.
        await asyncio.sleep(0)
        yield executor


class LocalExecutor:
    """
    Gives assignments to child processes.

    Args:
        settings: The children's environment, and the token that they accept.
        module: What the children run.
    """

    def __init__(self, settings: ExecutorSettings, module: str = MODULE) -> None:
        self._settings = settings
        self._module = module
        self._device_jobs = read(LocalSettings, settings.environ).device_jobs
        self._processes: list[DeviceProcess] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._up = asyncio.Event()

    @property
    def slot_count(self) -> int:
        """How many assignments the processes that are up run at the same moment."""
        return self._device_jobs * len(self._processes_up())

    def start(self, names: Sequence[str]) -> None:
        """Start a process for each of the named devices."""
        environ = child_environ(self._settings.environ, names)
        for name in names:
            process = DeviceProcess(
                name, environ, self._settings.token, self._changed, self._module
            )
            self._processes.append(process)
            self._tasks.append(asyncio.create_task(process.keep_running()))

    def start_further(self) -> None:
        """Start a process for each GPU beside the first, when they have been counted."""
        if may_have_gpus():
            self._tasks.append(asyncio.create_task(self._start_further()))

    async def close(self) -> None:
        """End all processes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ready(self) -> None:
        """Wait until a process has told its address."""
        await self._up.wait()

    async def run(self, assignment: worker_pb2.Assignment) -> AsyncIterator[worker_pb2.Report]:
        """
        Give an assignment to the process that is best placed, and pass on what it reports.

        Raises:
            DeviceLost: If that process ends or does not answer; the others' attempts go on.
        """
        process = await self._choose(assignment.model.name)
        process.running_count += 1
        try:
            async with contextlib.aclosing(process.run(assignment)) as reports:  # type: ignore[type-var]  # an async generator
                async for report in reports:
                    yield report
        finally:
            process.running_count -= 1

    async def renew(self, seconds: float) -> None:
        """Let the attempts of every process go on."""
        await asyncio.gather(*(process.renew(seconds) for process in self._processes_up()))

    async def finish(self, job: str) -> None:
        """Tell every process that what it has of a job is enough; only one of them draws it."""
        await asyncio.gather(*(process.finish(job) for process in self._processes_up()))

    async def _choose(self, model: str) -> DeviceProcess:
        while True:
            await self._up.wait()
            up = self._processes_up()
            if len(up) == 1:
                return up[0]
            held = await asyncio.gather(*(process.models() for process in up))
            # One may have ended while it was asked.
            known = {p: models for p, models in zip(up, held, strict=True) if p.is_up}
            if known:
                return best_placed(known, model)

    def _processes_up(self) -> list[DeviceProcess]:
        return [process for process in self._processes if process.is_up]

    def _changed(self) -> None:
        if self._processes_up():
            self._up.set()
        else:
            self._up.clear()

    async def _start_further(self) -> None:
        counting = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            COUNT_MODULE,
            stdout=asyncio.subprocess.PIPE,
            env=dict(self._settings.environ),
        )
        try:
            told, _ = await counting.communicate()
        finally:
            if counting.returncode is None:
                counting.kill()
                await counting.wait()
        if counting.returncode or not told.strip().isdigit():
            log.warning("devices.not_counted", code=counting.returncode)
            return
        self.start(further(int(told)))


def best_placed(known: Mapping[DeviceProcess, Collection[str]], model: str) -> DeviceProcess:
    """
    Choose among processes with the models that they hold: the least busy.

    Having to load the model counts like ``LOAD_WORTH_JOBS`` assignments.
    """

    def cost(process: DeviceProcess) -> int:
        return process.running_count + (0 if model in known[process] else LOAD_WORTH_JOBS)

    return min(known, key=cost)


def child_environ(environ: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """
    Return the environment of the processes of these devices.

    What the operator has set stays. Several processes on the CPU share its cores.
    """
    on_cpu = sum(name == "cpu" for name in names)
    threads = {}
    if on_cpu > 1:
        threads["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // on_cpu))
    return {**PATIENT, **threads, **environ}
