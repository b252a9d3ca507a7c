"""A tiny model with random weights, saved as any checkpoint is, and an engine that reads it."""

import contextlib
import math
import os
import pathlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest

from pictor.catalog.v1 import model_pb2
from pictor.inference.v1 import generation_pb2, progress_pb2
from pictor.worker.v1 import worker_pb2
from services.inference.worker.__main__ import go_offline

# Before anything imports torch's friends.
go_offline(os.environ)

from PIL import Image  # noqa: E402  # after the environment is set

from services.inference.worker.drawing import Drawing  # noqa: E402
from services.inference.worker.inputs import Inputs  # noqa: E402
from services.inference.worker.reports import Reports  # noqa: E402
from tests.services.inference.worker.tiny import save_tiny_model  # noqa: E402

SIDE_PX = 64
STEPS = 4


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of models that holds ``tiny``."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model(folder / "tiny")
    return folder


@pytest.fixture(scope="session")
def engine(models_folder):
    """An engine on the CPU."""
    import torch  # seconds, which only these tests need

    from services.inference.worker.engine import Engine  # imports torch

    # Threads that wait for each other are slow where other processes want the cores.
    torch.set_num_threads(1)
    return Engine("cpu", [models_folder])


@pytest.fixture
def model() -> model_pb2.Model:
    """The catalog's entry of the tiny model, which draws every size."""
    return model_pb2.Model(
        name="models/tiny",
        family="stable-diffusion",
        checkpoint=model_pb2.Checkpoint(folder="tiny"),
    )


@dataclass
class Drawer:
    """Draws through the engine, and keeps what it reported."""

    engine: object
    model: model_pb2.Model
    reports: list[worker_pb2.Report] = field(default_factory=list)
    on_report: Callable[[Reports, worker_pb2.Report], None] | None = None

    def __call__(self, inputs: Inputs | None = None, **fields: object) -> Drawing:
        drawing = self.begin(inputs, **fields)
        while self.engine.is_busy:
            self.engine.step()
        return drawing.result()

    def begin(
        self,
        inputs: Inputs | None = None,
        *,
        priority: int = 0,
        deadline: float = math.inf,
        **fields: object,
    ) -> "Future[Drawing]":
        """Give the engine a drawing, which it draws when it is made to step."""
        self.reports.clear()
        reports = Reports(lambda report: self._take(reports, report), deadline)
        loaded, seconds = self.engine.residency.lease(self.model)
        assignment = worker_pb2.Assignment(
            job="jobs/1",
            account="accounts/1",
            generation=generation_of(**fields),
            model=self.model,
            priority=priority,
        )
        outcome: Future[Drawing] = Future()
        given = (loaded, assignment, inputs or Inputs(), reports, outcome)
        self.engine.begin(*given, load_seconds=seconds)
        outcome.stop = reports.stop
        return outcome

    @contextlib.contextmanager
    def forwards(self) -> Iterator[list[int]]:
        """List how many rows each forward of the denoiser has."""
        counts: list[int] = []

        def count(_module, _given, named, _output):
            counts.append(len(named["sample"] if "sample" in named else named["hidden_states"]))

        module = self.denoiser
        hook = module.register_forward_hook(count, with_kwargs=True)
        try:
            yield counts
        finally:
            hook.remove()

    @property
    def denoiser(self):
        """The module that the steps are taken with."""
        loaded, _ = self.engine.residency.lease(self.model)
        self.engine.residency.release(self.model.name)
        return loaded.components[loaded.family.denoiser.part]

    def picture(self, inputs: Inputs | None = None, **fields: object) -> Image.Image:
        return self(inputs, **fields).images[0]

    @property
    def progress(self) -> list[progress_pb2.Progress]:
        return [r.progress for r in self.reports if r.HasField("progress")]

    @property
    def previews(self) -> list[progress_pb2.Preview]:
        return [r.preview for r in self.reports if r.HasField("preview")]

    def _take(self, reports: Reports, report: worker_pb2.Report) -> None:
        self.reports.append(report)
        if self.on_report:
            self.on_report(reports, report)


@pytest.fixture
def draw(engine, model) -> Drawer:
    """Draw with the tiny model."""
    return Drawer(engine, model)


def generation_of(**fields: object) -> generation_pb2.Generation:
    """A generation as the inference service hands it on: every tunable set."""
    defaults = {
        "model": "models/tiny",
        "prompt": "a red circle",
        "width_px": SIDE_PX,
        "height_px": SIDE_PX,
        "step_count": STEPS,
        "guidance_scale": 4.0,
        "seed": 7,
        "image_count": 1,
    }
    return generation_pb2.Generation(**{**defaults, **fields})


@pytest.fixture
def gradient() -> Callable[..., Image.Image]:
    """Make a picture in which every pixel differs from its neighbours."""

    def make(width_px: int = SIDE_PX, height_px: int = SIDE_PX) -> Image.Image:
        red = Image.linear_gradient("L").resize((width_px, height_px))
        green = red.rotate(180)
        blue = Image.radial_gradient("L").resize((width_px, height_px))
        return Image.merge("RGB", (red, green, blue))

    return make


@pytest.fixture
def half_mask() -> Callable[..., Image.Image]:
    """Make a mask that repaints the right half."""

    def make(width_px: int = SIDE_PX, height_px: int = SIDE_PX) -> Image.Image:
        mask = Image.new("L", (width_px, height_px), 0)
        mask.paste(255, (width_px // 2, 0, width_px, height_px))
        return mask

    return make
