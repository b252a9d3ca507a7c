"""The parts of a checkpoint: how much memory they will take, and whether two are the same."""

import functools
import hashlib
import math
import pathlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch

from services.inference.worker.checkpoints import SUFFIX
from services.inference.worker.families.family import Family
from services.inference.worker.reading import variant
from services.inference.worker.tensor_files import read_header

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True)
class Parts:
    """
    A checkpoint's parts, as they are in memory.

    Attributes:
        place: A folder in diffusers' format, or a .safetensors file, whose parts are its own.
        family: Says which parts are not loaded.
        dtype: Of the weights in memory.
        acceleration: What is done to them after reading, in the words of the record.
    """

    place: pathlib.Path
    family: Family
    dtype: str
    acceleration: tuple[str, ...]

    def same(self, other: "Parts") -> Iterator[str]:
        """Name the parts that have the same content in both, and could be one in memory."""
        if self.dtype != other.dtype or self.acceleration != other.acceleration:
            return
        others = {folder.name: folder for folder in _folders(other.place, other.family)}
        for folder in _folders(self.place, self.family):
            twin = others.get(folder.name)
            if twin and _sizes(folder) == _sizes(twin) and _content(folder) == _content(twin):
                yield folder.name


def expected_bytes(
    place: pathlib.Path, family: Family, dtype: torch.dtype, left_out: Collection[str] = ()
) -> int:
    """Return how much memory a checkpoint's weights take, as its files' headers say."""
    if place.is_file():
        return _tensor_bytes(place, dtype)
    folders = (folder for folder in _folders(place, family) if folder.name not in left_out)
    return sum(_tensor_bytes(file, dtype) for folder in folders for file in _weights(folder))


def _folders(place: pathlib.Path, family: Family) -> list[pathlib.Path]:
    if place.is_file():
        return []
    left_out = {*family.left_out, *family.readers}
    folders = (path for path in sorted(place.iterdir()) if path.is_dir())
    return [f for f in folders if f.name not in left_out and any(f.glob(f"*{SUFFIX}"))]


def _weights(folder: pathlib.Path) -> list[pathlib.Path]:
    halves = variant(folder.parent) == "fp16"
    return [file for file in sorted(folder.glob(f"*{SUFFIX}")) if (".fp16" in file.name) == halves]


def _tensor_bytes(file: pathlib.Path, dtype: torch.dtype) -> int:
    return sum(
        math.prod(tensor.shape) * dtype.itemsize
        if tensor.dtype in FLOATS
        else tensor.end - tensor.start
        for tensor in read_header(file).values()
    )


def _sizes(folder: pathlib.Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in _files(folder)}


def _content(folder: pathlib.Path) -> list[bytes]:
    return [_digest(file.resolve(), file.stat().st_mtime_ns) for file in _files(folder)]


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return [folder / "config.json", *_weights(folder)]


@functools.lru_cache(maxsize=256)
def _digest(file: pathlib.Path, _mtime_ns: int) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").digest()
