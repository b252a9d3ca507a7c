"""
The bytes of an upload while they arrive: counted, hashed, and kept in a file without a name.

The file has no name, so whatever ends the upload, the file is gone with it.
"""

import asyncio
import hashlib
import pathlib
import tempfile
from collections.abc import AsyncIterator
from types import TracebackType
from typing import IO, Self

from services.storage.images import Picture, inspect, too_large

READ_BYTES = 1024 * 1024


class Spool:
    """
    A file that grows by chunks up to a limit.

    Args:
        folder: Where the disk has room for uploads.
        limit_bytes: What may be written at most.
    """

    def __init__(self, folder: pathlib.Path, limit_bytes: int) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - close() is ours
        self._limit_bytes = limit_bytes
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def sha256(self) -> str:
        """The SHA-256 of what was written, in hexadecimal."""
        return self._hash.hexdigest()

    @property
    def file(self) -> IO[bytes]:
        """What was written."""
        return self._file

    async def write(self, chunk: bytes) -> None:
        """
        Append a chunk.

        Raises:
            InvalidRequest: If it passes the limit.
            OSError: If the disk is full.
        """
        self.size_bytes += len(chunk)
        if self.size_bytes > self._limit_bytes:
            raise too_large(
                f"the image has more than {self._limit_bytes} bytes, which is the most that is "
                "taken; scale it down or compress it more",
                {"limit_bytes": str(self._limit_bytes)},
            )
        await asyncio.to_thread(self._append, chunk)

    async def picture(self) -> Picture:
        """
        Tell what was written.

        Raises:
            InvalidRequest: If it is not a whole image that is taken.
        """
        return await asyncio.to_thread(inspect, self._file)  # type: ignore[arg-type]  # IO[bytes]

    async def chunks(self) -> AsyncIterator[bytes]:
        """Read everything back, a mebibyte at a time."""
        await asyncio.to_thread(self._file.seek, 0)
        while chunk := await asyncio.to_thread(self._file.read, READ_BYTES):
            yield chunk

    def _append(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self._file.write(chunk)
