"""How the engine steps what it was given: together, in a fair order, each on its own account."""

import time

import pytest

from pictor.errors.v1 import error_reason_pb2 as reasons
from services.inference.worker.engine import Engine
from services.inference.worker.order import RISE_AFTER
from services.rpc.errors import Canceled, DeadlineExceeded, Exhausted, Internal
from tests.services.inference.worker.conftest import Drawer

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


@pytest.fixture
def own(engine, models_folder, model):
    """An engine of this test's own, whose model may be broken."""
    drawer = Drawer(Engine("cpu", [models_folder], batch_rows=4), model)
    drawer()
    return drawer


def finish(drawer):
    while drawer.engine.is_busy:
        drawer.engine.step()


def test_images_of_one_job_share_forwards(own):
    """
    Four images take as many forwards as one does.
    """
    with own.forwards() as forwards:
        own(image_count=4, step_count=5)

    assert forwards == [8] * 5


def test_a_job_joins_in_the_midst_of_another(own):
    """
    A job that comes later is in the very next forward, and leaves when it is done.
    """
    with own.forwards() as forwards:
        first = own.begin(step_count=8)
        for _ in range(3):
            own.engine.step()
        second = own.begin(step_count=2, seed=8)
        finish(own)

    assert forwards == [2, 2, 2, 4, 4, 2, 2, 2]
    assert first.result().images[0].tobytes() != second.result().images[0].tobytes()


def test_more_rows_than_fit_take_turns(own):
    """
    A batch has four rows here; six images are drawn all the same, the shorter ones first.
    """
    order = []
    outcomes = {steps: own.begin(image_count=2, step_count=steps) for steps in (9, 8, 3)}
    for steps, outcome in outcomes.items():
        outcome.add_done_callback(lambda _, steps=steps: order.append(steps))
    with own.forwards() as forwards:
        finish(own)

    assert order == [3, 8, 9]
    assert max(forwards) == 8
    assert sum(forwards) == 2 * 2 * (9 + 8 + 3)


def test_sizes_take_turns_and_none_starves(own):
    """
    Short jobs of another size go first, and a long one still takes its steps.
    """
    steps = []
    own.on_report = lambda _, report: steps.append(report.progress.step_count)
    long = own.begin(step_count=40)
    own.engine.step()
    for _ in range(6):
        short = own.begin(step_count=4, width_px=128)
        while not short.done():
            own.engine.step()
    taken = steps.count(40)

    assert not long.done()
    assert taken >= 6 * 4 // (RISE_AFTER + 1)
    finish(own)
    assert long.result().images


def test_a_higher_priority_goes_first(own):
    """
    Of jobs that cannot share a forward, the more important one is drawn before the shorter one.
    """
    short = own.begin(step_count=2)
    important = own.begin(step_count=6, width_px=128, priority=5)
    while not important.done():
        own.engine.step()

    assert not short.done()
    finish(own)
    assert short.result().images


def test_a_stopped_job_frees_its_row_at_the_next_step(own):
    """
    The others go on without it.
    """
    with own.forwards() as forwards:
        kept, stopped = own.begin(step_count=6), own.begin(step_count=50, seed=9)
        for _ in range(2):
            own.engine.step()
        stopped.stop()
        finish(own)

    assert forwards == [4, 4, 2, 2, 2, 2]
    with pytest.raises(Canceled):
        stopped.result()
    assert kept.result().images


def test_a_deadline_ends_a_job_at_its_next_step(own):
    """
    A job whose time is over is not drawn to its end.
    """
    late = own.begin(step_count=500, deadline=time.monotonic() + 0.2)
    kept = own.begin(step_count=3)
    finish(own)

    with pytest.raises(DeadlineExceeded):
        late.result()
    assert kept.result().images


def test_a_full_memory_splits_the_batch_and_is_remembered(own):
    """
    What does not fit together is drawn in parts, at once and from then on.
    """
    tried = []

    def full(rows):
        tried.append(rows)
        return rows > 4 and MemoryError()

    with failing(own, full), own.forwards() as forwards:
        outcome = own.begin(image_count=4, step_count=3)
        finish(own)

    assert forwards == [4] * 6
    assert tried == [8, *forwards]
    assert len(outcome.result().images) == 4


def test_what_does_not_fit_alone_fails_alone(own):
    """
    A job too large for the memory ends with a clear error.
    """
    with failing(own, lambda rows: MemoryError()):
        outcome = own.begin(step_count=3)
        finish(own)

    with pytest.raises(Exhausted) as told:
        outcome.result()
    assert told.value.reason == reasons.ERROR_REASON_DEVICE_OUT_OF_MEMORY
    assert own().images, "and the next job is drawn"


def test_a_forward_that_fails_ends_only_who_makes_it_fail(own):
    """
    Rows that shared a forward with a poisonous one are drawn.
    """

    def poisoned(named):
        return (named["timestep"] > 2000).any() and RuntimeError("poison")

    healthy, ill = own.begin(step_count=4), own.begin(step_count=4, seed=8)
    own.engine.step()
    row = next(iter(list(own.engine._rows)[1:]))
    row._asked[0].lanes["timestep"] = row._asked[0].lanes["timestep"] + 5000
    with failing(own, poisoned, whole=True):
        finish(own)

    assert healthy.result().images
    with pytest.raises(RuntimeError, match="poison"):
        ill.result()


def test_what_is_not_finite_ends_only_its_own_job(own):
    """
    Noise that is not finite stays in its row.
    """
    import torch

    healthy, ill = own.begin(step_count=4), own.begin(step_count=4, seed=8)
    own.engine.step()
    row = list(own.engine._rows)[1]
    row._asked[0].lanes["sample"].fill_(torch.nan)
    finish(own)

    assert healthy.result().images[0].tobytes() == own(step_count=4).images[0].tobytes()
    with pytest.raises(Internal) as told:
        ill.result()
    assert told.value.reason == reasons.ERROR_REASON_OUTPUT_NOT_FINITE


def failing(drawer, check, *, whole=False):
    """Let the denoiser's forward raise what *check* gives for its number of rows."""
    import contextlib

    module = drawer.denoiser

    def before(_module, _given, named):
        if error := check(named if whole else len(named["sample"])):
            raise error

    @contextlib.contextmanager
    def hooked():
        hook = module.register_forward_pre_hook(before, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    return hooked()
