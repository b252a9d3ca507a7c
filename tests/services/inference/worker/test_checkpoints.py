import json
import pickle
import shutil

import pytest

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.inference.worker.checkpoints import check, find
from services.rpc.errors import Internal

CANARY = "canary"


@pytest.fixture
def tiny(models_folder, tmp_path, monkeypatch):
    """A copy of the tiny model that may be spoiled; what it runs would leave a file."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(models_folder / "tiny", tmp_path / "models" / "spoiled")


class Canary:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return (open, (CANARY, "w"))


def add_pickle(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.with_suffix(".bin").write_bytes(pickle.dumps(Canary()))
    weights.unlink()


def add_pickle_beside_safetensors(folder):
    (folder / "vae" / "extra.ckpt").write_bytes(pickle.dumps(Canary()))


def add_code(folder):
    (folder / "unet" / "unet.py").write_text(f"open({CANARY!r}, 'w')")


def add_auto_map(folder):
    path = folder / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "auto_map": {"AutoModel": "modeling.Model"}}))


def add_library(folder):
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "unet": ["os", "system"]}))


def break_index(folder):
    (folder / "model_index.json").write_text("{")


def unknown_class(folder):
    (folder / "model_index.json").write_text('{"_class_name": "VideoPipeline"}')


@pytest.mark.parametrize(
    "spoil",
    [
        add_pickle,
        add_pickle_beside_safetensors,
        add_code,
        add_auto_map,
        add_library,
        break_index,
        unknown_class,
    ],
)
def test_weights_that_are_not_data_are_refused(engine, tiny, tmp_path, spoil):
    """
    Nothing from a checkpoint runs: it is refused with the file's name, and the canary is silent.
    """
    from services.inference.worker.engine import Engine  # imports torch

    spoil(tiny)
    model = model_pb2.Model(
        name="models/spoiled", checkpoint=model_pb2.Checkpoint(folder="spoiled")
    )
    with pytest.raises(Internal) as refused:
        Engine("cpu", [tmp_path / "models"]).load(model)

    assert refused.value.reason == reasons.ERROR_REASON_WEIGHTS_UNREADABLE
    assert refused.value.metadata == {"model": "models/spoiled"}
    assert str(tmp_path) not in refused.value.message
    assert not (tmp_path / CANARY).exists()


def test_damaged_weights_are_refused_without_a_path(tiny, engine, tmp_path):
    """
    A file that breaks off is an error of the weights, not of the server.
    """
    from services.inference.worker.engine import Engine  # imports torch

    (tiny / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"short")
    model = model_pb2.Model(
        name="models/spoiled", checkpoint=model_pb2.Checkpoint(folder="spoiled")
    )
    with pytest.raises(Internal) as refused:
        Engine("cpu", [tmp_path / "models"]).load(model)

    assert refused.value.reason == reasons.ERROR_REASON_WEIGHTS_UNREADABLE
    assert str(tmp_path) not in refused.value.message


def test_a_family_is_read_from_the_weights(engine, models_folder):
    """
    A model whose catalog entry names no family is drawn by the one that knows its pipeline.
    """
    model = model_pb2.Model(name="models/unnamed", checkpoint=model_pb2.Checkpoint(folder="tiny"))
    engine.load(model)

    assert "models/unnamed" in engine.models


def test_folders_are_searched_in_order(models_folder, tmp_path):
    """
    A checkpoint is found in the first of the model folders that has it.
    """
    checkpoint = model_pb2.Checkpoint(folder="tiny")

    assert find(checkpoint, [tmp_path, models_folder]) == models_folder / "tiny"
    assert find(checkpoint, [tmp_path]) is None


@pytest.mark.parametrize("folder", ["../tiny", "/etc", "a/../../tiny"])
def test_no_checkpoint_lies_outside_of_the_model_folders(models_folder, folder):
    """
    The catalog names places below the model folders only.
    """
    (models_folder / "a").mkdir(exist_ok=True)
    assert find(model_pb2.Checkpoint(folder=folder), [models_folder / "a"]) is None


def test_a_repository_that_is_not_in_the_cache_is_not_here():
    """
    The hub's cache is looked at, and the hub is not asked.
    """
    assert find(model_pb2.Checkpoint(hub_repository="nobody/nothing"), []) is None
    assert find(model_pb2.Checkpoint(hub_repository="not a name!"), []) is None


def test_what_is_left_out_may_come_from_anywhere(tiny):
    """
    A safety checker that is not loaded does not matter.
    """
    path = tiny / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "safety_checker": ["stable_diffusion", "Checker"]}))

    check(tiny, "models/tiny", ("safety_checker",))
    with pytest.raises(Internal):
        check(tiny, "models/tiny")
