"""Acceleration profiles: what they leave the same, what they refuse, what the engine must heed."""

import numpy as np
import pytest

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1.progress_pb2 import Progress
from services.rpc.errors import Canceled, Internal
from tests.services.inference.worker.conftest import Drawer

# diffusers hands tensors to NumPy in the ways of NumPy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
SIZE = {"width_px": 64, "height_px": 64}


@pytest.fixture(scope="session")
def folder(tmp_path_factory, engine):
    """A folder of tiny models: ``stable-diffusion``, ``flux`` and ``flux2``."""
    import torch
    from diffusers import FluxPipeline

    from tests.services.inference.worker.families.test_flux import flux_parts
    from tests.services.inference.worker.families.test_flux2 import TestFlux2
    from tests.services.inference.worker.tiny import save_tiny_model

    folder = tmp_path_factory.mktemp("accelerated")
    save_tiny_model(folder / "stable-diffusion")
    torch.manual_seed(0)
    FluxPipeline(**flux_parts()).save_pretrained(folder / "flux")
    TestFlux2.save(folder / "flux2")
    return folder


@pytest.fixture
def accelerated(engine, folder):
    """Make an engine with one model, whose record asks for profiles."""

    def make(family, *acceleration):
        model = model_pb2.Model(
            name=f"models/{family}",
            family=family,
            checkpoint=model_pb2.Checkpoint(folder=family),
            acceleration=acceleration,
        )
        return Drawer(type(engine)("cpu", [folder]), model)

    return make


def loaded(drawer):
    """Load what a drawer draws with."""
    return drawer.engine.residency.lease(drawer.model)[0]


def pixels(drawer, **fields):
    return np.asarray(drawer.picture(**fields)).astype(int)


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("stable-diffusion", "channels-last"),
        ("flux", "channels-last"),
        ("flux", "attention=_native_math"),
        ("flux", "attention=_native_flash"),
    ],
)
def test_a_lossless_profile_leaves_the_picture_as_it_is(accelerated, family, words):
    """
    Memory is laid out otherwise, or another kernel computes; no pixel differs by more than 1/255.
    """
    plain, fast = pixels(accelerated(family)), pixels(accelerated(family, words))

    assert np.abs(plain - fast).max() <= 1
    assert loaded(accelerated(family, words)).acceleration.lossy == []


def test_compiled_blocks_draw_what_the_blocks_draw(accelerated):
    """
    The blocks are really compiled, the picture is the same, and batches should come in few sizes.
    """
    import torch
    from torch._dynamo.utils import counters

    from services.inference.worker.profiles.compiled_blocks import missing

    if reason := missing(torch.device("cpu")):
        pytest.skip(reason)
    plain = pixels(accelerated("flux"))
    counters.clear()
    fast = pixels(accelerated("flux", "compile"))
    acceleration = loaded(accelerated("flux", "compile")).acceleration

    assert np.abs(plain - fast).max() <= 1
    assert counters["stats"]["unique_graphs"] == 2  # of each of the two kinds of blocks
    assert not counters["graph_break"]
    assert acceleration.bucketed
    assert not acceleration.rows_alone


def test_where_nothing_compiles_the_profile_says_what_is_missing(engine, tmp_path, monkeypatch):
    """
    Without a compiler the model is refused when it is loaded, not at its first picture.
    """
    import torch
    from torch._inductor import config

    from services.inference.worker.profiles import compiled_blocks

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    torch.compiler.reset()
    compiled_blocks.missing.cache_clear()
    try:
        reason = compiled_blocks.missing(torch.device("cpu"))
    finally:
        compiled_blocks.missing.cache_clear()
        torch.compiler.reset()

    assert reason.startswith("torch cannot compile for cpu on this machine: ")
    assert "compiler" in reason.lower()


