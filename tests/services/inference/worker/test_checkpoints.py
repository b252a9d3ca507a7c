import json
import os
import pickle
import shutil

import pytest

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.catalog.models import PACKAGED, read_models
from services.inference.worker.checkpoints import check, find, names_of, others
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


def disguise_pickle(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(pickle.dumps(Canary()))


def link_code(folder):
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "unet.py").write_text(f"open({CANARY!r}, 'w')")
    (folder / "linked").symlink_to(elsewhere)


def cut_off(folder):
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def lose_a_part(folder):
    shutil.rmtree(folder / "vae")


def lose_a_shard(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shards = {"weight_map": {"a": weights.name, "b": "lost.safetensors"}}
    weights.with_name(f"{weights.name}.index.json").write_text(json.dumps(shards))


def break_index(folder):
    (folder / "model_index.json").write_text("{")


def unknown_class(folder):
    (folder / "model_index.json").write_text('{"_class_name": "VideoPipeline"}')


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (add_pickle, "unet/diffusion_pytorch_model.bin is not data"),
        (add_pickle_beside_safetensors, "vae/extra.ckpt is not data"),
        (add_code, "unet/unet.py is not data"),
        (add_auto_map, "text_encoder/config.json asks for code of its own"),
        (add_library, "model_index.json takes unet from 'os'"),
        (disguise_pickle, "unet/diffusion_pytorch_model.safetensors is a pickle"),
        (link_code, "linked/unet.py is not data"),
        (cut_off, "vae/diffusion_pytorch_model.safetensors is cut off"),
        (lose_a_part, "vae/ is missing"),
        (lose_a_shard, "lists lost.safetensors, which is missing"),
        (break_index, "model_index.json cannot be read as JSON"),
        (unknown_class, "no family draws with VideoPipeline"),
    ],
)
def test_weights_that_are_not_data_are_refused(engine, tiny, tmp_path, spoil, why):
    """
    Nothing from a checkpoint runs: it is refused with the file's name, and the canary is silent.
    """
    from services.inference.worker.engine import Engine  # imports torch

    spoil(tiny)
    model = model_pb2.Model(
        name="models/spoiled", checkpoint=model_pb2.Checkpoint(folder="spoiled")
    )
    with pytest.raises(Internal) as refused:
        Engine("cpu", [tmp_path / "models"]).residency.load(model)

    assert refused.value.reason == reasons.ERROR_REASON_WEIGHTS_UNREADABLE
    assert refused.value.metadata == {"model": "models/spoiled"}
    assert why in refused.value.message
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
        Engine("cpu", [tmp_path / "models"]).residency.load(model)

    assert refused.value.reason == reasons.ERROR_REASON_WEIGHTS_UNREADABLE
    assert str(tmp_path) not in refused.value.message


def test_a_family_is_read_from_the_weights(engine, models_folder):
    """
    A model whose catalog entry names no family is drawn by the one that knows its pipeline.
    """
    model = model_pb2.Model(name="models/unnamed", checkpoint=model_pb2.Checkpoint(folder="tiny"))
    engine.residency.load(model)

    assert "models/unnamed" in engine.residency.models


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
    assert find(model_pb2.Checkpoint(hub_repository="not a/name!"), []) is None


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The cache of a hub, as its client lays it out; fill it from a folder."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))

    def fill(repository, folder, commit="0" * 40):
        root = cache / f"models--{repository.replace('/', '--')}"
        for name in ("blobs", "refs"):
            (root / name).mkdir(parents=True)
        (root / "refs" / "main").write_text(commit)
        snapshot = root / "snapshots" / commit
        for number, path in enumerate(p for p in folder.rglob("*") if p.is_file()):
            blob = root / "blobs" / f"{number:040d}"
            shutil.copy(path, blob)
            link = snapshot / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
        return snapshot

    return fill


