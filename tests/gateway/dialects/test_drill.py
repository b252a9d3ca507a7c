"""The drill of docs/add-a-dialect.md, done as it stands there."""

import ast
import contextlib
import importlib
import pathlib
import re
import sys
import tempfile

import pytest

from gateway import dialects as package
from gateway.routes import discover
from tests.gateway.house import open_house

ROOT = pathlib.Path(__file__).parents[3]
PAGE = ROOT / "docs" / "add-a-dialect.md"
FENCE = re.compile(r"^```py\n(.*?)^```", re.MULTILINE | re.DOTALL)
DIALECT, TEST = FENCE.findall(PAGE.read_text(encoding="utf-8"))
NAME = f"{package.__name__}.easel"


@contextlib.contextmanager
def found_in(folder):
    """Let the page's dialect be found, because its file lies in a folder of dialects."""
    (folder / "easel.py").write_text(DIALECT, encoding="utf-8")
    package.__path__.append(str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        package.__path__.remove(str(folder))
        sys.modules.pop(NAME, None)
        vars(package).pop("easel", None)


@pytest.fixture(scope="module")
async def house(tmp_path_factory):
    """The gateway with every dialect, the page's included."""
    folder = tmp_path_factory.mktemp("drill")
    with found_in(folder):
        async with open_house(tmp_path_factory.mktemp("house")) as one:
            yield one


@pytest.fixture(scope="module")
async def shop(tmp_path_factory):
    """As the house, but drawing has a price."""
    folder = tmp_path_factory.mktemp("drill")
    with found_in(folder):
        async with open_house(
            tmp_path_factory.mktemp("shop"), PICTOR_DEFAULT_PRICE="1000000"
        ) as one:
            yield one


def names(path):
    return re.search(r"\beasel\b", path.read_text(encoding="utf-8"), re.IGNORECASE)


def load_test():
    """Run the page's test file; its class and functions are collected here."""
    with tempfile.TemporaryDirectory() as folder, found_in(pathlib.Path(folder)):
        exec(compile(TEST, str(PAGE), "exec"), globals())  # the repository's own page


load_test()


async def test_the_page_adds_a_file_and_its_test_and_nothing_else(house):
    """
    The dialect is found without being named anywhere, and imports what dialects may.
    """
    assert "easel" in [one.name for one in discover()]
    files = [ROOT / "gateway", ROOT / "services", ROOT / "protos"]
    assert not [one for folder in files for one in folder.rglob("*.py") if names(one)]
    imported = {
        node.module.split(".")[0]
        for node in ast.walk(ast.parse(DIALECT))
        if isinstance(node, ast.ImportFrom)
    }
    assert imported == {"gateway", "pictor"}


async def test_the_new_api_is_described_and_listed(house):
    """
    /openapi.json and / know it as soon as its file is there.
    """
    async with house.client("") as client:
        document = (await client.get("/openapi.json")).json()
        index = (await client.get("/")).json()

    statuses = set(document["paths"]["/easel/paint"]["post"]["responses"])
    assert {"200", "202", "400", "401", "404", "422"} <= statuses
    assert "Easel" in [api["name"] for api in index["apis"]]
