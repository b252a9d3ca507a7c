"""
A device process that needs no torch: ``python -m tests.chaos.device_process``.

All of it is the real one but the engine: its server, leases, reports, stores and its place in the
catalog. The engine takes its steps by sleeping, and draws what the seed says.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from PIL import Image

from pictor.catalog.v1 import model_pb2
from pictor.inference.v1.progress_pb2 import Progress
from pictor.worker.v1 import worker_pb2
from services.inference.worker.__main__ import main
from services.inference.worker.drawing import Drawing
from services.inference.worker.inputs import Inputs
from services.inference.worker.reports import Reports
from services.inference.worker.settings import WorkerSettings
from services.rpc.errors import SuiteError

STEP_SECONDS = 0.015


@dataclass(frozen=True)
class Named:
    """Stands for a model's weights."""

    name: str


class PlainResidency:
    """Holds every model that it is told to hold."""

    def __init__(self) -> None:
        self.models: frozenset[str] = frozenset()

    def use(self, name: str) -> Named | None:
        return Named(name) if name in self.models else None

    def load(self, model: model_pb2.Model, told: Callable[[float], None]) -> bool:
        told(1.0)
        self.models |= {model.name}
        return True

    def lease(
        self,
        model: model_pb2.Model,
        told: Callable[[float], None],
        check: Callable[[], None],
    ) -> tuple[Named, float]:
        check()
        self.load(model, told)
        return Named(model.name), 0.0

    def unload(self, name: str) -> None:
        self.models -= {name}

    def pin(self, names: Iterable[str]) -> None:
        """Nothing here ever makes room."""


@dataclass(eq=False)
class Underway:
    """A drawing in progress."""

    assignment: worker_pb2.Assignment
    reports: Reports
    outcome: "Future[Drawing]"
    steps: int = 0


class PlainEngine:
    """Draws one colour, step by step."""

    device = "cpu"

    def __init__(self, _settings: WorkerSettings) -> None:
        self.residency = PlainResidency()
        self._underway: list[Underway] = []

    @property
    def is_busy(self) -> bool:
        return bool(self._underway)

    def begin(
        self,
        _loaded: Named,
        assignment: worker_pb2.Assignment,
        _inputs: Inputs,
        reports: Reports,
        outcome: "Future[Drawing]",
        *,
        load_seconds: float = 0.0,
    ) -> None:
        self._underway.append(Underway(assignment, reports, outcome))
        try:
            reports.phase(Progress.PHASE_ENCODING)
        except SuiteError:
            # It was ended already; the next step finds that out.
            return

    def step(self) -> None:
        time.sleep(STEP_SECONDS)
        for one in list(self._underway):
            try:
                one.reports.check()
                self._go_on(one)
            except SuiteError as error:
                self._underway.remove(one)
                one.outcome.set_exception(error)

    def fail(self, error: Exception) -> None:
        for one in self._underway:
            one.outcome.set_exception(error)
        self._underway.clear()

    def _go_on(self, one: Underway) -> None:
        one.steps += 1
        one.reports.step(one.steps, one.assignment.generation.step_count)
        if one.steps >= one.assignment.generation.step_count:
            self._underway.remove(one)
            one.outcome.set_result(drawing(one.assignment))


def drawing(assignment: worker_pb2.Assignment) -> Drawing:
    """Draw what is asked for; the same seed gives the same picture."""
    wanted = assignment.generation
    size = (wanted.width_px, wanted.height_px)
    seeds = [(wanted.seed + index) % 2**32 for index in range(wanted.image_count)]
    images = [Image.new("RGB", size, tuple(seed.to_bytes(4, "big")[1:])) for seed in seeds]
    return Drawing(images=images, seeds=seeds, sampler="Euler", receipt=())


if __name__ == "__main__":
    main(PlainEngine)
