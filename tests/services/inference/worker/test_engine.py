import io

import numpy as np
import pytest
from PIL import Image

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2
from pictor.inference.v1.job_pb2 import ParameterNote
from pictor.inference.v1.progress_pb2 import Progress
from services.inference.samplers import available_samplers
from services.inference.worker.families.family import Family
from services.inference.worker.inputs import Inputs
from services.inference.worker.notes import of_unused
from services.rpc.errors import Canceled, Internal, InvalidRequest

# diffusers hands tensors to NumPy in the ways of NumPy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def pixels(picture):
    return np.asarray(picture).astype(int)


def test_a_seed_gives_the_same_pixels_again(draw):
    """
    The same request draws the same picture; another seed draws another.
    """
    first, again, other = draw.picture(), draw.picture(), draw.picture(seed=8)

    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_image_k_is_what_seed_plus_k_draws_alone(draw):
    """
    The images of a job are those that single jobs would have drawn, and seeds wrap at 2^32.
    """
    drawing = draw(seed=2**32 - 1, image_count=2)

    assert drawing.seeds == [2**32 - 1, 0]
    assert drawing.images[1].tobytes() == draw.picture(seed=0).tobytes()


def test_pixels_are_those_of_the_bare_pipeline(draw, models_folder):
    """
    Serving changes nothing: diffusers called by hand with the same seed draws the same picture.
    """
    import torch  # only here
    from diffusers import StableDiffusionPipeline

    bare = StableDiffusionPipeline.from_pretrained(models_folder / "tiny")
    expected = bare(
        "a red circle",
        width=64,
        height=64,
        num_inference_steps=4,
        guidance_scale=4.0,
        generator=torch.Generator("cpu").manual_seed(7),
    ).images[0]

    assert np.abs(pixels(draw.picture()) - pixels(expected)).max() <= 1


def test_progress_rises_to_its_end(draw):
    """
    Steps count up to step_count over all images of the job, phases come in order.
    """
    draw(image_count=2, step_count=3)
    steps = [(p.step, p.step_count) for p in draw.progress if p.phase == Progress.PHASE_DENOISING]

    assert steps == [(k, 6) for k in range(1, 7)]
    assert draw.progress[0].phase == Progress.PHASE_ENCODING
    assert draw.progress[-1].phase == Progress.PHASE_DECODING
    assert draw.progress[-1].step == 6
    elapsed = [p.elapsed.ToMicroseconds() for p in draw.progress]
    assert elapsed == sorted(elapsed)
    assert draw.progress[-2].remaining.ToMicroseconds() == 0


@pytest.mark.parametrize("sampler", ["Heun", "DPM2", "PLMS", "DPM++ SDE"])
def test_progress_counts_steps_whatever_the_sampler_computes(draw, sampler):
    """
    Samplers that look at more noise levels than there are steps end at their count, too.
    """
    draw(sampler=sampler, step_count=5)
    steps = [p.step for p in draw.progress if p.phase == Progress.PHASE_DENOISING]

    assert steps == sorted(steps)
    assert steps[-1] == draw.progress[-1].step_count


def test_a_stopped_attempt_ends_at_its_next_step(draw):
    """
    Nothing is computed after the step in which the caller went away.
    """

    def stop_at_two(reports, report):
        if report.progress.step == 2:
            reports.stop()

    draw.on_report = stop_at_two
    with pytest.raises(Canceled):
        draw(step_count=50)

    assert draw.progress[-1].step == 2


def test_an_init_image_is_changed_by_strength(draw, gradient):
    """
    Image-to-image takes the share of steps that the strength says.
    """
    inputs = Inputs(image=gradient())
    operation = model_pb2.OPERATION_IMAGE_TO_IMAGE
    picture = draw.picture(inputs, operation=operation, strength=0.5, step_count=8)

    assert picture.size == (64, 64)
    assert draw.progress[-1].step_count == 4


def test_a_strength_below_one_step_is_raised_and_noted(draw, gradient):
    """
    At least one step is taken, and the receipt says so.
    """
    drawing = draw(
        Inputs(image=gradient()),
        operation=model_pb2.OPERATION_IMAGE_TO_IMAGE,
        strength=0.1,
        step_count=3,
    )

    assert draw.progress[-1].step_count == 1
    (note,) = drawing.receipt
    assert (note.parameter, note.treatment) == ("strength", ParameterNote.TREATMENT_CLAMPED)


@pytest.mark.parametrize("size", [(64, 64), (72, 40), (61, 47)])
def test_inpainting_keeps_what_the_mask_keeps(draw, gradient, half_mask, size):
    """
    Pixels outside of the mask are the input's, bit by bit; pixels within are not.
    """
    inputs = Inputs(image=gradient(*size), mask=half_mask(*size))
    fields = {"operation": model_pb2.OPERATION_INPAINT, "strength": 1.0}
    picture = draw.picture(inputs, width_px=size[0], height_px=size[1], **fields)
    middle = size[0] // 2

    assert picture.size == size
    assert (pixels(picture)[:, :middle] == pixels(inputs.image)[:, :middle]).all()
    assert (pixels(picture)[:, middle:] != pixels(inputs.image)[:, middle:]).any()


