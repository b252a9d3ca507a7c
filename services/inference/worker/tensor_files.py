"""
The headers of .safetensors files: which tensors a file holds, without reading any of them.

A file is eight bytes that say how long the header is, the header, and the tensors' bytes, one
after the other. A header that says otherwise, or a file that is shorter, is a NotTensors.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

LENGTH_BYTES = 8
# As the format's own reader has it.
MAX_HEADER_BYTES = 100_000_000
METADATA = "__metadata__"
BITS = {
    name: bits
    for bits, names in {
        4: "F4",
        6: "F6_E2M3 F6_E3M2",
        8: "BOOL U8 I8 F8_E4M3 F8_E5M2 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
        16: "U16 I16 F16 BF16",
        32: "U32 I32 F32",
        64: "U64 I64 F64 C64",
    }.items()
    for name in names.split()
}
# What files begin with that are named .safetensors and are none.
DISGUISES = {b"PK\x03\x04": "a PyTorch checkpoint, which is pickled", b"<": "a web page"}
PICKLE = b"\x80"
POINTER = b"version https://git-lfs"


class NotTensors(Exception):
    """A file that is not what .safetensors files are; says why."""


class Tensor(NamedTuple):
    """
    What a header says of one tensor.

    Attributes:
        dtype: In the format's words: ``F16``, ``BF16``.
        shape: Its sides.
        start: Where its bytes begin, after the header.
        end: Where they end.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: pathlib.Path) -> Mapping[str, Tensor]:
    """
    Read which tensors a file holds, by name, and insist that it holds them.

    Raises:
        NotTensors: If the file is damaged, cut off, or something else under that name.
        OSError: If it cannot be read.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        beginning = file.read(len(POINTER))
        length_bytes = int.from_bytes(beginning[:LENGTH_BYTES], "little")
        if beginning[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{" or length_bytes > MAX_HEADER_BYTES:
            raise NotTensors(_disguise(beginning))
        file.seek(LENGTH_BYTES)
        header = file.read(length_bytes)
    if len(header) < length_bytes:
        raise NotTensors(f"is cut off: its header has {len(header)} of {length_bytes} bytes")
    tensors = {name: _tensor(name, value) for name, value in _entries(header).items()}
    _require_bytes(tensors, size_bytes - LENGTH_BYTES - length_bytes)
    return tensors


def _disguise(beginning: bytes) -> str:
    if beginning == POINTER:
        return "is a pointer of Git LFS; fetch the file itself, with git lfs pull"
    # A pickle's second byte is its protocol, at most 5.
    if beginning.startswith(PICKLE) and len(beginning) > 1 and beginning[1] <= 5:
        return "is a pickle under another name, which is never read"
    for sign, what in DISGUISES.items():
        if beginning.startswith(sign):
            return f"is {what}, under another name"
    return "is not a .safetensors file: it has no header"


def _entries(header: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(header)
    except ValueError:
        entries = None
    if not isinstance(entries, dict):
        raise NotTensors("is not a .safetensors file: its header is no JSON object")
    entries.pop(METADATA, None)
    return entries


def _tensor(name: str, value: Any) -> Tensor:
    try:
        start, end = value["data_offsets"]
        tensor = Tensor(value["dtype"], tuple(value["shape"]), start, end)
        size_bytes = math.prod(tensor.shape) * BITS[tensor.dtype] / 8
    except (KeyError, TypeError, ValueError):
        raise NotTensors(f"is damaged: what its header says of {name[:80]} is no tensor") from None
    numbers = (*tensor.shape, start, end)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise NotTensors(f"is damaged: {name[:80]} has sides or a place that are not numbers")
    if end - start != size_bytes:
        raise NotTensors(f"is damaged: {name[:80]} has {end - start} bytes, not {size_bytes:g}")
    return tensor


def _require_bytes(tensors: Mapping[str, Tensor], size_bytes: int) -> None:
    """Insist that the tensors lie one after the other, and fill the rest of the file."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if tensor.start != end:
            raise NotTensors(f"is damaged: {name[:80]} begins at {tensor.start}, not at {end}")
        end = tensor.end
    if end > size_bytes:
        raise NotTensors(f"is cut off: its tensors have {size_bytes} of {end} bytes")
    if end < size_bytes:
        raise NotTensors(f"is damaged: {size_bytes - end} bytes belong to no tensor")
