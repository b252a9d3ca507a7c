import asyncio
import time

import pytest

from pictor.catalog.v1 import model_pb2
from pictor.inference.v1.progress_pb2 import Progress
from pictor.worker.v1 import worker_pb2
from services.inference.worker.device import Device
from services.inference.worker.inputs import Inputs
from services.inference.worker.reports import Reports
from services.rpc.errors import Canceled, Internal
from tests.services.inference.worker.conftest import generation_of
from tests.services.inference.worker.tiny import save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


@pytest.fixture
async def device(engine, tmp_path):
    """A device of this test's own, with two models to load."""
    for name in ("one", "two"):
        save_tiny_model(tmp_path / name)
    device = Device(lambda: type(engine)("cpu", [tmp_path]), "cpu")
    device.start()
    yield device
    device.close()


def model(name):
    checkpoint = model_pb2.Checkpoint(folder=name)
    return model_pb2.Model(name=f"models/{name}", family="stable-diffusion", checkpoint=checkpoint)


class Attempt:
    """A drawing under way, and what it has told."""

    def __init__(self, device, name="one", **fields):
        self.told = []
        self.reports = Reports(self.told.append)
        assignment = worker_pb2.Assignment(
            job="jobs/1", generation=generation_of(**fields), model=model(name)
        )
        self.drawing = asyncio.ensure_future(device.draw(assignment, Inputs(), self.reports))

    @property
    def step(self):
        return max((report.progress.step for report in self.told), default=0)

    async def until_step(self, step):
        async with asyncio.timeout(20):
            # Told by the device's thread, which knows no event of this loop.
            while self.step < step:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


async def test_loading_is_reported_once(device):
    """
    The first drawing with a model shows that it loads; the next one does not.
    """
    first, second = Attempt(device), None
    drawn = await first.drawing
    second = Attempt(device)
    drawn_again = await second.drawing

    assert first.told[0].progress.phase == Progress.PHASE_LOADING
    assert drawn.load_seconds > 0 == drawn_again.load_seconds
    assert Progress.PHASE_LOADING not in [report.progress.phase for report in second.told]


async def test_a_model_is_loaded_while_another_draws(device):
    """
    Reading weights holds nobody's steps up.
    """
    long = Attempt(device, step_count=900)
    await long.until_step(3)
    before = long.step
    seconds = await device.load(model("two"))

    assert seconds > 0
    assert not long.drawing.done()
    assert device.models == {"models/one", "models/two"}
    await long.until_step(before + 3)
    long.reports.stop()
    with pytest.raises(Canceled):
        await long.drawing


async def test_a_short_job_is_not_held_up_by_a_long_one(device):
    """
    Four steps are done long before the nine hundred that came first.
    """
    long = Attempt(device, step_count=900)
    await long.until_step(3)
    short = Attempt(device, step_count=4, seed=3)
    await short.drawing

    assert long.step < 100
    long.reports.stop()
    with pytest.raises(Canceled):
        await long.drawing


async def test_who_no_longer_waits_leaves_nothing_behind(device):
    """
    A drawing whose caller is gone ends, and the next one is drawn.
    """
    gone = Attempt(device, step_count=900)
    await gone.until_step(3)
    gone.drawing.cancel()
    gone.reports.stop()

    assert (await Attempt(device).drawing).images


async def test_an_engine_that_cannot_be_made_is_each_drawings_error():
    """
    Nobody waits for ever for a device that is not there.
    """

    def broken():
        raise Internal("no such device")

    device = Device(broken, "cuda:9")
    device.start()
    started = time.monotonic()
    with pytest.raises(Internal, match="no such device"):
        await Attempt(device).drawing
    device.close()

    assert time.monotonic() - started < 5
    assert not device.is_ready


async def test_a_defect_of_the_engine_ends_what_is_under_way_and_no_more(device):
    """
    Whoever waits gets an error, and the next job is drawn.
    """
    ill = Attempt(device, step_count=900)
    await ill.until_step(3)
    engine = device._engine.result()
    engine._most_rows = None
    with pytest.raises(AttributeError):
        await ill.drawing
    engine._most_rows = {}

    assert (await Attempt(device).drawing).images
