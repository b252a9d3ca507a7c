"""
Where bytes are kept: the contract of a storage back end.

    BackendError            the back end failed; the message is for the logs
      KeyTaken              bytes were written once already under this key
      KeyMissing            there are no bytes under this key
      BackendUnavailable    it does not answer now; the same call may succeed later

A back end is a module in ``services/storage/backends`` with two names: ``SCHEMES``, the URL schemes
that it answers to, and ``open(url)``, which makes a StorageBackend or raises ValueError with the
rule that the URL breaks. Its test is a subclass of the conformance test.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

CHUNK_BYTES = 256 * 1024
_KEY = re.compile("[0-9a-f]{32}")


class BackendError(Exception):
    """The back end failed."""


class KeyTaken(BackendError):
    """Bytes were written once already under this key."""


class KeyMissing(BackendError):
    """There are no bytes under this key."""


class BackendUnavailable(BackendError):
    """The back end does not answer now; the same call may succeed later."""


class StorageBackend(Protocol):
    """
    Keeps bytes under keys of 32 lower-case hexadecimal digits; any other key is a ValueError.

    Bytes are written once and never change. Nobody sees a part of them: a put that fails, that is
    canceled or whose process dies leaves nothing under its key.

    Attributes:
        on_disk: Its URLs name files, for whoever shares the disk.
    """

    on_disk: bool

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        """
        Write bytes, and return their number once they are durable.

        Raises:
            KeyTaken: If there are bytes under this key; they stay as they are.
            BackendError: If they cannot be written. After BackendUnavailable they may be there all
                the same: the answer was lost, not the bytes.
        """

    def read(self, key: str, offset: int, length: int) -> AsyncGenerator[bytes]:
        """
        Send at most *length* bytes from *offset* on, in chunks of at most 256 KiB.

        Raises:
            KeyMissing: At the first chunk, if there are no bytes under this key.
            BackendError: If they cannot be read.
        """

    async def size(self, key: str) -> int | None:
        """Count the bytes under a key; None if there are none."""

    async def delete(self, key: str) -> None:
        """Remove the bytes under a key, if there are any."""

    def keys(self, older_than_seconds: float) -> AsyncGenerator[str]:
        """List the keys whose bytes were written at least so long ago, in any order."""

    async def tidy(self, older_than_seconds: float) -> None:
        """Remove what puts have left that ended with their process, at least so long ago."""

    async def url(self, key: str, media_type: str, seconds: int) -> str:
        """Return a URL that opens the bytes to everybody, for so long."""

    async def close(self) -> None:
        """Give back connections and threads."""


def checked_key(key: str) -> str:
    """
    Return a key that cannot mean anything but itself in a path or URL.

    Raises:
        ValueError: If it is not 32 lower-case hexadecimal digits.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"the key {key!r} is not 32 lower-case hexadecimal digits")
    return key
