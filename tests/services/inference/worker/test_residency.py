import gc
import shutil
import threading
import weakref

import pytest

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.errors import Canceled, Exhausted, Internal
from tests.services.inference.worker.tiny import save_tiny_model

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def folder(engine, tmp_path_factory):
    """Three checkpoints of one size, with nothing in common."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("models")
    for number, name in enumerate(NAMES):
        save_tiny_model(folder / name)
        for file in (folder / name).glob("*/*.safetensors"):
            tensors = {key: tensor + number / 1000 for key, tensor in load_file(file).items()}
            save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def size(folder):
    """How many bytes one of them takes."""
    residency = new(folder, 2**40)
    residency.load(model("a"))
    return residency.held_bytes


def new(folder, device_bytes, host_bytes=0):
    import torch

    from services.inference.worker.memory import Budget
    from services.inference.worker.residency import Residency

    return Residency(torch.device("cpu"), [folder], Budget(device_bytes, host_bytes))


def model(name):
    checkpoint = model_pb2.Checkpoint(folder=name)
    return model_pb2.Model(name=f"models/{name}", family="stable-diffusion", checkpoint=checkpoint)


def lease(residency, name):
    loaded, _ = residency.lease(model(name))
    residency.release(f"models/{name}")
    return loaded


def held(residency):
    return sorted(name.removeprefix("models/") for name in residency.models)


def test_the_one_used_longest_ago_makes_room(folder, size):
    """
    In a budget for two, the third takes the place of that which was used least recently.
    """
    residency = new(folder, 2 * size)
    for name in ("a", "b", "a", "c"):
        lease(residency, name)

    assert held(residency) == ["a", "c"]
    assert residency.held_bytes == 2 * size


def test_the_expected_size_is_the_size(folder, size):
    """
    What the files' headers say is what the model takes: a budget of just so much is enough.
    """
    assert held_after(new(folder, size), "a") == ["a"]
    with pytest.raises(Exhausted) as told:
        new(folder, size // 2).load(model("a"))

    assert told.value.reason == reasons.ERROR_REASON_DEVICE_OUT_OF_MEMORY
    assert "PICTOR_DEVICE_MEMORY" in told.value.message


def held_after(residency, name):
    lease(residency, name)
    return held(residency)


def test_what_left_is_gone(folder, size):
    """
    Nothing keeps the weights of a model that made room.
    """
    residency = new(folder, size)
    gone = weakref.ref(lease(residency, "a").components["unet"])
    lease(residency, "b")
    gc.collect()

    assert gone() is None


def test_pinned_models_stay(folder, size):
    """
    Another one leaves in their place; where all are pinned, the newcomer is refused.
    """
    residency = new(folder, 2 * size)
    residency.pin(["models/a"])
    for name in NAMES:
        lease(residency, name)
    kept = held(residency)
    residency.pin(["models/a", "models/c"])

    assert kept == ["a", "c"]
    with pytest.raises(Exhausted, match="models/a, models/c stay"):
        lease(residency, "b")
    assert held(residency) == ["a", "c"]


def test_preloading_sends_nobody_away(folder, size):
    """
    What is only desired is loaded where there is room; models that are needed make room.
    """
    residency = new(folder, 2 * size)

    assert [residency.load(model(name)) for name in NAMES] == [True, True, False]
    assert held(residency) == ["a", "b"]


def test_a_model_in_use_is_waited_for(folder, size):
    """
    It leaves when its drawing has ended, and until then nobody new begins to use it.
    """
    residency = new(folder, size)
    residency.lease(model("a"))
    arrived = threading.Thread(target=lease, args=(residency, "b"))
    arrived.start()
    arrived.join(0.3)
    waiting, refused = arrived.is_alive(), residency.use("models/a")
    residency.release("models/a")
    arrived.join(5)

    assert waiting
    assert refused is None
    assert held(residency) == ["b"]


def test_who_is_not_wanted_any_more_stops_waiting(folder, size):
    """
    A canceled job does not hold the others up, and the model in use stays usable.
    """

    def canceled():
        raise Canceled("nobody waits")

    residency = new(folder, size)
    residency.lease(model("a"))
    with pytest.raises(Canceled):
        residency.lease(model("b"), check=canceled)

    assert residency.use("models/a")
    assert held(residency) == ["a"]


def test_a_model_in_use_is_not_unloaded(folder, size):
    """
    An operator's wish is granted when no drawing uses the model.
    """
    residency = new(folder, size)
    residency.lease(model("a"))
    residency.unload("models/a")
    kept = held(residency)
    residency.release("models/a")
    residency.unload("models/a")

    assert kept == ["a"]
    assert held(residency) == []


def test_equal_parts_are_in_memory_once(folder, size, tmp_path, engine):
    """
    Two checkpoints with one text encoder share it; another one's is its own.
    """
    for name in ("a", "b", "c"):
        shutil.copytree(folder / name, tmp_path / name)
    shutil.rmtree(tmp_path / "b" / "text_encoder")
    shutil.copytree(tmp_path / "a" / "text_encoder", tmp_path / "b" / "text_encoder")
    residency = new(tmp_path, 2**40)
    a, b, c = (lease(residency, name) for name in NAMES)
    encoder = sum(p.nbytes for p in a.components["text_encoder"].parameters())

    assert a.components["text_encoder"] is b.components["text_encoder"]
    assert a.components["text_encoder"] is not c.components["text_encoder"]
    assert a.components["unet"] is not b.components["unet"]
    assert 3 * size - residency.held_bytes >= encoder
    residency.unload("models/a")
    assert residency.use("models/b")


def test_a_larger_model_draws_from_the_host(folder, size, engine, draw):
    """
    Where the device cannot hold a model and the host can, its layers are sent when they are used.
    """
    residency = new(folder, size // 2, host_bytes=2 * size)
    loaded = lease(residency, "a")

    assert loaded.offloads
    assert residency.held_bytes == 0
    offloaded, plain = (picture_of(one) for one in (loaded, lease(new(folder, size), "a")))
    assert offloaded == plain


def picture_of(loaded):
    import torch

    from services.inference.samplers import resolve

    pipeline = loaded.pipeline(model_pb2.OPERATION_TEXT_TO_IMAGE, resolve("", ""))
    generator = torch.Generator("cpu").manual_seed(7)
    with torch.no_grad():
        call = {"num_inference_steps": 2, "width": 64, "height": 64, "generator": generator}
        return pipeline("a red circle", **call).images[0].tobytes()


def test_loading_is_told(folder, size):
    """
    Whoever waits learns how much has been read, and that all of it has.
    """
    told = []
    new(folder, size).lease(model("a"), told.append)

    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_model_without_weights_here_is_refused(folder, size):
    """
    The error names the model and says what is missing.
    """
    with pytest.raises(Internal, match="not on this machine") as told:
        lease(new(folder, size), "absent")
    assert told.value.reason == reasons.ERROR_REASON_WEIGHTS_UNREADABLE


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), ("20GiB", 20 * 2**30), ("1.5 MiB", 3 * 2**19), ("1000", 1000)],
)
def test_sizes_are_read(text, expected):
    """
    A number with or without a unit; nothing means a share of what is free.
    """
    from services.inference.worker.settings import memory

    assert memory(text) == expected


@pytest.mark.parametrize("text", ["20GB", "-1", "much", "1e9"])
def test_a_size_that_cannot_be_read_is_refused(text):
    """
    The error says what a size looks like.
    """
    from services.inference.worker.settings import memory

    with pytest.raises(ValueError, match="20GiB"):
        memory(text)


def test_sizes_are_shown_for_people():
    """
    With the largest unit that leaves a number above one.
    """
    from services.inference.worker.memory import shown

    assert [shown(n) for n in (12, 2048, 3 * 2**29)] == ["12 bytes", "2.0 KiB", "1.5 GiB"]
