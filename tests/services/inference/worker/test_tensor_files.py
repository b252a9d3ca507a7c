import json
import pickle

import pytest

from services.inference.worker.tensor_files import NotTensors, Tensor, read_header

TENSOR = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def content(header, size_bytes):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size_bytes)


@pytest.fixture
def refused(tmp_path):
    """Why a file of this content is none."""

    def reason(content):
        (tmp_path / "file.safetensors").write_bytes(content)
        with pytest.raises(NotTensors) as error:
            read_header(tmp_path / "file.safetensors")
        return str(error.value)

    return reason


def test_a_header_tells_types_shapes_and_places(tmp_path):
    """
    What a library wrote is read without the library.
    """
    from safetensors.torch import save_file
    from torch import bfloat16, float32, zeros

    path = tmp_path / "file.safetensors"
    save_file(
        {"b": zeros(2, 3, dtype=bfloat16), "a": zeros((), dtype=float32)}, path, {"format": "pt"}
    )
    header = read_header(path)

    assert {name: tensor[:2] for name, tensor in header.items()} == {
        "b": ("BF16", (2, 3)),
        "a": ("F32", ()),
    }
    assert sum(tensor.end - tensor.start for tensor in header.values()) == 16


def test_a_file_without_tensors_is_one(tmp_path):
    """
    Nothing is wrong with it, though little can be drawn with it.
    """
    (tmp_path / "file.safetensors").write_bytes(content({"__metadata__": {"format": "pt"}}, 0))

    assert read_header(tmp_path / "file.safetensors") == {}


def test_a_tensor_fills_its_bytes(tmp_path):
    """
    Its place is that within the file, after the header.
    """
    (tmp_path / "file.safetensors").write_bytes(content({"a": TENSOR}, 24))

    assert read_header(tmp_path / "file.safetensors") == {"a": Tensor("F32", (2, 3), 0, 24)}


@pytest.mark.parametrize(
    ("begins", "why"),
    [
        (pickle.dumps({"a": 1}), "a pickle under another name"),
        (pickle.dumps({"a": 1}, protocol=2), "a pickle under another name"),
        (b"PK\x03\x04" + bytes(100), "a PyTorch checkpoint"),
        (b"<!doctype html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of Git LFS"),
        (b"", "no header"),
        (b"short", "no header"),
        (b"\xff" * 7 + b"\x7f{" + bytes(100), "no header"),
    ],
)
def test_something_else_under_the_name_is_refused(refused, begins, why):
    """
    A file is what it holds, whatever it is called; none of it is run.
    """
    assert why in refused(begins)


@pytest.mark.parametrize("kept_bytes", [9, 20, 60, -1])
def test_a_file_that_breaks_off_is_refused(refused, kept_bytes):
    """
    A download that ended early is told from damage, with what is there and what is not.
    """
    whole = content({"a": TENSOR}, 24)
    why = refused(whole[:kept_bytes])

    assert "is cut off" in why


@pytest.mark.parametrize(
    ("change", "size_bytes"),
    [
        ({"dtype": "F33"}, 24),
        ({"shape": [2, -3]}, 24),
        ({"shape": [2, 4]}, 24),
        ({"shape": [2.0, 3]}, 24),
        ({"shape": [True, 6]}, 24),
        ({"shape": None}, 24),
        ({"data_offsets": [0, 32]}, 32),
        ({"data_offsets": [8, 32]}, 32),
        ({"data_offsets": [-8, 16]}, 24),
        ({"data_offsets": [0]}, 24),
        ({}, 25),
    ],
)
def test_a_header_that_is_not_true_is_refused(refused, change, size_bytes):
    """
    Types, sides and places must agree with each other and with the file.
    """
    assert "damaged" in refused(content({"a": {**TENSOR, **change}}, size_bytes))


@pytest.mark.parametrize("header", [b"{", b"[]", b'{"a": [1]}', b'{"a": "b"}'])
def test_a_header_that_is_no_header_is_refused(refused, header):
    """
    JSON that does not parse, or says something else.
    """
    assert refused(content(header, 0))


def test_tensors_that_overlap_are_refused(refused):
    """
    Each byte belongs to one tensor.
    """
    header = {"a": TENSOR, "b": {**TENSOR, "data_offsets": [8, 32]}}

    assert "b begins at 8, not at 24" in refused(content(header, 32))
