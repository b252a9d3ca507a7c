import pickle

import numpy as np
import pytest
import torch

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2
from services.inference.samplers import resolve
from services.inference.worker.adapters import KEPT, Adapters
from services.inference.worker.weights import load
from services.rpc.errors import Internal, InvalidRequest
from tests.services.inference.worker import lora_files
from tests.services.inference.worker.lora_models import KINDS

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
    # Told to the bare pipeline.
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
]
TEXT_TO_IMAGE = model_pb2.OPERATION_TEXT_TO_IMAGE
PROMPT = "a red circle"


@pytest.fixture(autouse=True)
def no_gradients():
    """As in the device's thread."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.family)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, engine, tmp_path_factory):
    """A model folder with a tiny model, and adapters in each format."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    kind.save(folder / "model")
    pipeline = bare(kind, folder)
    loras = folder / "loras"
    lora_files.save_peft(loras / "peft.safetensors", kind.parts(pipeline), seed=1)
    kohya = kind.kohya_layers(pipeline)
    lora_files.save_kohya(loras / "some" / "where" / "kohya.safetensors", kohya, seed=2)
    denoiser, *_ = kind.parts(pipeline).items()
    wrong = {name: (outputs + 1, inputs) for name, (outputs, inputs) in denoiser[1].items()}
    lora_files.save_peft(loras / "wrong.safetensors", {denoiser[0]: wrong})
    lora_files.save_peft(loras / "foreign.safetensors", {"no_part": denoiser[1]})
    return folder


@pytest.fixture(scope="module")
def loaded(kind, folder):
    model = model_pb2.Model(name=f"models/{kind.family}", family=kind.family)
    return load(model, folder / "model", torch.device("cpu"))


@pytest.fixture
def adapters(folder, loaded):
    """Fresh ones, on a model in which nothing acts afterwards."""
    adapters = Adapters([folder])
    yield adapters
    adapters.release(loaded)


@pytest.fixture
def draw(kind, loaded, adapters):
    def draw(**weights):
        adapters.activate(loaded, adapters.find(wanted(**weights), loaded))
        return pixels(kind, loaded.pipeline(TEXT_TO_IMAGE, resolve("", "")))

    return draw


def bare(kind, folder):
    """Load the pipeline as a user of diffusers does."""
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(folder / "model")


def pixels(kind, pipeline):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(7)
    image = pipeline(PROMPT, generator=generator, output_type="np", **kind.call).images[0]
    return (image * 255).round().astype(int)


def wanted(**weights):
    loras = [generation_pb2.Lora(adapter=name, weight=w) for name, w in weights.items()]
    return generation_pb2.Generation(loras=loras)


def parameters(loaded):
    modules = [part for part in loaded.components.values() if isinstance(part, torch.nn.Module)]
    return [name for module in modules for name, _ in module.named_parameters()]


FILES = {"peft": "peft.safetensors", "kohya": "some/where/kohya.safetensors"}


@pytest.mark.parametrize(
    "weights", [{"peft": 0.8}, {"kohya": 1.0}, {"kohya": -0.5, "peft": 0.3}], ids="+".join
)
def test_pixels_are_those_of_diffusers_own_adapters(kind, folder, draw, weights):
    """
    Files of both formats, alone and together, act as load_lora_weights and set_adapters have it.
    """
    pipeline = bare(kind, folder)
    without = pixels(kind, pipeline)
    for name in weights:
        path = folder / "loras" / FILES[name]
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
    pipeline.set_adapters(list(weights), list(weights.values()))
    expected = pixels(kind, pipeline)

    assert np.abs(draw(**weights) - expected).max() <= 1
    assert np.abs(expected - without).max() > 1


def test_a_model_is_to_the_bit_what_it_was_when_no_adapter_acts(kind, draw):
    """
    An adapter that has acted, and is still loaded, leaves no trace in a drawing without it.
    """
    before = draw()
    changed = draw(peft=1.0, kohya=1.0)
    after = draw()

    assert (after == before).all()
    assert (changed != before).any()
    assert (draw(peft=1.0, kohya=1.0) == changed).all()


def test_a_released_model_is_to_the_bit_what_it_was(draw, adapters, loaded):
    """
    Taking all adapters out frees what they hold, and they can come again.
    """
    before, changed = draw(), draw(peft=1.0)
    held = adapters.held_bytes(loaded)
    adapters.release(loaded)

    assert adapters.held_bytes(loaded) == 0 < held
    assert not any("lora_" in name for name in parameters(loaded))
    assert (draw() == before).all()
    assert (draw(peft=1.0) == changed).all()


def test_an_adapter_of_another_model_changes_nothing(draw):
    """
    The error names the layer and both sizes; the model is as before, also for other adapters.
    """
    before, changed = draw(), draw(peft=1.0)
    with pytest.raises(
        InvalidRequest, match=r"'wrong' does not fit .* outputs, the adapter's"
    ) as e:
        draw(wrong=1.0, peft=1.0)
    with pytest.raises(InvalidRequest, match=r"'foreign' does not fit .*: it changes no layer"):
        draw(foreign=1.0)

    assert e.value.reason == reasons.ERROR_REASON_FIELD_UNSUPPORTED
    assert (draw() == before).all()
    assert (draw(peft=1.0) == changed).all()


def test_a_loaded_adapter_is_not_read_again(kind, folder, loaded, adapters):
    """
    Changing from one adapter to another and back is a matter of names, not of files.
    """
    path = folder / "loras" / "short-lived.safetensors"
    path.write_bytes((folder / "loras" / "peft.safetensors").read_bytes())
    chosen = adapters.find(wanted(**{"short-lived": 0.5}), loaded)
    adapters.activate(loaded, chosen)
    expected = pixels(kind, loaded.pipeline(TEXT_TO_IMAGE, resolve("", "")))
    path.unlink()
    adapters.activate(loaded, ())
    adapters.activate(loaded, chosen)

    assert (pixels(kind, loaded.pipeline(TEXT_TO_IMAGE, resolve("", ""))) == expected).all()


