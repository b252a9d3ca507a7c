"""Which number format a model's weights have on a device."""

from collections.abc import Collection, Iterable

import torch

from pictor.catalog.v1 import model_pb2
from services.inference.worker.families.family import Family

FLOAT32 = "float32"
# Instructions that multiply matrices of bfloat16: Intel's and AMD's, as torch names them.
CPU_BFLOAT16 = ("amx_bf16", "avx512_bf16")
AMPERE = (8, 0)
# Before it, Metal has no bfloat16.
SONOMA = (14, 0)


def dtype_of(model: model_pb2.Model, family: Family, device: torch.device) -> torch.dtype:
    """
    Return the format in which a model is read and computed.

    The first that the device computes with by itself, of those that the catalog's record names,
    then the family's own (never on a CPU, where a seed must give the same image as elsewhere), then
    float32.
    """
    own = () if device.type == "cpu" else (family.dtype,)
    name = first_native((*model.dtypes, *own), native_dtypes(device))
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def first_native(wanted: Iterable[str], native: Collection[str]) -> str:
    """Return the first of *wanted* that is native; float32, which every device has, if none is."""
    return next((name for name in wanted if name in native), FLOAT32)


def native_dtypes(device: torch.device) -> frozenset[str]:
    """
    Name the formats that the device computes with by itself.

    What it would have to emulate is left out: it takes longer than float32, or is not there.
    """
    if device.type == "cpu":
        halves = {"bfloat16": _cpu_has_bfloat16()}
    elif device.type == "cuda":
        halves = {
            "float16": True,
            "bfloat16": torch.cuda.get_device_capability(device) >= AMPERE,
        }
    else:
        halves = {"float16": True, "bfloat16": torch.backends.mps.is_macos_or_newer(*SONOMA)}
    return frozenset({FLOAT32, *(name for name, native in halves.items() if native)})


def _cpu_has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in CPU_BFLOAT16)
