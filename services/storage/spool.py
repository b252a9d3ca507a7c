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

from pictor.errors.v1 import error_reason_pb2
from services.rpc.errors import InvalidRequest, invalid

READ_BYTES = 1024 * 1024


class Spool:
    """
    A file that grows by chunks up to a limit. Making one is quick enough for the event loop, and a
    caller that is canceled meanwhile cannot lose it.

    Args:
        folder: Where the disk has room for uploads.
        limit_bytes: What may be written at most.
    """

    def __init__(self, folder: pathlib.Path, limit_bytes: int) -> None:
        # Unbuffered, since children that decode share the descriptor; close() is ours.
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
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
        self.close()

    def close(self) -> None:
        """Let the file go, for good."""
        self._file.close()

    @property
    def sha256(self) -> str:
        """The SHA-256 of what was written, in hexadecimal."""
        return self._hash.hexdigest()

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return self._file.fileno()

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

    async def measure(self) -> None:
        """Count and hash what somebody else has written."""
        self._hash, self.size_bytes = hashlib.sha256(), 0
        async for chunk in self.chunks():
            await asyncio.to_thread(self._hash.update, chunk)
            self.size_bytes += len(chunk)

    async def chunks(self, size_bytes: int = READ_BYTES) -> AsyncIterator[bytes]:
        """Read everything back, a mebibyte at a time, or as much as is said."""
        await asyncio.to_thread(self._file.seek, 0)
        while chunk := await asyncio.to_thread(self._file.read, size_bytes):
            yield chunk

    def _append(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        rest = memoryview(chunk)
        while rest:
            # A full disk may take a part.
            rest = rest[self._file.write(rest) :]


def too_large(size: str, limit: dict[str, str]) -> InvalidRequest:
    """Make the error of an image that is larger than *limit*, e.g. ``{"limit_bytes": "1024"}``."""
    error = invalid("chunk", size, error_reason_pb2.ERROR_REASON_INPUT_IMAGE_TOO_LARGE)
    error.metadata.update(limit)
    return error
