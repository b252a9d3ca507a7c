"""
The suite as separate processes, each started again when it ends.

    accounts  catalog  storage  gateway  inference-1 [inference-2]
                                              |           |
                                          device-1   [device-2]

A device process is a child of its inference process, which starts it again by itself.
"""

import asyncio
import contextlib
import os
import pathlib
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import psutil

from services.rpc.crash import STATUS

# Below the ports that the kernel gives to connections: one that is free for a moment stays free.
PORTS = range(20_000, 30_000)
RESTART_SECONDS = 0.05
STOP_SECONDS = 15.0
# Short, so that a round is short; in the same proportions as the defaults.
QUICK = {
    "PICTOR_HEARTBEAT_SECONDS": "0.3",
    "PICTOR_LEASE_SECONDS": "1",
    "PICTOR_RECONCILE_SECONDS": "2",
    "PICTOR_DRAIN_SECONDS": "1",
    "PICTOR_COLLECT_SECONDS": "6",
    "PICTOR_JOB_ATTEMPTS": "6",
    "PICTOR_DEFAULT_PRICE": "1000000",
    "PICTOR_LOG_FORM": "json",
    "PICTOR_DEVICE": "cpu",
    "OMP_NUM_THREADS": "1",
}
LEASE_SECONDS = float(QUICK["PICTOR_LEASE_SECONDS"])
COLLECT_SECONDS = float(QUICK["PICTOR_COLLECT_SECONDS"])
PLAIN_INFERENCE, REAL_INFERENCE = "tests.chaos.inference_process", "services.inference"
DEVICES = ("tests.chaos.device_process", "services.inference.worker")
MODULES = {
    "accounts": "services.accounts",
    "catalog": "services.catalog",
    "storage": "services.storage",
    "gateway": "gateway",
}


class Death(NamedTuple):
    """
    The end of a process.

    Attributes:
        at: When, in seconds since the epoch.
        fault: What was done to it; empty if it ended by itself.
    """

    name: str
    at: float
    fault: str


@dataclass
class Part:
    """One process of the suite, over all its lives."""

    name: str
    module: str
    environ: Mapping[str, str]
    log: pathlib.Path
    process: asyncio.subprocess.Process | None = None
    killed: bool = False
    started: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid


