"""Reads a checkpoint into a pipeline: a folder in diffusers' format, or a single file."""

import inspect
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import diffusers
import torch

from pictor.catalog.v1 import model_pb2
from services.inference.worker import single_files
from services.inference.worker.checkpoints import check, pipeline_class, unreadable
from services.inference.worker.families import families, family_of
from services.inference.worker.families.family import Family


def family_for(model: model_pb2.Model, place: pathlib.Path) -> Family:
    """
    Return the family that draws with a checkpoint: the catalog's, or that of its pipeline.

    Raises:
        Internal: With WEIGHTS_UNREADABLE, if there is none.
    """
    known = families()
    found = known.get(model.family) or family_of(pipeline_class(place, model.name), place)
    if not found:
        stated = model.family or pipeline_class(place, model.name) or "a file without a family"
        raise unreadable(model.name, f"no family draws with {stated}; there are {', '.join(known)}")
    return found


def read_pipeline(
    model: str,
    family: Family,
    place: pathlib.Path,
    dtype: torch.dtype,
    folders: Sequence[pathlib.Path] = (),
    *,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """
    Read a checkpoint's weights, which stay on the host.

    Args:
        model: Its name in the catalog, for errors.
        family: Says how it is read.
        place: A folder in diffusers' format, or a .safetensors file.
        dtype: Of the weights.
        folders: The model folders, where other checkpoints lend what a single file lacks.
        given: Parts that are in memory already, and are not read.

    Raises:
        Internal: With WEIGHTS_UNREADABLE, if they are not data, or not whole.
    """
    check(place, model, family.left_out)
    if place.is_dir():
        return _read_folder(family, place, dtype, given=given)

    def lend(lender: pathlib.Path, left_out: Iterable[str]) -> Any:
        check(lender, model, (*family.left_out, *left_out))
        return _read_folder(family, lender, dtype, left_out)

    cls = getattr(diffusers, _default(family))
    options = {"dtype": dtype, "local_files_only": True, **_constructor_options(family, cls)}
    return single_files.SingleFile(model, place, folders).read(cls, options, lend)


def accepted(cls: type, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what a class's constructor does not take."""
    known = inspect.signature(cls.__init__).parameters  # type: ignore[misc]  # a class from diffusers
    return {name: part for name, part in parts.items() if name in known}


def _read_folder(
    family: Family,
    place: pathlib.Path,
    dtype: torch.dtype,
    left_out: Iterable[str] = (),
    given: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    stated = pipeline_class(place, "")
    known = stated in family.pipelines.values()
    cls = getattr(diffusers, stated if known else _default(family))
    readers = {name: read for name, read in family.readers.items() if name not in left_out}
    pipeline = cls.from_pretrained(
        place,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        variant=variant(place),
        dtype=dtype,
        **_constructor_options(family, cls),
        **dict.fromkeys({*left_out, *readers} - {*family.left_out}),
        **given,
    )
    pipeline.register_modules(**{name: read(place / name) for name, read in readers.items()})
    return pipeline


def _default(family: Family) -> str:
    default = family.pipelines.get(model_pb2.OPERATION_TEXT_TO_IMAGE)
    return default or next(iter(family.pipelines.values()))


def _constructor_options(family: Family, cls: type) -> dict[str, Any]:
    return accepted(cls, {**dict.fromkeys(family.left_out), **(family.options or {})})


def variant(place: pathlib.Path) -> str | None:
    """Return which of a folder's weights are read: the halves where there are no others."""
    files = [path.name for path in place.glob("*/*.safetensors")]
    return "fp16" if files and all(".fp16" in name for name in files) else None