def test_a_repository_draws_from_the_cache(engine, models_folder, hub_cache, draw):
    """
    Links to blobs without names are read as the files that they stand for.
    """
    place = hub_cache("owner/tiny", models_folder / "tiny")
    expected = draw.picture()
    checkpoint = model_pb2.Checkpoint(hub_repository="owner/tiny")
    draw.model = model_pb2.Model(name="models/owner/tiny", checkpoint=checkpoint)

    assert find(checkpoint, []) == place
    assert draw.picture().tobytes() == expected.tobytes()


def test_pickles_in_the_cache_are_refused(engine, models_folder, hub_cache):
    """
    It is the file's name that a library goes by, not the blob's.
    """
    place = hub_cache("owner/tiny", models_folder / "tiny")
    (place / "unet" / "weights.bin").symlink_to(place / "model_index.json")

    with pytest.raises(Internal, match=r"unet/weights.bin is not data"):
        check(place, "models/tiny")


def test_model_folders_go_before_the_cache(models_folder, hub_cache, tmp_path):
    """
    A repository is also found as the folder <owner>/<name> below a model folder.
    """
    cached = hub_cache("owner/tiny", models_folder / "tiny")
    checkpoint = model_pb2.Checkpoint(hub_repository="owner/tiny")

    assert find(checkpoint, [tmp_path / "models"]) == cached
    shutil.copytree(models_folder / "tiny", tmp_path / "models" / "owner" / "tiny")
    assert find(checkpoint, [tmp_path / "models"]) == tmp_path / "models" / "owner" / "tiny"


def test_aliases_are_looked_for_after_the_name(tmp_path, hub_cache, models_folder):
    """
    A checkpoint's file name finds it, in whichever folder it lies, before the cache; and what the
    catalog states goes before every alias.
    """
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    hub_cache("owner/tiny", models_folder / "tiny")
    checkpoint = model_pb2.Checkpoint(hub_repository="owner/tiny")
    aliases = ["tiny", "tiny-pruned.safetensors", "tiny.safetensors"]

    (first / "tiny.safetensors").write_bytes(b"")
    assert find(checkpoint, [first, second], aliases) == first / "tiny.safetensors"
    (second / "tiny-pruned.safetensors").write_bytes(b"")
    assert find(checkpoint, [first, second], aliases) == second / "tiny-pruned.safetensors"
    shutil.copytree(models_folder / "tiny", second / "owner" / "tiny")
    assert find(checkpoint, [first, second], aliases) == second / "owner" / "tiny"


def test_an_alias_is_found_in_the_cache(models_folder, hub_cache):
    """
    A repository that has moved is found under its old name.
    """
    cached = hub_cache("old/tiny", models_folder / "tiny")
    checkpoint = model_pb2.Checkpoint(hub_repository="owner/tiny")

    assert find(checkpoint, [], ["tiny", "old/tiny"]) == cached


def test_other_checkpoints_are_those_of_all_folders(models_folder, hub_cache, tmp_path):
    """
    Wherever they lie: directly in a model folder, under their owner, or in the hub's cache.
    """
    cached = hub_cache("owner/cached", models_folder / "tiny")
    shutil.copytree(models_folder / "tiny", tmp_path / "models" / "owner" / "deep")
    shutil.copytree(models_folder / "tiny", tmp_path / "models" / "flat")
    places = list(others([tmp_path / "models"]))

    assert places == [tmp_path / "models" / "flat", tmp_path / "models" / "owner" / "deep", cached]


def test_every_model_of_the_catalog_is_found_by_its_names(hub_cache, models_folder, tmp_path):
    """
    Each model with weights: in the hub's cache or as a folder, and under the names of its files.
    """
    for model in read_models(PACKAGED):
        source = model.checkpoint.WhichOneof("source")
        names = names_of(model) if source else []
        if source == "hub_repository":
            cached = hub_cache(model.checkpoint.hub_repository, models_folder / "tiny")
            assert find(model.checkpoint, [tmp_path], names) == cached
        for name in names:
            if name.endswith(".safetensors"):
                (tmp_path / name).write_bytes(b"")
                assert find(model.checkpoint, [tmp_path], names) == tmp_path / name
                (tmp_path / name).unlink()


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