def test_weights_in_eight_bits_take_less_memory_and_are_marked_lossy(accelerated):
    """
    The picture is nearly the same; no adapter can be added to such layers.
    """
    plain, small = loaded(accelerated("flux")), loaded(accelerated("flux", "fp8-weights"))
    difference = pixels(accelerated("flux")) - pixels(accelerated("flux", "fp8-weights"))

    assert 0 < np.abs(difference).max() <= 24
    assert _block_bytes(small) * 2 < _block_bytes(plain)
    assert small.acceleration.lossy == ["fp8-weights"]
    assert not small.acceleration.takes_adapters
    assert plain.acceleration.takes_adapters


def _block_bytes(one):
    blocks = one.components["transformer"].single_transformer_blocks
    return sum(weight.nbytes for weight in blocks.parameters())


def test_steps_that_change_little_are_not_computed(accelerated, monkeypatch):
    """
    With a high threshold the blocks after the first run once; with a low one at every step.
    """
    from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock

    calls, forward = [], FluxSingleTransformerBlock.forward

    def counted(*arguments, **words):
        calls.append(1)
        return forward(*arguments, **words)

    monkeypatch.setattr(FluxSingleTransformerBlock, "forward", counted)
    counts = []
    for words in ("first-block-cache=0.99", "first-block-cache=1e-9"):
        calls.clear()
        accelerated("flux", words).picture(step_count=6)
        counts.append(len(calls))

    assert counts == [1, 6]


def test_nothing_is_kept_from_one_drawing_to_the_next(accelerated):
    """
    The second drawing has the pixels that it has alone, also after one that was canceled early.
    """
    fields = {"seed": 3, "prompt": "a blue square"}
    alone = accelerated("flux", "first-block-cache=0.99").picture(**fields)
    drawer = accelerated("flux", "first-block-cache=0.99")
    drawer.picture()
    second = drawer.picture(**fields)

    # Stopped after its first step, and before its second.
    encoding = Progress.PHASE_ENCODING
    drawer.on_report = lambda reports, r: r.progress.phase == encoding and reports.stop()
    with pytest.raises(Canceled):
        drawer.picture()
    drawer.on_report = None

    assert second.tobytes() == alone.tobytes()
    assert drawer.picture(**fields).tobytes() == alone.tobytes()


def test_rows_that_take_turns_have_caches_of_their_own(accelerated):
    """
    Steps of two rows in turn give what each row gives alone; a row that ended leaves nothing.
    """
    import torch

    one = loaded(accelerated("flux", "first-block-cache=0.99"))
    call, acceleration = one.components["transformer"], one.acceleration
    torch.manual_seed(0)
    texts = {row: torch.randn(1, 8, 16) for row in ("a", "b")}
    latents = {row: torch.randn(3, 1, 16, 64) for row in ("a", "b")}

    def step(row, index):
        acceleration.turn_to(row)
        with torch.no_grad():
            return call(
                hidden_states=latents[row][index],
                encoder_hidden_states=texts[row],
                pooled_projections=texts[row][:, 0],
                timestep=torch.tensor([1 - index / 3]),
                img_ids=torch.zeros(16, 3),
                txt_ids=torch.zeros(8, 3),
                guidance=torch.ones(1),
                return_dict=False,
            )[0]

    alone = {}
    for row in ("a", "b"):
        alone[row] = [step(row, index) for index in range(3)]
        acceleration.forget(row)
    in_turn = {"a": [], "b": []}
    for index in range(3):
        for row, outputs in in_turn.items():
            outputs.append(step(row, index))
    (_, effect) = acceleration.effects[0]
    kept = len(effect.row_state._states)
    acceleration.forget("a")

    assert acceleration.rows_alone
    assert acceleration.lossy == ["first-block-cache=0.99"]
    for row in ("a", "b"):
        assert all(torch.equal(x, y) for x, y in zip(alone[row], in_turn[row], strict=True))
    assert (kept, len(effect.row_state._states)) == (2, 1)


