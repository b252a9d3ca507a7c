"""
Finds a model's weights on this machine, and refuses what is not plain data.

Weights are safetensors and configs are JSON: reading them runs no code. A folder that holds pickled
weights or Python, or whose configs ask for code of their own, is refused as a whole.
"""

import importlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2
from services.rpc.errors import Internal

INDEX = "model_index.json"
# Formats that run code when they are read, or are code.
REFUSED_SUFFIXES = frozenset(
    {".bin", ".ckpt", ".h5", ".joblib", ".msgpack", ".npy", ".npz", ".onnx"}
    | {".pb", ".pickle", ".pkl", ".pt", ".pth", ".py", ".pyc", ".so"}
)
# Keys by which a config names code to be run.
REFUSED_KEYS = frozenset({"auto_map", "custom_pipeline"})
# A component of any other library would be imported by name.
LIBRARIES = frozenset({"diffusers", "transformers"})


def find(checkpoint: model_pb2.Checkpoint, folders: Sequence[pathlib.Path]) -> pathlib.Path | None:
    """
    Return where a model's weights lie, or None where this machine lacks them.

    Args:
        checkpoint: Where the catalog says that they come from.
        folders: The model folders, searched in order.
    """
    source = checkpoint.WhichOneof("source")
    if source == "hub_repository":
        return _in_hub_cache(checkpoint.hub_repository)
    if source == "file":
        suffixed = checkpoint.file.endswith(".safetensors")
        return next(_below(checkpoint.file, folders), None) if suffixed else None
    if source == "folder":
        places = _below(checkpoint.folder, folders)
        return next((place for place in places if (place / INDEX).is_file()), None)
    return None


def check(place: pathlib.Path, model: str, left_out: Sequence[str] = ()) -> None:
    """
    Insist that a checkpoint is nothing but data.

    Args:
        place: A folder in diffusers' format, or a .safetensors file.
        model: Its name in the catalog, for the error.
        left_out: Components that are not loaded.

    Raises:
        Internal: With WEIGHTS_UNREADABLE, naming the file within the checkpoint.
    """
    if place.is_file():
        return
    check_files(place, model)
    for component, library in _libraries(place, model).items():
        if component not in left_out and library not in LIBRARIES:
            raise unreadable(model, f"{INDEX} takes {component} from {library[:40]!r}")


def check_files(place: pathlib.Path, model: str) -> None:
    """
    Insist that a folder holds nothing but data, whatever the data are for.

    Raises:
        Internal: With WEIGHTS_UNREADABLE, naming the file within the folder.
    """
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.suffix.lower() in REFUSED_SUFFIXES:
            raise unreadable(model, f"{name} is not data; only .safetensors weights are read")
        if path.suffix == ".json" and REFUSED_KEYS & set(_keys(_json(path, model, name))):
            raise unreadable(model, f"{name} asks for code of its own, which is never run")


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


def _below(relative: str, folders: Sequence[pathlib.Path]) -> Iterator[pathlib.Path]:
    path = pathlib.PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts:
        return
    yield from (folder / path for folder in folders if (folder / path).exists())


def _in_hub_cache(repository: str) -> pathlib.Path | None:
    # Imported when it is needed: it takes a third of a second.
    hub = importlib.import_module("huggingface_hub")
    try:
        index = hub.try_to_load_from_cache(repository, INDEX)
    except ValueError:  # not a repository's name
        return None
    return pathlib.Path(index).parent if isinstance(index, str) else None


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
