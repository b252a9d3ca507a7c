"""
The threads of the device: one that draws, step by step, and one that reads weights beside it.
"""

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import structlog

from pictor.catalog.v1 import model_pb2
from pictor.inference.v1.progress_pb2 import Progress
from pictor.worker.v1 import worker_pb2
from services.inference.worker.drawing import Drawing
from services.inference.worker.inputs import Inputs
from services.inference.worker.reports import Reports

if TYPE_CHECKING:
    from services.inference.worker.engine import Engine
    from services.inference.worker.weights import LoadedModel

T = TypeVar("T")
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
        self._fractions: dict[str, float] = {}

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
        """The names of the models that are ready to draw."""
        engine = self._known()
        return engine.residency.models if engine else frozenset()

    @property
    def loading(self) -> Mapping[str, float]:
        """How much of the weights of a model that is being read has been, 0 to 1, by its name."""
        return self._fractions

    async def load(self, model: model_pb2.Model) -> bool:
        """Load a model if there is room, beside what is being drawn; see Residency.load."""
        return await self._in_loader(
            lambda engine: self._told(model, lambda told: engine.residency.load(model, told))
        )

    async def unload(self, name: str) -> None:
        """Give a model up if no drawing uses it."""
        await self._in_loader(lambda engine: engine.residency.unload(name))

    def pin(self, names: Iterable[str]) -> None:
        """Keep these models, and no others, whatever else needs room."""
        if engine := self._known():
            engine.residency.pin(names)

    async def draw(
        self, assignment: worker_pb2.Assignment, inputs: Inputs, reports: Reports
    ) -> Drawing:
        """
        Draw what an assignment asks for, after loading its model if need be.

        Raises:
            SuiteError: As Residency.lease and the drawing do.
        """
        reports.start()
        outcome: Future[Drawing] = Future()
        # From here on it ends by itself, and releases its model, whoever still waits.
        outcome.set_running_or_notify_cancel()
        engine = self._known()
        loaded = engine.residency.use(assignment.model.name) if engine else None
        begin = self._beginning(assignment, inputs, reports, outcome)
        if loaded:
            self._arrived.put(lambda: begin(loaded, 0.0))
        else:
            reports.phase(Progress.PHASE_LOADING)
            self._loading.submit(self._lease, assignment.model, reports, outcome, begin)
        return await asyncio.wrap_future(outcome)

    def _beginning(
        self,
        assignment: worker_pb2.Assignment,
        inputs: Inputs,
        reports: Reports,
        outcome: "Future[Drawing]",
    ) -> Callable[["LoadedModel", float], None]:
        context = contextvars.copy_context()

        def begin(loaded: "LoadedModel", seconds: float) -> None:
            engine = self._engine.result()
            context.run(
                engine.begin, loaded, assignment, inputs, reports, outcome, load_seconds=seconds
            )

        return begin

    def _lease(
        self,
        model: model_pb2.Model,
        reports: Reports,
        outcome: "Future[Drawing]",
        begin: Callable[["LoadedModel", float], None],
    ) -> None:
        try:
            residency = self._engine.result().residency
            loaded, seconds = self._told(
                model, lambda told: residency.lease(model, told, reports.check), reports.loaded
            )
        except Exception as error:  # noqa: BLE001 - it goes to who waits for the drawing
            outcome.set_exception(error)
            return
        self._arrived.put(lambda: begin(loaded, seconds))

    def _told(
        self,
        model: model_pb2.Model,
        load: Callable[[Callable[[float], None]], T],
        also: Callable[[float], None] = lambda _fraction: None,
    ) -> T:
        """Load, and let others see how far it is."""

        def tell(fraction: float) -> None:
            self._fractions[model.name] = fraction
            also(fraction)

        self._fractions[model.name] = 0.0
        try:
            return load(tell)
        finally:
            del self._fractions[model.name]

    async def _in_loader(self, function: Callable[["Engine"], T]) -> T:
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._loading, lambda: context.run(lambda: function(self._engine.result()))
        )

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
                begin = engine.step
            if begin is None:
                return
            try:
                begin()
            except Exception as error:
                # Without this thread everybody would wait for ever.
                log.exception("device.step_failed")
                engine.fail(error)

    def _known(self) -> "Engine | None":
        if self._engine.done() and not self._engine.exception():
            return self._engine.result()
        return None