def test_profiles_work_together(accelerated):
    """
    They are applied in an order of their own, whatever the record's, and their demands add up.
    """
    words = ("first-block-cache=1e-9", "attention=_native_math", "fp8-weights", "channels-last")
    drawer = accelerated("flux", *words)
    acceleration = loaded(drawer).acceleration

    assert np.abs(pixels(drawer) - pixels(accelerated("flux", "fp8-weights"))).max() <= 1
    assert [asked for asked, _ in acceleration.effects] == [*words[2:], words[1], words[0]]
    assert acceleration.lossy == ["fp8-weights", "first-block-cache=1e-9"]


@pytest.mark.parametrize(
    ("family", "words", "reason"),
    [
        ("flux", ["turbo"], "'turbo': there is no such profile; there are attention, channels"),
        ("flux", ["channels-last=1"], "it takes no option, and got '1'"),
        ("flux", ["attention"], "it needs an option; there are _flash_3"),
        ("flux", ["attention=quick"], "'quick' is unknown; there are _flash_3"),
        ("flux", ["attention=flash_hub"], "'flash_hub' is unknown"),
        ("flux", ["attention=_native_cudnn"], "_native_cudnn does not work here: No viable"),
        ("flux", ["attention=sage"], "sage does not work here: "),
        ("stable-diffusion", ["attention=flex"], "UNet2DConditionModel is always torch's own"),
        ("stable-diffusion", ["first-block-cache"], "has no blocks that it could pass over"),
        ("flux2", ["first-block-cache"], "Flux2Transformer2DModel differ in what they return"),
        ("flux", ["first-block-cache=2"], "'2' must be a number above 0 and below 1"),
        ("flux", ["first-block-cache=a"], "'a' must be a number above 0 and below 1"),
        ("flux", ["compile=reduce-overhead"], "mode 'reduce-overhead' is unknown; there are"),
        ("flux", ["compile", "fp8-weights"], "'compile': another profile has hooked the layers"),
    ],
)
def test_what_cannot_be_had_is_refused_when_the_model_is_loaded(accelerated, family, words, reason):
    """
    The error names model, profile and reason; the serving status will show it.
    """
    with pytest.raises(Internal) as refused:
        accelerated(family, *words).picture()

    assert refused.value.reason == reasons.ERROR_REASON_WEIGHTS_UNREADABLE
    assert refused.value.message.startswith(
        f"the weights of models/{family} cannot be loaded: its record asks for acceleration '"
    )
    assert reason in refused.value.message


def test_a_profile_is_refused_on_a_device_that_cannot_do_it(accelerated):
    """
    Before anything is changed, the kind of the device is looked at.
    """
    import torch

    from services.inference.worker.acceleration import accelerate

    one = loaded(accelerated("flux"))
    pipeline = type("Pipeline", (), {"components": one.components})
    model = model_pb2.Model(name="models/flux", acceleration=["fp8-weights"])

    with pytest.raises(Internal, match="device mps cannot do it; it is for cpu, cuda"):
        accelerate(model, pipeline, torch.device("mps"))


def test_a_receipt_tells_lossy_profiles(accelerated):
    """
    Whoever gets a picture of a model that was made faster at the picture's cost can see it.
    """
    from services.inference.worker import notes

    words = ("channels-last", "fp8-weights")
    told = list(notes.of_acceleration(loaded(accelerated("flux", *words)).acceleration))

    assert [(note.parameter, note.used) for note in told] == [("model", "fp8-weights")]
    assert told[0].reason == "the model is served with fp8-weights, which is lossy"


def test_another_models_attention_stays_as_it_is(accelerated):
    """
    Diffusers sets a kernel for all models; here it is one model's.
    """
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    before = _AttentionBackendRegistry.get_active_backend()[0]
    loaded(accelerated("flux", "attention=_native_math"))

    assert _AttentionBackendRegistry.get_active_backend()[0] == before
