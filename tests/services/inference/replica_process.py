"""
A process of the inference service whose executor is scripted: it can be paused and killed.

Its attempts take as many seconds as the prompt says, and end with a result.
"""

import asyncio
import os
from collections.abc import AsyncIterator

from pictor.worker.v1 import worker_pb2
from services.inference import __main__ as inference
from services.rpc import logs
from services.rpc.process import run_until_stopped
from services.rpc.settings import read
from tests.services.inference.scripted import ScriptedExecutor


class TimedExecutor(ScriptedExecutor):
    """Ends each attempt when its time is over."""

    async def run(self, assignment: worker_pb2.Assignment) -> AsyncIterator[worker_pb2.Report]:
        asyncio.get_running_loop().call_later(float(assignment.generation.prompt), self.gate.set)
        async for report in super().run(assignment):
            yield report


async def tell(address: str) -> None:
    print(address, flush=True)  # noqa: T201 - for who started this


if __name__ == "__main__":
    logs.configure("info", "json")
    settings = read(inference.Settings, os.environ)
    asyncio.run(run_until_stopped(inference.serving(settings, TimedExecutor()), tell))
