"""Adapters and embeddings, drawn with through the engine, beside jobs that have none."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2
from pictor.inference.v1.refinement_pb2 import HiresPass
from services.inference.worker.engine import Engine
from services.rpc.errors import InvalidRequest
from tests.services.inference.worker import lora_files
from tests.services.inference.worker.conftest import Drawer
from tests.services.inference.worker.lora_models import KINDS

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
KIND = next(kind for kind in KINDS if kind.family == "stable-diffusion")
STEPS = 4
WEBUI = generation_pb2.Generation.PROMPT_SYNTAX_WEBUI


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


def test_attention_reads_words_that_stand_for_vectors(drawer):
    """
    AUTOMATIC1111's syntax weighs, changes and batches them like any other word; without signs the
    picture is that of the plain prompt.
    """
    prompts = ["a glow", "a (glow:1.5)", "[a:glow:0.5]", "[a|glow]", "a glow BREAK b"]
    alone = [pixels(drawer(step_count=STEPS, prompt=p, prompt_syntax=WEBUI)) for p in prompts]
    plain = pixels(drawer(step_count=STEPS, prompt="a glow"))
    word = pixels(drawer(step_count=STEPS, prompt="a [glow:a:1.0]", prompt_syntax=WEBUI))
    outcomes = [
        drawer.begin(step_count=STEPS, prompt=p, prompt_syntax=WEBUI, image_count=2)
        for p in prompts
    ]
    while drawer.engine.is_busy:
        drawer.engine.step()

    assert (alone[0] == plain).all()
    assert (word == plain).all()
    assert len({drawn.tobytes() for drawn in alone}) == len(prompts)
    for outcome, drawn in zip(outcomes, alone, strict=True):
        assert np.abs(pixels(outcome.result()) - drawn).max() <= 1


def test_the_second_passs_prompt_has_words_of_its_own(drawer):
    """
    A word of the hires prompt alone stands for its vectors too, with and without the syntax.
    """
    size = {"width_px": 64, "height_px": 64, "strength": 0.9}
    for syntax in (0, WEBUI):
        drawn = [
            pixels(drawer(step_count=2, prompt_syntax=syntax, hires=HiresPass(**size, prompt=p)))
            for p in ("a glow", "a glo", "a")
        ]
        assert len({one.tobytes() for one in drawn}) == len(drawn)


def test_a_pass_has_the_requests_adapters(drawer):
    """
    They act in both passes, and in every tile.
    """
    hires = HiresPass(width_px=64, height_px=64, strength=0.9)
    plain = pixels(drawer(step_count=2, hires=hires))
    styled = pixels(drawer(step_count=2, hires=hires, loras=style(1.5)))

    assert (plain != styled).any()
    assert (pixels(drawer(step_count=2, hires=hires)) == plain).all()


def test_an_unknown_adapter_is_passed_over_where_automatic1111_would(drawer):
    """
    Its prompts draw without it; the receipt tells, and names what there is.
    """
    lost = [generation_pb2.Lora(adapter="styl")]
    drawing = drawer(loras=lost, prompt_syntax=WEBUI)

    assert (pixels(drawing) == pixels(drawer(prompt_syntax=WEBUI))).all()
    (note,) = [one for one in drawing.receipt if one.parameter == "loras"]
    assert note.treatment == note.TREATMENT_IGNORED
    assert "style" in note.reason


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