class Processes:
    """
    Starts, kills and restarts the parts of a suite.

    Args:
        folder: Empty; data, logs and the file that names a crash point lie in it.
        databases: URLs by service, where it is not SQLite.
        replicas: How many inference processes there are.

    Attributes:
        deaths: All so far.
    """

    def __init__(
        self, folder: pathlib.Path, databases: Mapping[str, str], replicas: int = 1
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.crash_file = folder / "crash"
        self.deaths: list[Death] = []
        self._stopping = False
        self._keepers: list[asyncio.Task[None]] = []
        self._module = PLAIN_INFERENCE
        services = ("HTTP", "ACCOUNTS", "CATALOG", "STORAGE")
        names = [*services, *(f"INFERENCE-{k}" for k in range(1, replicas + 1))]
        self.addresses = dict(zip(names, free_addresses(len(names)), strict=True))
        self._environ = {
            **os.environ,
            **QUICK,
            **{f"PICTOR_{name}_ADDRESS": self.addresses[name] for name in services},
            **{f"PICTOR_{name.upper()}_DATABASE_URL": url for name, url in databases.items()},
            "PICTOR_DATA_DIR": str(self.data),
            "PICTOR_CRASH_FILE": str(self.crash_file),
        }
        self.parts = {
            name: self._part(name, module, "INFERENCE-1") for name, module in MODULES.items()
        }
        for name in names[len(services) :]:
            self.parts[name.lower()] = self._part(name.lower(), self._module, name)

    @property
    def names(self) -> list[str]:
        """What can be killed: the parts, and the devices of those that have one."""
        devices = [name.replace("inference", "device") for name in self.replicas]
        return [*self.parts, *devices]

    @property
    def replicas(self) -> list[str]:
        """The names of the inference processes."""
        return [name for name in self.parts if name.startswith("inference")]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep all parts running within the block."""
        self.data.mkdir(parents=True)
        for part in self.parts.values():
            await self._start(part)
        try:
            yield
        finally:
            await self._stop()

    async def use_real_device(self) -> None:
        """Let the device processes be the ones with torch from now on."""
        for name in self.replicas:
            self.parts[name].module = REAL_INFERENCE
            await self._end(name)

    def kill(self, name: str) -> bool:
        """Kill a process; False if there is none at the moment."""
        pid = self._pid(name)
        if pid is None:
            return False
        if name in self.parts:
            self.parts[name].killed = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if name not in self.parts:
            self.deaths.append(Death(name, time.time(), "kill"))
        return True

    async def pause(self, name: str, seconds: float) -> bool:
        """Let a process stand still for so long; False if there is none at the moment."""
        pid = self._pid(name)
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                os.kill(pid, signal.SIGCONT)
        return True

    def arm(self, point: str) -> None:
        """Let the next process that comes to a crash point end there."""
        aside = self.crash_file.with_suffix(".new")
        aside.write_text(point)
        aside.replace(self.crash_file)

    async def disarmed(self, seconds: float) -> None:
        """Wait until a process has ended at the crash point, and no longer than this."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.crash_file.exists():  # noqa: ASYNC110 - another process removes it
                    await asyncio.sleep(0.02)

    def disarm(self) -> list[str]:
        """Forget the crash point, and return it if no process has ended at it."""
        try:
            missed = [self.crash_file.read_text()]
            self.crash_file.unlink()
        except FileNotFoundError:
            return []
        return missed

    def device_pids(self) -> list[int]:
        """Find the device processes that live."""
        return [pid for name in self.replicas if (pid := self._device(name)) is not None]

    def _part(self, name: str, module: str, inference: str) -> Part:
        address = self.addresses[inference]
        environ = {**self._environ, "PICTOR_INFERENCE_ADDRESS": address}
        return Part(name, module, environ, self.folder / f"{name}.log")

    def _pid(self, name: str) -> int | None:
        if name not in self.parts:
            return self._device(name.replace("device", "inference"))
        process = self.parts[name].process
        return process.pid if process and process.returncode is None else None

    def _device(self, parent: str) -> int | None:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.parts[parent].pid).children():
                if set(DEVICES) & set(child.cmdline()):
                    return child.pid
        return None

    async def _start(self, part: Part) -> None:
        self._keepers.append(asyncio.create_task(self._keep(part)))
        await part.started.wait()

    async def _keep(self, part: Part) -> None:
        """Run a part again and again."""
        while not self._stopping:
            part.killed = False
            with part.log.open("ab") as log:
                part.process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", part.module, env=part.environ, stdout=log, stderr=log
                )
            part.started.set()
            status = await part.process.wait()
            if not self._stopping:
                fault = {STATUS: "crash"}.get(status, "")
                fault = "kill" if part.killed else fault
                self.deaths.append(Death(part.name, time.time(), fault))
                await asyncio.sleep(RESTART_SECONDS)

    async def _end(self, name: str) -> None:
        """End a part in order; it is started again."""
        part = self.parts[name]
        assert part.process
        part.killed = True
        ending = part.process
        ending.terminate()
        await ending.wait()

    async def _stop(self) -> None:
        self._stopping = True
        living = [p.process for p in self.parts.values() if p.process]
        for process in living:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        _, late = await asyncio.wait(self._keepers, timeout=STOP_SECONDS)
        for process in living:
            if late and process.returncode is None:
                process.kill()
        await asyncio.gather(*self._keepers)


def free_addresses(count: int) -> Sequence[str]:
    """Find ports that nobody uses."""
    found: list[str] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(f"127.0.0.1:{port}")
        if len(found) == count:
            break
    return found
