"""
Where a job runs: the contract between the dispatcher and what stands behind it.

An executor is one file below ``executors/`` with a function

    open_executor(settings: ExecutorSettings) -> AbstractAsyncContextManager[Executor]

and is chosen by the file's name. It is the muscle, never the truth: after its loss, SQL alone is
enough to run everything again.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, cast

from pictor.worker.v1 import worker_pb2
from services.inference import executors
from services.inference.settings import Settings
from services.rpc.principals import service_token
from services.rpc.process import ProcessSettings
from services.rpc.settings import SettingError


class DeviceLost(Exception):
    """The device process ended, or cannot be reached any more, while it held an assignment."""


class Executor(Protocol):
    """Something that draws."""

    @property
    def slot_count(self) -> int:
        """How many assignments run at the same moment; 0 while it is not ready."""

    async def ready(self) -> None:
        """Wait until an assignment would start at once, were a slot free."""

    async def renew(self, seconds: float) -> None:
        """
        Let the attempts go on for so long from now, and no longer unless it is called again.

        Who gave them may be gone then, and others may have begun them anew. Before the first call
        they go on.
        """

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


def open_executor(
    settings: Settings, environ: Mapping[str, str]
) -> AbstractAsyncContextManager[Executor]:
    """
    Open the executor that the settings name.

    Args:
        settings: Of the inference service.
        environ: What device processes find in their environment, besides the suite's addresses.

    Raises:
        SettingError: If there is none of that name.
    """
    name = settings.executor
    known = sorted(module.name for module in pkgutil.iter_modules(executors.__path__))
    if name not in known:
        raise SettingError(f"PICTOR_EXECUTOR={name!r}: must be one of {', '.join(known)}")
    module = importlib.import_module(f"{executors.__name__}.{name}")
    given = ExecutorSettings({**environ, **_variables(settings)}, service_token(settings.data_dir))
    return cast("AbstractAsyncContextManager[Executor]", module.open_executor(given))


def _variables(settings: ProcessSettings) -> dict[str, str]:
    """Return this process's settings, whatever they were read from, for other processes."""
    return {
        field.metadata["variable"]: str(getattr(settings, field.name))
        for field in dataclasses.fields(ProcessSettings)
    }
