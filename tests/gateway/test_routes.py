import itertools
import re

import pytest
from starlette.routing import compile_path

from gateway.dialect import Dialect
from gateway.routes import discover

DIALECTS = discover()
PLACEHOLDER = re.compile(r"\{\w+(:path)?\}")
OPERATIONS = [(dialect, one) for dialect in DIALECTS for one in dialect.operations]


def filled(path, value="x"):
    return PLACEHOLDER.sub(value, path)


def runs(path):
    """Every run of segments of a path: what a parameter of another path could take it for."""
    segments = filled(path).strip("/").split("/")
    for start, end in itertools.combinations(range(len(segments) + 1), 2):
        yield "/".join(segments[start:end])


def test_every_file_of_the_folder_is_a_dialect():
    """
    Discovery finds the dialects without a list of their names.
    """
    assert {"openai", "remotegpu"} <= {dialect.name for dialect in DIALECTS}
    assert all(isinstance(dialect, Dialect) for dialect in DIALECTS)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(a, b, id=f"{a.method} {a.path} {b.path}")
        for (_, a), (_, b) in itertools.permutations(OPERATIONS, 2)
        if a.method == b.method
    ],
)
def test_no_two_routes_match_the_same_request(one, other):
    """
    Which dialect answers never depends on the order of files.
    """
    pattern = compile_path(one.path)[0]
    for value in ["x", "x/y", *runs(one.path)]:
        assert not pattern.match(filled(other.path, value))


@pytest.mark.parametrize(("dialect", "operation"), OPERATIONS)
def test_a_dialects_routes_lie_below_its_prefixes(dialect, operation):
    """
    An unknown neighbour of a route is answered in the same envelope as the route. What stands
    behind a colon has no neighbours: its path without it is another one's.
    """
    behind_a_colon = operation.path.rpartition("}")[2].startswith(":")
    below = any(operation.path.startswith(prefix) for prefix in dialect.prefixes)
    assert below or behind_a_colon


def test_no_dialect_lies_below_the_native_api():
    """
    /pictor belongs to the suite's own protos.
    """
    assert not [one.path for _, one in OPERATIONS if one.path.startswith("/pictor")]
