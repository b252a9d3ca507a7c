"""The one thread in which all work of the device is done, in the order in which it arrives."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import structlog

if TYPE_CHECKING:
    from services.inference.worker.engine import Engine

T = TypeVar("T")
log = structlog.get_logger()


class Device:
    """
    Runs functions of the engine, one after another, off the event loop.

    Args:
        make: Makes the engine, which imports torch: seconds, before which nothing else runs.
        name: What the device is called until the engine knows better.
    """

    def __init__(self, make: Callable[[], "Engine"], name: str) -> None:
        self._make = make
        self._name = name
        self._thread = ThreadPoolExecutor(1, "device")
        self._engine: Future[Engine] = Future()

    def start(self) -> None:
        """Begin to make the engine."""
        self._thread.submit(self._begin)

    def close(self) -> None:
        """Give up what has not begun."""
        self._thread.shutdown(wait=False, cancel_futures=True)

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

    async def run(self, function: Callable[["Engine"], T]) -> T:
        """
        Call *function* with the engine in the device's thread, after all that came before.

        When the awaiting task is cancelled, what has not begun does not begin; what has, goes on.
        """
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread, lambda: context.run(lambda: function(self._engine.result()))
        )

    def _begin(self) -> None:
        try:
            self._engine.set_result(self._make())
        except Exception as error:
            log.exception("device.failed")
            self._engine.set_exception(error)

    def _known(self) -> "Engine | None":
        if self._engine.done() and not self._engine.exception():
            return self._engine.result()
        return None
