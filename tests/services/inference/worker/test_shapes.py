"""The model that ships in the repository, through the engine."""

import numpy as np
import pytest

from pictor.catalog.v1 import model_pb2
from services.inference.worker.inputs import Inputs
from services.inference.worker.settings import MODELS
from training.shapes.reading import read

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
    pytest.mark.skipif(
        not (MODELS / "pictor" / "shapes" / "model_index.json").is_file(),
        reason="models/pictor/shapes is not in this checkout",
    ),
]
CIRCLE = {
    "model": "models/pictor/shapes",
    "prompt": "a red circle on a white background",
    "width_px": 256,
    "height_px": 256,
    "step_count": 20,
    "guidance_scale": 3.0,
}


@pytest.fixture(scope="module")
def shapes_engine(engine):
    """An engine that reads the models of the repository."""
    return type(engine)("cpu", [MODELS])


@pytest.fixture
def draw_shapes(draw, shapes_engine):
    """Draw with the model that ships."""
    draw.engine = shapes_engine
    draw.model = model_pb2.Model(
        name="models/pictor/shapes",
        native_size=model_pb2.Size(width_px=256, height_px=256),
        checkpoint=model_pb2.Checkpoint(folder="pictor/shapes"),
    )
    return lambda inputs=None, **fields: draw.picture(inputs, **{**CIRCLE, **fields})


def test_pixels_are_those_of_the_bare_pipeline(draw_shapes):
    """
    The shipped model draws here what diffusers draws by hand.
    """
    import torch
    from diffusers import StableDiffusionPipeline

    bare = StableDiffusionPipeline.from_pretrained(
        MODELS / "pictor" / "shapes", dtype=torch.float32
    )
    expected = bare(
        CIRCLE["prompt"],
        num_inference_steps=20,
        guidance_scale=3.0,
        generator=torch.Generator("cpu").manual_seed(7),
    ).images[0]
    drawn = np.asarray(draw_shapes()).astype(int)

    assert np.abs(drawn - np.asarray(expected)).max() <= 1


def test_it_draws_what_the_prompt_says(draw_shapes):
    """
    The pixels show one red figure on white.
    """
    seen = read(draw_shapes())

    assert seen.background == "white"
    assert [figure.colour for figure in seen.figures] == ["red"]


def test_samplers_without_chance_draw_the_same_picture(draw_shapes):
    """
    All of them solve one equation: what differs is how exactly, and none washes the colours out.
    """
    own = np.asarray(draw_shapes()).astype(int)
    distances = {
        sampler: np.abs(own - np.asarray(draw_shapes(sampler=sampler))).mean()
        for sampler in ("Euler", "DPM++ 2M", "DPM++ 2M Karras", "Heun", "UniPC", "PLMS", "DEIS")
    }

    assert max(distances.values()) < 8, distances


def test_it_repaints_within_a_mask(draw_shapes, half_mask):
    """
    Inpainting at twice the native size keeps the left half, bit by bit.
    """
    image = draw_shapes().resize((512, 512))
    picture = draw_shapes(
        Inputs(image, half_mask(512, 512)),
        operation=model_pb2.OPERATION_INPAINT,
        prompt="a blue square on a white background",
        strength=1.0,
        width_px=512,
        height_px=512,
    )
    left = (0, 0, 256, 512)

    assert picture.crop(left).tobytes() == image.crop(left).tobytes()
    assert picture.tobytes() != image.tobytes()
