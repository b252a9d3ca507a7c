import gc
import inspect
import io
import threading
import weakref

import pytest
from PIL import Image

from pictor.catalog.v1 import model_pb2
from services.inference.samplers import SAMPLERS, resolve
from services.inference.worker.frames import Size, frame

TRAINED = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
}
STEPS = 6

# diffusers hands tensors to NumPy in the ways of NumPy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


@pytest.fixture
def previews(engine):
    """The module, which imports torch."""
    from services.inference.worker import previews

    return previews


def own_scheduler(sampler="", **config):
    from services.inference.worker.schedulers import new_scheduler

    return new_scheduler({**TRAINED, **config}, resolve(sampler, ""))


def perfect_output(scheduler, timestep, sample, clean):
    """What a model says that knows the picture."""
    if scheduler.init_noise_sigma != 1:
        return (sample - clean) / scheduler.sigmas[scheduler.step_index or 0]
    signal = scheduler.alphas_cumprod[int(timestep)]
    if scheduler.config.prediction_type == "v_prediction":
        noise = (sample - signal.sqrt() * clean) / (1 - signal).sqrt()
        return signal.sqrt() * noise - (1 - signal).sqrt() * clean
    return (sample - signal.sqrt() * clean) / (1 - signal).sqrt()


def steps_of(previews, scheduler):
    """Draw with a perfect model; yields how far each prediction is from the picture."""
    import torch

    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(1, 4, 8, 8, generator=generator)
    scheduler.set_timesteps(STEPS)
    predictions = previews.Predictions(scheduler)
    sample = torch.randn(clean.shape, generator=generator) * scheduler.init_noise_sigma
    more = {"generator": generator} if "generator" in parameters(scheduler.step) else {}
    for timestep in scheduler.timesteps:
        scheduler.scale_model_input(sample, timestep)
        output = perfect_output(scheduler, timestep, sample, clean)
        sample = scheduler.step(output, timestep, sample, **more, return_dict=False)[0]
        yield float((predictions.latents - clean).abs().max())


def parameters(function):
    return inspect.signature(function).parameters


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_prediction_is_without_noise_from_the_first_step_on(previews, sampler):
    """
    With a model that knows the picture, whatever solver it is drawn by.
    """
    scheduler = own_scheduler(sampler)
    errors = list(steps_of(previews, scheduler))

    # Between their steps, solvers of the second order ask for levels that are not in their list.
    assert max(errors[:: scheduler.order]) < 0.02


@pytest.mark.parametrize("sampler", ["DDIM", "PLMS", "DEIS", "TCD"])
def test_a_prediction_is_read_as_the_model_was_trained(previews, sampler):
    """
    What a model predicts, noise or velocity, is in its scheduler's config.
    """
    scheduler = own_scheduler(sampler, prediction_type="v_prediction")

    assert max(steps_of(previews, scheduler)) < 0.02


def test_a_prediction_of_flow_matching_is_the_picture(previews):
    """
    The model says the way from the picture to the noise; the prediction goes all of it back.
    """
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(STEPS)
    predictions = previews.Predictions(scheduler)
    clean, sample = torch.randn(2, 1, 16, 4)
    for level, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
        output = (sample - clean) / level
        sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
        assert float((predictions.latents - clean).abs().max()) < 1e-4


def test_predictions_change_nothing_about_a_step(previews):
    """
    Pipelines still see which arguments a step takes, and get what it gives.
    """
    import torch

    plain, watched = own_scheduler("DDIM"), own_scheduler("DDIM")
    previews.Predictions(watched)
    assert parameters(watched.step) == parameters(plain.step)

    sample, stepped = torch.randn(1, 4, 8, 8), []
    for scheduler in (plain, watched):
        scheduler.set_timesteps(STEPS)
        stepped.append(scheduler.step(sample, scheduler.timesteps[0], sample).prev_sample)
    assert torch.equal(*stepped)


def test_a_drawing_leaves_nothing_behind(previews):
    """
    Scheduler and predictions are freed when they are let go of, without a garbage collection.
    """
    import torch

    scheduler = own_scheduler("Euler")
    scheduler.set_timesteps(STEPS)
    predictions = previews.Predictions(scheduler)
    sample = torch.randn(1, 4, 8, 8)
    scheduler.step(sample, scheduler.timesteps[0], sample)
    left = [weakref.ref(value) for value in (scheduler, predictions, sample)]
    gc.disable()
    try:
        del scheduler, predictions, sample
        assert [reference() for reference in left] == [None] * 3
    finally:
        gc.enable()


def test_previews_are_spread_evenly(previews):
    """
    None after the last step, where the picture itself comes; fewer where steps are few.
    """
    assert previews.preview_steps(3, 8) == [2, 4, 6]
    assert previews.preview_steps(5, 3) == [1, 2]
    assert previews.preview_steps(1, 1) == []


@pytest.mark.parametrize(
    ("requested", "native", "expected"),
    [
        (Size(64, 48), None, (64, 48)),
        (Size(1024, 512), None, (256, 128)),
        (Size(1000, 1000), None, (256, 256)),
        (Size(1024, 512), model_pb2.Size(width_px=256, height_px=256), (256, 128)),
    ],
)
@pytest.mark.parametrize("from_picture", [False, True])
def test_a_preview_shows_what_the_result_shows(
    previews, gradient, *, requested, native, expected, from_picture
):
    """
    The result's part of the canvas, placed as in the result, at 256 pixels at most.
    """
    shape = frame(requested, native, 16, from_picture=from_picture)
    canvas = gradient(*shape.canvas)
    preview = previews.framed(canvas.reduce(8), shape)
    result = shape.finish(canvas).resize(preview.size)

    assert preview.size == expected
    differences = (abs(a - b) for a, b in zip(preview.tobytes(), result.tobytes(), strict=True))
    assert sum(differences) / (3 * preview.width * preview.height) < 4


def test_files_are_small(previews):
    """
    JPEG, and at most 256 pixels a side, whatever is handed in.
    """
    content = previews.file_of(Image.effect_noise((900, 600), 80).convert("RGB"))

    assert len(content) <= 96 * 1024
    assert Image.open(io.BytesIO(content)).format == "JPEG"
    assert Image.open(io.BytesIO(content)).size == (256, 171)


def sketch_of(grey, ready=lambda: None):
    import torch

    from services.inference.worker.sketches import Sketch

    return Sketch(torch.full((8, 8, 3), grey, dtype=torch.uint8), ready)


def test_previews_are_written_aside_in_their_order(previews):
    """
    Handing one over waits for nothing; closing waits until all are shown.
    """
    done, shown = threading.Event(), []
    writer = previews.Writer(frame(Size(64, 64), None, 8, from_picture=False))
    for grey in (50, 100, 150):
        writer.write(sketch_of(grey, done.wait), shown.append)

    assert shown == []
    done.set()
    writer.close()
    greys = [Image.open(io.BytesIO(content)).getpixel((30, 30))[0] for content in shown]
    assert greys == [50, 100, 150]


def test_a_preview_that_cannot_be_shown_is_told(previews):
    """
    What writing or showing raises is raised where the writer is closed.
    """

    def refuse(_content):
        raise ValueError("nobody there")

    writer = previews.Writer(frame(Size(64, 64), None, 8, from_picture=False))
    writer.write(sketch_of(50), refuse)

    with pytest.raises(ValueError, match="nobody there"):
        writer.close()
