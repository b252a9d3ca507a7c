"""Adapters and embeddings, drawn with through the engine, beside jobs that have none."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2
from services.inference.worker.engine import Engine
from services.rpc.errors import InvalidRequest
from tests.services.inference.worker import lora_files
from tests.services.inference.worker.conftest import Drawer
from tests.services.inference.worker.lora_models import KINDS

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
KIND = next(kind for kind in KINDS if kind.family == "stable-diffusion")
STEPS = 4


@pytest.fixture(scope="module")
def drawer(engine, tmp_path_factory):
    """A tiny model with an adapter, one that does not fit, and a word that stands for a vector."""
    from diffusers import DiffusionPipeline

    folder = tmp_path_factory.mktemp("models")
    KIND.save(folder / "model")
    pipeline = DiffusionPipeline.from_pretrained(folder / "model")
    parts = KIND.parts(pipeline)
    lora_files.save_peft(folder / "loras" / "style.safetensors", parts, seed=1)
    name, layers = next(iter(parts.items()))
    wrong = {layer: (outputs + 1, inputs) for layer, (outputs, inputs) in layers.items()}
    lora_files.save_peft(folder / "loras" / "wrong.safetensors", {name: wrong})
    width = pipeline.text_encoder.get_input_embeddings().embedding_dim
    (folder / "embeddings").mkdir()
    save_file({"emb_params": 5 * torch.randn(2, width)}, folder / "embeddings" / "glow.safetensors")
    model = model_pb2.Model(
        name="models/model",
        family=KIND.family,
        checkpoint=model_pb2.Checkpoint(folder="model"),
    )
    return Drawer(Engine("cpu", [folder]), model)


def style(weight):
    return [generation_pb2.Lora(adapter="style", weight=weight)]


def pixels(drawing):
    return np.asarray(drawing.images[0]).astype(int)


REQUESTS = {
    "plain": {},
    "styled": {"loras": style(0.8)},
    "styled too": {"loras": style(0.8), "seed": 8},
    "less styled": {"loras": style(0.3)},
    "glowing": {"prompt": "a glow"},
}


def test_jobs_with_other_adapters_do_not_disturb_each_other(drawer):
    """
    Each draws what it draws alone, stepped in turn on one model; only equal ones share forwards.
    """
    alone = {name: pixels(drawer(step_count=STEPS, **more)) for name, more in REQUESTS.items()}
    with drawer.forwards() as forwards:
        outcomes = {n: drawer.begin(step_count=STEPS, **more) for n, more in REQUESTS.items()}
        while drawer.engine.is_busy:
            drawer.engine.step()

    for name, outcome in outcomes.items():
        assert np.abs(pixels(outcome.result()) - alone[name]).max() <= 1, name
    different = [alone[name].tobytes() for name in REQUESTS]
    assert len(set(different)) == len(different)
    assert len(forwards) == 3 * STEPS


def test_an_adapter_leaves_no_trace(drawer):
    """
    After a job with an adapter, a job without draws the same bits as before.
    """
    before = pixels(drawer())
    drawer(loras=style(1.5))

    assert (pixels(drawer()) == before).all()


@pytest.mark.parametrize(
    ("adapter", "told"),
    [("styl", "style"), ("wrong", "does not fit")],
    ids=["unknown", "misfit"],
)
def test_an_adapter_that_cannot_act_ends_its_job_only(drawer, adapter, told):
    """
    The error names the adapter and says what there is; others are drawn.
    """
    healthy = drawer.begin()
    refused = drawer.begin(loras=[generation_pb2.Lora(adapter=adapter)])
    while drawer.engine.is_busy:
        drawer.engine.step()

    assert healthy.result().images
    with pytest.raises(InvalidRequest, match=told) as error:
        refused.result()
    assert error.value.reason == reasons.ERROR_REASON_FIELD_UNSUPPORTED
