"""The drill of docs/add-a-model-family.md, done as it stands there."""

import pathlib
import re
import sys

import pytest

from services.catalog.models import read_models
from services.inference.worker import families as package
from tests.services.inference.worker.conftest import Drawer

PAGE = pathlib.Path(__file__).parents[5] / "docs" / "add-a-model-family.md"
FENCE = re.compile(r"^```(py|toml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
(_, ENTRY), (_, FAMILY), (_, TEST) = FENCE.findall(PAGE.read_text(encoding="utf-8"))
NAME = f"{package.__name__}.chroma"

# Defines TestChroma, which pytest collects here.
exec(compile(TEST, str(PAGE), "exec"))  # the repository's own page


@pytest.fixture(scope="module", autouse=True)
def chroma(tmp_path_factory):
    """The page's family, found because its file lies in a folder of families."""
    folder = tmp_path_factory.mktemp("families")
    (folder / "chroma.py").write_text(FAMILY, encoding="utf-8")
    package.__path__.append(str(folder))
    package.families.cache_clear()
    yield
    package.__path__.remove(str(folder))
    package.families.cache_clear()
    sys.modules.pop(NAME, None)


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.FluxPosEmbed:FutureWarning")
def test_a_catalog_entry_is_all_that_a_checkpoint_needs(engine, tmp_path):
    """
    The page's entry is read, and its model draws.
    """
    (tmp_path / "models.toml").write_text(ENTRY, encoding="utf-8")
    (model,) = read_models(tmp_path / "models.toml")
    folder = tmp_path / model.checkpoint.folder
    globals()["TestChroma"].save(folder)
    draw = Drawer(type(engine)("cpu", [tmp_path]), model)

    assert draw.picture(width_px=64, height_px=64, step_count=2).size == (64, 64)