only_stable_diffusion = pytest.mark.parametrize("kind", KINDS[:1], indirect=True, scope="module")


@only_stable_diffusion
def test_a_replaced_file_is_another_adapter(folder, draw):
    """
    A file that is written anew under its name acts as it is now.
    """
    path = folder / "loras" / "changing.safetensors"
    path.write_bytes((folder / "loras" / "peft.safetensors").read_bytes())
    first = draw(changing=1.0)
    path.unlink()
    path.write_bytes((folder / "loras" / FILES["kohya"]).read_bytes())

    assert (draw(changing=1.0) == draw(kohya=1.0)).all()
    assert (first == draw(peft=1.0)).all()


@only_stable_diffusion
def test_few_adapters_are_kept(folder, loaded, adapters):
    """
    Of many adapters used in turn the latest stay loaded, and no more.
    """
    content = (folder / "loras" / "peft.safetensors").read_bytes()
    for number in range(KEPT + 2):
        path = folder / "loras" / "many" / f"number-{number}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        adapters.activate(loaded, adapters.find(wanted(**{path.stem: 1.0}), loaded))
    held = {name.split(".lora_A.")[1] for name in parameters(loaded) if ".lora_A." in name}

    assert adapters.held_bytes(loaded) == KEPT * len(content)
    assert len(held) == KEPT


@only_stable_diffusion
def test_models_that_share_a_text_encoder_do_not_disturb_each_other(kind, folder, loaded, adapters):
    """
    An adapter of one model does not act in a part that another model draws with.
    """
    model = model_pb2.Model(name="models/other", family=kind.family)
    other = load(model, folder / "model", torch.device("cpu"))
    shared = {"text_encoder": loaded.components["text_encoder"]}
    other = type(other)(**{**vars(other), "components": {**other.components, **shared}})
    pipeline = other.pipeline(TEXT_TO_IMAGE, resolve("", ""))
    before = pixels(kind, pipeline)
    adapters.activate(loaded, adapters.find(wanted(peft=1.0), loaded))
    adapters.activate(other, ())

    assert (pixels(kind, pipeline) == before).all()


@only_stable_diffusion
def test_equal_requests_have_equal_adapters(adapters, loaded):
    """
    Order does not matter, and a weight of 0 is none: such rows may share a batch.
    """
    one = adapters.find(wanted(peft=0.5, kohya=1.0), loaded)
    other = adapters.find(wanted(wrong=0.0, kohya=1.0, peft=0.5), loaded)

    assert one == other
    assert hash(one) == hash(other)
    assert one != adapters.find(wanted(peft=0.6, kohya=1.0), loaded)


@only_stable_diffusion
def test_an_unknown_adapter_is_refused_with_those_there_are(adapters, loaded):
    """
    The nearest names come first; one zero of weight excuses nothing.
    """
    with pytest.raises(InvalidRequest) as refused:
        adapters.find(wanted(pefft=0.0), loaded)

    assert refused.value.message.startswith("adapter 'pefft' is not known; there are peft, ")
    assert "kohya" in refused.value.message
    assert refused.value.reason == reasons.ERROR_REASON_FIELD_UNSUPPORTED
    assert "/" not in refused.value.message


@only_stable_diffusion
def test_a_pickle_is_never_read(folder, loaded, adapters, tmp_path):
    """
    Neither under its own name nor under that of data.
    """

    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    for name in ("old.pt", "disguised.safetensors"):
        (folder / "loras" / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InvalidRequest, match=r"'old' is there as old\.pt, which is not data"):
        adapters.find(wanted(old=1.0), loaded)
    with pytest.raises(Internal, match=r"'disguised' cannot be loaded: it is not a \.safetensors"):
        adapters.activate(loaded, adapters.find(wanted(disguised=1.0), loaded))

    assert not (tmp_path / "sprung").exists()


@only_stable_diffusion
@pytest.mark.parametrize(
    ("state", "metadata", "says"),
    [
        (
            {"unet.conv_in.lora_A.weight": torch.zeros(2, 4, 3, 3)},
            {"lora_adapter_metadata": '{"unet.megatron_config": {"a": 1}}'},
            "it asks for 'megatron_config'",
        ),
        ({"lora_unet_x.hada_w1_a": torch.zeros(2, 2)}, {}, "holds LoHa weights; only LoRA"),
        ({"unet.conv_in.weight": torch.zeros(2, 2)}, {}, "more than LoRA matrices: unet.conv_in"),
        ({"lora_unet_x.unheard_of": torch.zeros(2, 2)}, {}, "cannot be applied"),
    ],
)
def test_a_file_of_more_than_matrices_is_refused(folder, draw, state, metadata, says):
    """
    What would change the model for good, import code, or be applied in part, is not applied.
    """
    before = draw()
    lora_files.save(folder / "loras" / "strange.safetensors", state, **metadata)
    with pytest.raises((InvalidRequest, Internal), match=says):
        draw(strange=1.0)

    assert (draw() == before).all()


@only_stable_diffusion
def test_a_family_without_adapters_has_none(loaded, adapters):
    """
    What is not there does not matter where it has no effect; the receipt says so.
    """
    family = type(loaded.family)(**{**vars(loaded.family), "uses": frozenset()})
    without = type(loaded)(**{**vars(loaded), "family": family})

    assert adapters.find(wanted(nothing=1.0), without) == ()
