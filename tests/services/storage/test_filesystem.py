"""The filesystem back end, and how a back end is chosen."""

import asyncio
import os
import secrets
import time

import pytest

from services.storage.backends import filesystem, open_backend
from tests.services.storage.backend_conformance import BackendConformance, read, send

LONG_AGO_SECONDS = 3660


def make_old(path):
    moment = time.time() - LONG_AGO_SECONDS
    os.utime(path, (moment, moment))


class TestFilesystemBackend(BackendConformance):
    """Files in a folder keep the contract."""

    @pytest.fixture
    def backend(self, tmp_path):
        return filesystem.FilesystemBackend(tmp_path)

    @pytest.fixture
    def age(self, tmp_path):
        async def age(key):
            await asyncio.to_thread(make_old, tmp_path / key[:2] / key)

        return age

    async def test_no_file_is_left_aside(self, backend, tmp_path):
        """
        Whether a put succeeds or fails, the folder for arriving bytes is empty afterwards.
        """
        key = secrets.token_hex(16)
        for _ in range(2):
            await asyncio.gather(backend.put(key, send(b"abc")), return_exceptions=True)

        assert not list((tmp_path / "incoming").iterdir())

    async def test_files_of_a_crash_are_removed(self, backend, tmp_path):
        """
        What arrived too long ago to be arriving still, and nothing younger.
        """
        for name in ("old", "young"):
            (tmp_path / "incoming" / name).write_bytes(b"abc")
        make_old(tmp_path / "incoming" / "old")

        await backend.tidy(3600)

        assert [path.name for path in (tmp_path / "incoming").iterdir()] == ["young"]


async def test_a_url_chooses_the_back_end(tmp_path):
    """
    The scheme chooses the back end, and the rest of the URL its folder, with escapes undone.
    """
    key = secrets.token_hex(16)
    folder = tmp_path / "with space"
    await open_backend(folder.as_uri()).put(key, send(b"abc"))

    assert (folder / key[:2] / key).read_bytes() == b"abc"
    assert await read(filesystem.FilesystemBackend(folder), key) == b"abc"


@pytest.mark.parametrize("url", ["ftp://host/assets", "assets", "/srv/assets"])
def test_an_unknown_scheme_names_the_alternatives(url):
    """
    The error tells which back ends there are.
    """
    with pytest.raises(ValueError, match=r"there are .*file://"):
        open_backend(url)


@pytest.mark.parametrize(
    "url", ["file://assets", "file://host/assets", "file:assets", "file:///a?b"]
)
def test_a_file_url_needs_an_absolute_path(url):
    """
    Two slashes instead of three would make a host of the first folder.
    """
    with pytest.raises(ValueError, match="three slashes"):
        open_backend(url)
