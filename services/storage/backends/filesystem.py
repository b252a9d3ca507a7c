"""
Bytes as files in one folder: ``{root}/{first two digits of the key}/{key}``.

A file is written aside in ``{root}/incoming``, synced, and linked into place, which fails if the
name is taken; then its folder is synced. A crash leaves files in ``incoming`` only, and ``tidy``
removes them.
"""

import asyncio
import contextlib
import os
import pathlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from services.rpc.crash import crash_point
from services.storage.backend import (
    CHUNK_BYTES,
    BackendError,
    KeyMissing,
    KeyTaken,
    StorageBackend,
    checked_key,
)

SCHEMES = ("file",)


def open(url: str) -> StorageBackend:  # noqa: A001 - the contract's name
    """
    Open the folder of a ``file:///absolute/path`` URL; it is made where it is missing.

    Raises:
        ValueError: If the URL names a host or no absolute path.
    """
    parts = urlsplit(url)
    path = pathlib.Path(unquote(parts.path))
    if parts.netloc or not path.is_absolute() or parts.query or parts.fragment:
        raise ValueError("must be file:///absolute/path, with three slashes and no host")
    return FilesystemBackend(path)


class FilesystemBackend:
    """
    Keeps bytes in a folder.

    Args:
        root: The folder; it is made where it is missing.

    Raises:
        OSError: If it cannot be made.
    """

    on_disk = True

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root
        self._incoming = root / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        """Write bytes once, and return their number when they are durable."""
        path = self._path(key)
        aside = self._incoming / f"{key}.{secrets.token_hex(4)}"
        size = 0
        file = await asyncio.to_thread(_create, aside)
        try:
            async for chunk in chunks:
                size += await asyncio.to_thread(_write, file, chunk)
            await asyncio.to_thread(_publish, file, aside, path)
        finally:
            # Not in a thread: a canceled call must not wait here, nor be canceled once more.
            _discard(file, aside)
        return size

    async def read(self, key: str, offset: int, length: int) -> AsyncGenerator[bytes]:
        """Send at most *length* bytes from *offset* on."""
        file = await asyncio.to_thread(_open_at, self._path(key), offset)
        try:
            while chunk := await asyncio.to_thread(_read, file, min(CHUNK_BYTES, length)):
                length -= len(chunk)
                yield chunk
        finally:
            file.close()

    async def size(self, key: str) -> int | None:
        """Count the bytes under a key."""
        return await asyncio.to_thread(_size, self._path(key))

    async def delete(self, key: str) -> None:
        """Remove the bytes under a key, if there are any."""
        await asyncio.to_thread(_remove, self._path(key))

    async def keys(self, older_than_seconds: float) -> AsyncGenerator[str]:
        """List the keys whose bytes were written at least so long ago."""
        for number in range(256):
            shard = self._root / f"{number:02x}"
            for path in await asyncio.to_thread(_old_files, shard, older_than_seconds):
                yield path.name

    async def tidy(self, older_than_seconds: float) -> None:
        """Remove files that arrive no longer."""
        for path in await asyncio.to_thread(_old_files, self._incoming, older_than_seconds):
            await asyncio.to_thread(_remove, path)

    async def url(self, key: str, media_type: str, seconds: int) -> str:  # noqa: ARG002 - contract
        """Name the file."""
        return self._path(key).as_uri()

    async def close(self) -> None:
        """Nothing is held open."""

    def _path(self, key: str) -> pathlib.Path:
        return self._root / checked_key(key)[:2] / key


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise KeyMissing(str(error)) from error
    except FileExistsError as error:
        raise KeyTaken(str(error)) from error
    except OSError as error:
        raise BackendError(str(error)) from error


@_failures()
def _create(path: pathlib.Path) -> BinaryIO:
    return path.open("xb")


@_failures()
def _write(file: BinaryIO, chunk: bytes) -> int:
    return file.write(chunk)


@_failures()
def _publish(file: BinaryIO, aside: pathlib.Path, path: pathlib.Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    crash_point("storage.mid_asset_write")
    path.parent.mkdir(exist_ok=True)
    os.link(aside, path)
    _sync_folder(path.parent)
    # The shard's own entry, in case this file is its first.
    _sync_folder(path.parent.parent)


def _sync_folder(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(file: BinaryIO, aside: pathlib.Path) -> None:
    # On a full disk, closing tries to write what is buffered, and fails once more.
    with contextlib.suppress(OSError):
        file.close()
    aside.unlink(missing_ok=True)


@_failures()
def _open_at(path: pathlib.Path, offset: int) -> BinaryIO:
    file = path.open("rb")
    file.seek(offset)
    return file


@_failures()
def _read(file: BinaryIO, length: int) -> bytes:
    return file.read(length)


@_failures()
def _size(path: pathlib.Path) -> int | None:
    return path.stat().st_size if path.exists() else None


@_failures()
def _remove(path: pathlib.Path) -> None:
    path.unlink(missing_ok=True)


@_failures()
def _old_files(folder: pathlib.Path, age_seconds: float) -> list[pathlib.Path]:
    if not folder.is_dir():
        return []
    latest = time.time() - age_seconds
    with os.scandir(folder) as entries:
        return [pathlib.Path(entry) for entry in entries if entry.stat().st_mtime <= latest]
