"""What only a GPU can show: the same pictures there, models that leave for the host, and those that
never fit.
"""

import math

import numpy as np
import pytest
import torch

from services.inference.worker.engine import Engine
from tests.services.inference.worker.conftest import Drawer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
]
STEPS = 8


def psnr_db(one, other) -> float:
    """How alike two pictures are; 45 dB is the same to the eye."""
    error = np.mean((np.asarray(one, float) - np.asarray(other, float)) ** 2)
    return 10 * math.log10(255**2 / max(error, 1e-9))


@pytest.fixture
def drawer(models_folder, model):
    """A GPU's engine with the tiny model."""
    return Drawer(Engine("cuda", [models_folder]), model)


def test_a_batch_draws_what_each_draws_alone(drawer):
    """
    In half precision the sums differ with the batch's size, but not to the eye.
    """
    alone = [drawer.picture(step_count=STEPS, seed=seed) for seed in range(4)]
    outcomes = [drawer.begin(step_count=STEPS, seed=seed) for seed in range(4)]
    while drawer.engine.is_busy:
        drawer.engine.step()

    for outcome, expected in zip(outcomes, alone, strict=True):
        assert psnr_db(outcome.result().images[0], expected) >= 45


def test_a_seed_means_the_same_as_on_a_cpu(drawer, draw):
    """
    The noise is drawn on the CPU for every device.
    """
    there, here = (one.picture(step_count=STEPS) for one in (drawer, draw))

    assert psnr_db(there, here) >= 30


def test_a_model_that_makes_room_waits_on_the_host(models_folder, model):
    """
    It leaves the GPU's memory, and comes back without being read again.
    """
    residency = Engine("cuda", [models_folder]).residency
    loaded, _ = residency.lease(model)
    residency.release(model.name)
    before = torch.cuda.memory_allocated()
    residency._park_or_drop(model.name)
    parked = torch.cuda.memory_allocated()
    again, _ = residency.lease(model)

    assert parked < before
    assert again is loaded
    assert next(again.components["unet"].parameters()).device.type == "cuda"


def test_a_model_larger_than_the_gpu_draws_from_the_host(models_folder, model, draw):
    """
    Its layers are sent when they are used, and the picture is the same.
    """
    engine = Engine("cuda", [models_folder], device_bytes=1, host_bytes=2**30)

    assert psnr_db(Drawer(engine, model).picture(), draw.picture()) >= 30
    assert engine.residency.held_bytes == 0
