"""
Where a job runs: the contract between the dispatcher and what stands behind it.

An executor is one file below ``executors/`` with a function

    open_executor(settings: ExecutorSettings) -> AbstractAsyncContextManager[Executor]

and is chosen by the file's name. It is the muscle, never the truth: after its loss, SQL alone is
enough to run everything again.
"""

import importlib
import pkgutil
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, cast

from pictor.worker.v1 import worker_pb2
from services.inference import executors
from services.rpc.settings import SettingError


class DeviceLost(Exception):
    """The device process ended, or cannot be reached any more, while it held an assignment."""


class Executor(Protocol):
    """Something that draws."""

    @property
    def slot_count(self) -> int:
        """How many assignments run at the same moment."""

    async def ready(self) -> None:
        """Wait until an assignment would start at once, were a slot free."""

    def run(self, assignment: worker_pb2.Assignment) -> AsyncIterator[worker_pb2.Report]:
        """
        Draw, and report; the last report holds the result or the error.

        Closing the iterator ends the attempt: the device stops at its next step.

        Raises:
            DeviceLost: If the attempt's end will never be known.
        """

    async def finish(self, job: str) -> None:
        """Let an attempt end with what it has: no further step is taken. Does nothing elsewhere."""


@dataclass(frozen=True)
class ExecutorSettings:
    """
    What an executor is given.

    Attributes:
        environ: The environment for device processes, with the addresses of the suite.
        token: The suite's service token.
    """

    environ: Mapping[str, str]
    token: str


def open_executor(name: str, settings: ExecutorSettings) -> AbstractAsyncContextManager[Executor]:
    """
    Open the executor of this name.

    Raises:
        SettingError: If there is none.
    """
    known = sorted(module.name for module in pkgutil.iter_modules(executors.__path__))
    if name not in known:
        raise SettingError(f"PICTOR_EXECUTOR={name!r}: must be one of {', '.join(known)}")
    module = importlib.import_module(f"{executors.__name__}.{name}")
    return cast("AbstractAsyncContextManager[Executor]", module.open_executor(settings))
