"""The number format of a model's weights."""

import numpy as np
import pytest

from pictor.catalog.v1 import model_pb2
from services.inference.worker.families import families
from tests.services.inference.worker.conftest import Drawer

# diffusers hands tensors to NumPy in the ways of NumPy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

OLD_GPU = frozenset({"float32", "float16"})
NEW_GPU = OLD_GPU | {"bfloat16"}


def has_bfloat16():
    import torch

    from services.inference.worker.placement import native_dtypes

    return "bfloat16" in native_dtypes(torch.device("cpu"))


@pytest.mark.parametrize(
    ("wanted", "native", "taken"),
    [
        (["bfloat16"], NEW_GPU, "bfloat16"),
        (["bfloat16"], OLD_GPU, "float32"),
        (["bfloat16", "float16"], OLD_GPU, "float16"),
        (["float32", "bfloat16"], NEW_GPU, "float32"),
        ([], NEW_GPU, "float32"),
    ],
)
def test_the_first_format_that_the_device_has_is_taken(engine, wanted, native, taken):
    """
    Formats are tried in the record's order; what the device would emulate is passed over.
    """
    from services.inference.worker.placement import first_native

    assert first_native(wanted, native) == taken


def test_a_cpu_computes_in_float32_unless_the_record_allows_less(engine):
    """
    A family's own format is for GPUs: on a CPU a seed gives the same picture as anywhere.
    """
    import torch

    from services.inference.worker.placement import dtype_of

    cpu, flux = torch.device("cpu"), families()["flux"]

    assert flux.dtype == "bfloat16"
    assert dtype_of(model_pb2.Model(), flux, cpu) is torch.float32
    allowed = dtype_of(model_pb2.Model(dtypes=["bfloat16"]), flux, cpu)
    assert allowed is (torch.bfloat16 if has_bfloat16() else torch.float32)
    # No CPU multiplies matrices of it.
    assert dtype_of(model_pb2.Model(dtypes=["float16"]), flux, cpu) is torch.float32


def test_a_model_draws_in_the_format_that_its_record_allows(engine, model, draw):
    """
    On a CPU with bfloat16 the picture is nearly the same, and not the same.
    """
    if not has_bfloat16():
        pytest.skip("this CPU has no instructions for bfloat16")
    model.name, model.dtypes[:] = "models/tiny-bfloat16", ["bfloat16"]
    plain = np.asarray(Drawer(engine, _plain(model)).picture()).astype(int)
    short = np.asarray(Drawer(engine, model).picture()).astype(int)

    assert 0 < np.abs(plain - short).max() <= 24


def _plain(model):
    plain = model_pb2.Model()
    plain.CopyFrom(model)
    plain.name = "models/tiny"
    del plain.dtypes[:]
    return plain
