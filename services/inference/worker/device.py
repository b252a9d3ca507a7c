"""
The threads of the device: one that draws, step by step, and one that reads weights beside it.
"""

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from pictor.catalog.v1 import model_pb2
from pictor.inference.v1.progress_pb2 import Progress
from pictor.worker.v1 import worker_pb2
from services.inference.worker.drawing import Drawing
from services.inference.worker.inputs import Inputs
from services.inference.worker.reports import Reports

if TYPE_CHECKING:
    from services.inference.worker.engine import Engine

log = structlog.get_logger()


class Device:
    """
    Gives the engine its work, off the event loop.

    Args:
        make: Makes the engine, which imports torch: seconds, before which nothing else runs.
        name: What the device is called until the engine knows better.
    """

    def __init__(self, make: Callable[[], "Engine"], name: str) -> None:
        self._make = make
        self._name = name
        self._engine: Future[Engine] = Future()
        self._arrived: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._drawing = threading.Thread(target=self._draw_on, name="device", daemon=True)
        self._loading = ThreadPoolExecutor(1, "loader")

    def start(self) -> None:
        """Begin to make the engine."""
        self._drawing.start()

    def close(self) -> None:
        """Take no more steps, and give up what has not begun."""
        self._arrived.put(None)
        self._loading.shutdown(wait=False, cancel_futures=True)

    @property
    def is_ready(self) -> bool:
        """Whether the engine is made, and torch imported."""
        return self._known() is not None

    @property
    def name(self) -> str:
        """The device's name: ``cpu``, ``cuda:0``, ``mps``."""
        engine = self._known()
        return engine.device if engine else self._name

    @property
    def models(self) -> frozenset[str]:
        """The names of the models that are loaded."""
        engine = self._known()
        return engine.models if engine else frozenset()

    async def load(self, model: model_pb2.Model) -> float:
        """Load a model beside what is being drawn; see Engine.load."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._loading, lambda: context.run(lambda: self._engine.result().load(model))
        )

    async def draw(
        self, assignment: worker_pb2.Assignment, inputs: Inputs, reports: Reports
    ) -> Drawing:
        """
        Draw what an assignment asks for, after loading its model if need be.

        Raises:
            SuiteError: As Engine.load and the drawing do.
        """
        reports.start()
        load_seconds = 0.0
        if assignment.model.name not in self.models:
            reports.phase(Progress.PHASE_LOADING)
            load_seconds = await self.load(assignment.model)
        outcome: Future[Drawing] = Future()
        context = contextvars.copy_context()
        self._arrived.put(
            lambda: context.run(self._engine.result().begin, assignment, inputs, reports, outcome)
        )
        return replace(await asyncio.wrap_future(outcome), load_seconds=load_seconds)

    def _draw_on(self) -> None:
        try:
            engine = self._make()
        except Exception as error:
            log.exception("device.failed")
            self._engine.set_exception(error)
            return
        self._engine.set_result(engine)
        while True:
            try:
                begin = self._arrived.get(block=not engine.is_busy)
            except queue.Empty:
                engine.step()
                continue
            if begin is None:
                return
            begin()

    def _known(self) -> "Engine | None":
        if self._engine.done() and not self._engine.exception():
            return self._engine.result()
        return None
