import numpy as np
import pytest
import torch

from pictor.catalog.v1 import model_pb2
from pictor.inference.v1 import generation_pb2
from services.inference.samplers import resolve
from services.inference.worker.embeddings import TOKENS, Embeddings
from services.inference.worker.weights import load
from services.rpc.errors import Internal, InvalidRequest
from tests.services.inference.worker import lora_files
from tests.services.inference.worker.lora_models import KINDS

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
WIDTH = 16
VECTORS = 3
ENCODERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}


@pytest.fixture(autouse=True)
def no_gradients():
    """As in the device's thread."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=KINDS[:2], ids=lambda kind: kind.family)
def kind(request):
    return request.param


def state_of(kind, count=VECTORS, width=WIDTH):
    """An embedding as it goes round for the family."""
    generator = torch.Generator().manual_seed(3)
    keys = ["emb_params"] if kind.family == "stable-diffusion" else list(ENCODERS)
    return {key: torch.randn((count, width), generator=generator) for key in keys}


@pytest.fixture(scope="module")
def folder(kind, engine, tmp_path_factory):
    """A model folder with a tiny model and an embedding."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    kind.save(folder / "model")
    lora_files.save(folder / "embeddings" / "sub" / "ink-wash.safetensors", state_of(kind))
    return folder


@pytest.fixture(scope="module")
def loaded(kind, folder):
    model = model_pb2.Model(name=f"models/{kind.family}", family=kind.family)
    return load(model, folder / "model", torch.device("cpu"))


@pytest.fixture
def embeddings(folder):
    return Embeddings([folder])


@pytest.fixture
def draw(kind, loaded, embeddings):
    def draw(prompt, negative_prompt=""):
        generation = generation_pb2.Generation(prompt=prompt, negative_prompt=negative_prompt)
        pipeline = loaded.pipeline(model_pb2.OPERATION_TEXT_TO_IMAGE, resolve("", ""))
        words, draw.notes = draw.embeddings.find(generation, loaded)
        written = draw.embeddings.inscribe(pipeline, generation, words)
        return pixels(kind, pipeline, written.prompt, written.negative_prompt)

    draw.embeddings = embeddings
    return draw


def pixels(kind, pipeline, prompt, negative_prompt=""):
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        prompt,
        negative_prompt=negative_prompt or None,
        generator=torch.Generator("cpu").manual_seed(7),
        output_type="np",
        **kind.call,
    ).images[0]
    return (image * 255).round().astype(int)


@pytest.mark.parametrize(
    "prompts", [("a ink-wash b", ""), ("a", "ink-wash, b"), ("ink-wash a ink-wash", "ink-wash")]
)
def test_pixels_are_those_of_diffusers_own_textual_inversion(kind, folder, draw, prompts):
    """
    A file's vectors take the place of its name, in either prompt, as load_textual_inversion has it.
    """
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder / "model")
    for key, vectors in state_of(kind).items():
        name = ENCODERS.get(key, "text_encoder")
        pipeline.load_textual_inversion(
            {"ink-wash": vectors},
            text_encoder=getattr(pipeline, name),
            tokenizer=getattr(pipeline, name.replace("text_encoder", "tokenizer")),
        )
    expected = pixels(kind, pipeline, *prompts)
    plain = pixels(kind, pipeline, *(prompt.replace("ink-wash", "ink") for prompt in prompts))

    assert np.abs(draw(*prompts) - expected).max() <= 1
    assert np.abs(expected - plain).max() > 1


def test_prompts_without_the_word_are_drawn_as_ever(kind, loaded, draw):
    """
    Neither before nor after a drawing with it do the vectors change another one by a bit.
    """
    pipeline = loaded.pipeline(model_pb2.OPERATION_TEXT_TO_IMAGE, resolve("", ""))
    before = pixels(kind, pipeline, "a cat of ink-washed paper")
    with_word = draw("a cat of ink-wash paper")

    assert (draw("a cat of ink-washed paper") == before).all()
    assert (pixels(kind, pipeline, "a cat of ink-washed paper") == before).all()
    assert not set(TOKENS) & set(loaded.components["tokenizer"].get_vocab())
    assert (draw("a cat of INK-Wash paper") == with_word).all()


def test_the_longest_of_several_names_counts(kind, folder, draw):
    """
    A name that is the beginning of another, or a number, does not disturb it.
    """
    with_word = draw("a ink-wash cat")
    draw.embeddings = Embeddings([folder])
    for name in ("ink", "1"):
        path = folder / "embeddings" / f"{name}.safetensors"
        lora_files.save(path, {key: 9 * rows for key, rows in state_of(kind).items()})
    try:
        assert (draw("a ink-wash cat") == with_word).all()
        assert (draw("a ink cat") != with_word).any()
    finally:
        for name in ("ink", "1"):
            (folder / "embeddings" / f"{name}.safetensors").unlink()


def test_vectors_of_another_model_leave_the_word_a_word(kind, folder, loaded, draw):
    """
    A file of another width is noted, and has no effect.
    """
    lora_files.save(folder / "embeddings" / "fog.safetensors", state_of(kind, width=WIDTH + 1))
    pipeline = loaded.pipeline(model_pb2.OPERATION_TEXT_TO_IMAGE, resolve("", ""))

    assert (draw("a cat in fog") == pixels(kind, pipeline, "a cat in fog")).all()
    assert [note.requested for note in draw.notes] == ["embedding fog"]


def test_more_vectors_than_prompts_hold_are_refused(kind, folder, loaded):
    """
    The error names the embeddings, their vectors and the most.
    """
    lora_files.save(folder / "embeddings" / "novel.safetensors", state_of(kind, count=200))
    wanted = generation_pb2.Generation(prompt="a novel")
    with pytest.raises(InvalidRequest, match=r"novel have 200 vectors; .* at most 150"):
        Embeddings([folder]).find(wanted, loaded)


def test_files_that_are_not_data_are_not_read(folder, loaded):
    """
    A pickle is noted; one under the name of data ends the job.
    """
    (folder / "embeddings" / "old.pt").write_bytes(b"\x80\x04.")
    (folder / "embeddings" / "odd.safetensors").write_bytes(b"\x80\x04.")
    fresh = Embeddings([folder])
    words, (note,) = fresh.find(generation_pb2.Generation(prompt="an old cat"), loaded)

    assert words == ()
    assert note.requested == "embedding old"
    assert note.reason.startswith("old.pt is not data; convert it to .safetensors")
    with pytest.raises(Internal, match=r"'odd' cannot be loaded: it is not a .safetensors file"):
        fresh.find(generation_pb2.Generation(prompt="an odd cat"), loaded)
