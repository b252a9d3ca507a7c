"""
Finds a model's weights on this machine, and refuses what is not plain data.

Weights are safetensors and configs are JSON: reading them runs no code. A folder that holds pickled
weights or Python, or whose configs ask for code of their own, is refused as a whole, and so is a
file whose content is not what its name says.
"""

import contextlib
import importlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2
from services.inference.worker.tensor_files import NotTensors, read_header
from services.rpc.errors import Internal

INDEX = "model_index.json"
SUFFIX = ".safetensors"
# Lists the files of weights that are spread over several.
SHARDS_SUFFIX = ".safetensors.index.json"
# Formats that run code when they are read, or are code.
REFUSED_SUFFIXES = frozenset(
    {".bin", ".ckpt", ".h5", ".joblib", ".msgpack", ".npy", ".npz", ".onnx"}
    | {".pb", ".pickle", ".pkl", ".pt", ".pth", ".py", ".pyc", ".so"}
)
# Keys by which a config names code to be run.
REFUSED_KEYS = frozenset({"auto_map", "custom_pipeline"})
# A component of any other library would be imported by name.
LIBRARIES = frozenset({"diffusers", "transformers"})


def find(
    checkpoint: model_pb2.Checkpoint,
    folders: Sequence[pathlib.Path],
    names: Sequence[str] = (),
) -> pathlib.Path | None:
    """
    Return where a model's weights lie, or None where this machine lacks them.

    What the catalog states is looked for first, then the other names in their order: each below
    the model folders, as a .safetensors file or as a folder in diffusers' format, whichever its
    name says. A repository that is in no model folder is looked for in the hub's cache, under all
    names in the same order.

    Args:
        checkpoint: Where the catalog says that they come from.
        folders: The model folders, searched in order.
        names: Other names of the model, see ``names_of``.
    """
    source = checkpoint.WhichOneof("source")
    if not source:
        return None
    ordered = list(dict.fromkeys([getattr(checkpoint, source), *names]))
    for name in ordered:
        if place := _below(name, folders):
            return place
    if source == "hub_repository":
        return next(filter(None, map(_in_hub_cache, ordered)), None)
    return None


def names_of(model: model_pb2.Model) -> list[str]:
    """Return the ids under which a model is known: its own, then its aliases."""
    return [model.name.removeprefix("models/"), *model.aliases]


def others(folders: Sequence[pathlib.Path]) -> Iterator[pathlib.Path]:
    """List the folders in diffusers' format: those below the model folders, then the hub's."""
    for folder in folders:
        for pattern in (INDEX, f"*/{INDEX}", f"*/*/{INDEX}"):
            yield from (index.parent for index in sorted(folder.glob(pattern)))
    for index in sorted(_hub_cache().glob(f"models--*/snapshots/*/{INDEX}")):
        yield index.parent


def check(place: pathlib.Path, model: str, left_out: Sequence[str] = ()) -> None:
    """
    Insist that a checkpoint is nothing but data, and whole.

    Args:
        place: A folder in diffusers' format, or a .safetensors file.
        model: Its name in the catalog, for the error.
        left_out: Components that are not loaded.

    Raises:
        Internal: With WEIGHTS_UNREADABLE, naming the file within the checkpoint.
    """
    if place.is_file():
        _require_tensors(place, model, place.name)
        return
    check_files(place, model)
    for component, library in _libraries(place, model).items():
        if component in left_out:
            continue
        if library not in LIBRARIES:
            raise unreadable(model, f"{INDEX} takes {component} from {library[:40]!r}")
        if not (place / component).is_dir():
            raise unreadable(model, f"{component}/ is missing; the checkpoint is not whole")


def check_files(place: pathlib.Path, model: str) -> None:
    """
    Insist that a folder holds nothing but data, whatever the data are for.

    Raises:
        Internal: With WEIGHTS_UNREADABLE, naming the file within the folder.
    """
    for path in sorted(_files(place)):
        name = path.relative_to(place).as_posix()
        if path.suffix.lower() in REFUSED_SUFFIXES:
            raise unreadable(model, f"{name} is not data; only {SUFFIX} weights are read")
        if path.suffix == SUFFIX:
            _require_tensors(path, model, name)
        if path.suffix == ".json" and REFUSED_KEYS & set(_keys(_json(path, model, name))):
            raise unreadable(model, f"{name} asks for code of its own, which is never run")
        if name.endswith(SHARDS_SUFFIX):
            _require_shards(path, model, name)


def pipeline_class(place: pathlib.Path, model: str) -> str:
    """
    Return the diffusers class that a folder was saved from; empty for a single file.

    Raises:
        Internal: With WEIGHTS_UNREADABLE, if the folder does not say.
    """
    if place.is_file():
        return ""
    index = _json(place / INDEX, model, INDEX)
    name = index.get("_class_name") if isinstance(index, dict) else None
    if not isinstance(name, str):
        raise unreadable(model, f"{INDEX} names no pipeline class")
    return name


def unreadable(model: str, why: str) -> Internal:
    """Make the error of weights that cannot be loaded."""
    return Internal(
        f"the weights of {model} cannot be loaded: {why}",
        reason=error_reason_pb2.ERROR_REASON_WEIGHTS_UNREADABLE,
        metadata={"model": model},
    )


def _below(name: str, folders: Sequence[pathlib.Path]) -> pathlib.Path | None:
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return None
    places = (folder / path for folder in folders)
    if path.suffix == SUFFIX:
        return next((place for place in places if place.is_file()), None)
    return next((place for place in places if (place / INDEX).is_file()), None)


def _in_hub_cache(repository: str) -> pathlib.Path | None:
    # Imported when it is needed: it takes a third of a second.
    hub = importlib.import_module("huggingface_hub")
    if repository.count("/") != 1:
        return None
    try:
        index = hub.try_to_load_from_cache(repository, INDEX)
    except ValueError:  # not a repository's name
        return None
    return pathlib.Path(index).parent if isinstance(index, str) else None


def _hub_cache() -> pathlib.Path:
    return pathlib.Path(importlib.import_module("huggingface_hub.constants").HF_HUB_CACHE)


def _files(place: pathlib.Path) -> Iterator[pathlib.Path]:
    """List files, those of linked folders too: a library would read them."""
    seen = set()
    for folder, below, names in os.walk(place, followlinks=True):
        seen.add(os.path.realpath(folder))
        below[:] = [
            name for name in below if os.path.realpath(pathlib.Path(folder, name)) not in seen
        ]
        yield from (pathlib.Path(folder, name) for name in names)


def _require_tensors(path: pathlib.Path, model: str, name: str) -> None:
    try:
        read_header(path)
    except NotTensors as error:
        raise unreadable(model, f"{name} {error}") from None
    except OSError as error:
        raise unreadable(model, f"{name} cannot be read ({error.strerror})") from None


def _require_shards(path: pathlib.Path, model: str, name: str) -> None:
    content = _json(path, model, name)
    shards: set[str] = set()
    with contextlib.suppress(AttributeError, TypeError):
        shards = set(content["weight_map"].values())
    for shard in sorted(map(str, shards)):
        if not (path.parent / shard).is_file():
            raise unreadable(model, f"{name} lists {shard[:80]}, which is missing")


def _json(path: pathlib.Path, model: str, name: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(model, f"{name} cannot be read as JSON") from error


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def _libraries(place: pathlib.Path, model: str) -> dict[str, str]:
    index = _json(place / INDEX, model, INDEX)
    return {
        component: str(value[0])
        for component, value in (index.items() if isinstance(index, dict) else ())
        if not component.startswith("_") and isinstance(value, list) and value and value[0]
    }
