"""Every input that the fuzzers have kept goes through its door again."""

import pathlib

import pytest

from tests.fuzzing import seeds

pytest.importorskip("atheris", reason="atheris is not installed")

from tests.fuzzing.doors import CORPUS, DOORS


@pytest.mark.parametrize("name", DOORS)
def test_what_was_found_once_is_harmless_now(name):
    """
    Nothing but the caller's own error comes out, and no address that is not public.
    """
    kept = sorted(pathlib.Path(CORPUS / name).iterdir())

    assert len(kept) >= len(seeds.seeds()[name])
    for path in kept:
        DOORS[name](path.read_bytes())
