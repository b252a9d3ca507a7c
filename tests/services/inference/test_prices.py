import pytest

from pictor.catalog.v1 import model_pb2
from pictor.inference.v1 import generation_pb2, job_pb2, refinement_pb2
from services.inference.paces import Paces
from services.inference.prices import MOST_MICROCREDITS, pixel_steps, price_of
from services.rpc.errors import InvalidRequest

Generation = generation_pb2.Generation


def generation(**fields) -> Generation:
    return Generation(
        **{"width_px": 1000, "height_px": 1000, "step_count": 20, "image_count": 1, **fields}
    )


def model(price: int) -> model_pb2.Model:
    return model_pb2.Model(name="models/a/b", price_microcredits=price)


@pytest.mark.parametrize(
    ("fields", "price", "wanted"),
    [
        ({}, 7, 140),
        ({"image_count": 3}, 7, 420),
        ({"step_count": 1}, 7, 7),
        ({"width_px": 64, "height_px": 64, "step_count": 1}, 1, 1),
        ({"width_px": 1001}, 7, 141),
        ({}, 0, 0),
        ({"hires": refinement_pb2.HiresPass(width_px=2000, height_px=2000)}, 7, 700),
        ({"hires": refinement_pb2.HiresPass(width_px=2000, height_px=1000, step_count=5)}, 1, 30),
        ({"tiles": refinement_pb2.TiledPass(factor=1.5)}, 1, 45),
        ({"tiles": refinement_pb2.TiledPass()}, 1, 20),
    ],
)
def test_a_price_is_megapixels_times_steps_times_images_rounded_up(fields, price, wanted):
    """
    Every pass that the device makes is paid for, and a fraction of a micro-credit as a whole one.
    """
    assert price_of(generation(**fields), model(price)) == wanted


@pytest.mark.parametrize(
    ("fields", "price"),
    [
        ({"image_count": 2**31 - 1, "step_count": 2**31 - 1}, 10**12),
        ({"image_count": -1}, 5),
        ({}, 2**63 - 1),
    ],
)
def test_a_price_neither_overflows_nor_is_negative(fields, price):
    """
    What the limits of a model might let through is still refused before anything is held.
    """
    with pytest.raises(InvalidRequest, match=f"at most {MOST_MICROCREDITS}"):
        price_of(generation(**fields), model(price))


def ended(seconds: float, load: float = 0, **fields) -> job_pb2.Job:
    job = job_pb2.Job(generation=generation(model="models/a/b", **fields))
    job.start_time.FromNanoseconds(10**9)
    job.finish_time.FromNanoseconds(10**9 + int((seconds + load) * 1e9))
    job.result.timings.load.FromNanoseconds(int(load * 1e9))
    return job


def test_nothing_is_expected_of_what_was_never_seen():
    """
    An honest estimate needs a job of the same model; otherwise there is none.
    """
    paces = Paces()
    paces.note(ended(4))
    other = job_pb2.Job(generation=generation(model="models/c/d"))

    assert paces.expected_seconds(other, 0) is None


def test_an_estimate_follows_work_and_queue():
    """
    Twice the steps take twice as long, the time to load weights does not count, and each round of
    jobs ahead takes as long as jobs do.
    """
    paces = Paces()
    paces.slot_count = lambda: 2
    paces.note(ended(4, load=30))
    twice = job_pb2.Job(generation=generation(model="models/a/b", step_count=40))

    assert pixel_steps(twice.generation) == 40_000_000
    assert paces.expected_seconds(twice, 0) == pytest.approx(8)
    assert paces.expected_seconds(twice, 3) == pytest.approx(12)


def test_an_estimate_moves_towards_the_newest():
    """
    A device that has become slower is noticed after a few jobs.
    """
    paces = Paces()
    paces.note(ended(1))
    for _ in range(20):
        paces.note(ended(3))

    assert paces.expected_seconds(ended(0), 0) == pytest.approx(3, rel=0.05)