def test_another_size_than_the_model_draws_is_enlarged_without_distortion(draw):
    """
    The native picture is scaled to fit, its edges fill the rest, and the receipt says so.
    """
    native = draw.picture()
    draw.model.native_size.CopyFrom(model_pb2.Size(width_px=64, height_px=64))
    drawing = draw(width_px=192, height_px=128)
    (picture,), (note,) = drawing.images, drawing.receipt

    inner = picture.crop((32, 0, 160, 128))
    assert picture.size == (192, 128)
    assert inner.tobytes() == native.resize((128, 128), Image.Resampling.LANCZOS).tobytes()
    assert (pixels(picture)[:, :32] == pixels(inner)[:, :1]).all()
    assert (note.parameter, note.requested, note.used) == ("size", "192x128", "64x64")
    assert note.treatment == ParameterNote.TREATMENT_TRANSLATED
    assert note.reason == (
        "the model draws 64x64; enlarged to 128x128 with Lanczos resampling,"
        " and its edges extended to 192x128"
    )


def test_inpainting_at_another_size_stays_in_register(draw, gradient, half_mask):
    """
    An input image goes into the native frame and comes back where it was.
    """
    draw.model.native_size.CopyFrom(model_pb2.Size(width_px=64, height_px=64))
    inputs = Inputs(image=gradient(128, 96), mask=half_mask(128, 96))
    drawing = draw(inputs, operation=model_pb2.OPERATION_INPAINT, width_px=128, height_px=96)

    (picture,) = drawing.images
    assert (pixels(picture)[:, :64] == pixels(inputs.image)[:, :64]).all()
    assert drawing.receipt[0].used == "64x64"


def test_an_operation_that_the_family_lacks_is_refused(draw):
    """
    Editing by instruction is nothing that Stable Diffusion does.
    """
    with pytest.raises(InvalidRequest) as refused:
        draw(operation=model_pb2.OPERATION_EDIT)

    assert refused.value.reason == reasons.ERROR_REASON_OPERATION_UNSUPPORTED


@pytest.mark.parametrize("name", [sampler.name for sampler in available_samplers()])
def test_every_sampler_draws(draw, name):
    """
    Each sampler takes its steps on a model with v-prediction and zero terminal signal.
    """
    drawing = draw(sampler=name, step_count=6)

    assert drawing.sampler == name
    assert drawing.images[0].size == (64, 64)


def test_every_schedule_of_every_sampler_draws(draw):
    """
    The table promises no schedule that a class does not take.
    """
    drawn = set()
    for sampler in available_samplers():
        for schedule in set(sampler.schedules) - {"beta"}:
            drawing = draw(sampler=sampler.name, schedule=schedule, step_count=4)
            assert not drawing.receipt
            drawn.add(drawing.images[0].tobytes())

    assert len(drawn) > len(available_samplers())


def test_a_schedule_that_the_models_own_sampler_lacks_is_noted(draw):
    """
    DDIM has no Karras schedule; without a named sampler the request is drawn, and told.
    """
    (note,) = draw(schedule="karras").receipt

    assert (note.parameter, note.treatment) == ("schedule", ParameterNote.TREATMENT_IGNORED)


def test_what_a_family_cannot_use_is_noted():
    """
    Adapters of a family without any are in the receipt.
    """
    family = Family("plain", {}, 8, dict)
    wanted = generation_pb2.Generation(loras=[generation_pb2.Lora(adapter="ink")])
    (note,) = of_unused(wanted, family)

    assert (note.parameter, note.requested) == ("loras", "ink")


@pytest.mark.parametrize("sampler", ["", "DPM++ 2M", "Euler a", "DPM++ SDE"])
def test_previews_are_spread_over_the_steps(draw, sampler):
    """
    As many previews as were asked for, small, in order, none of the last step.
    """
    draw(preview_count=3, step_count=8, sampler=sampler)

    assert [p.step for p in draw.previews] == [2, 4, 6]
    assert [p.preview_index for p in draw.previews] == [0, 1, 2]
    for preview in draw.previews:
        assert len(preview.content) <= 96 * 1024
        assert Image.open(io.BytesIO(preview.content)).format == "JPEG"


def test_previews_change_no_pixel(draw):
    """
    Looking at a picture while it is drawn leaves it as it is.
    """
    assert draw.picture(preview_count=3).tobytes() == draw.picture().tobytes()


def test_a_model_without_weights_here_is_refused(draw):
    """
    The error names the model and no path.
    """
    draw.model.name = "models/elsewhere"
    draw.model.checkpoint.folder = "elsewhere"
    with pytest.raises(Internal) as refused:
        draw()

    assert refused.value.reason == reasons.ERROR_REASON_WEIGHTS_UNREADABLE
    assert refused.value.message == (
        "the weights of models/elsewhere cannot be loaded: they are not on this machine"
    )


def test_output_that_is_not_finite_is_no_picture(draw, engine):
    """
    A model that computes NaN ends with OUTPUT_NOT_FINITE instead of a black picture.
    """
    import torch  # only here

    draw()
    unet = draw.denoiser
    weight = unet.conv_out.weight
    saved = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    try:
        with pytest.raises(Internal) as broken:
            draw()
    finally:
        with torch.no_grad():
            weight.copy_(saved)

    assert broken.value.reason == reasons.ERROR_REASON_OUTPUT_NOT_FINITE
