"""The inference service with a device process that needs no torch; all else is as it always is."""

import contextlib
import os
from collections.abc import AsyncIterator

from services.inference import __main__ as inference
from services.inference.executor import ExecutorSettings
from services.inference.executors import local
from services.inference.settings import Settings
from services.rpc.principals import service_token
from services.rpc.process import run_process

DEVICE_MODULE = "tests.chaos.device_process"


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[str]:
    """Run the service within the block and yield its address."""
    given = ExecutorSettings(os.environ, service_token(settings.data_dir))
    async with (
        local.open_executor(given, DEVICE_MODULE) as executor,
        inference.serving(settings, executor) as bound,
    ):
        yield bound


if __name__ == "__main__":
    run_process(Settings, running, os.environ)
