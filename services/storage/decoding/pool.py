"""
The service's side of decoding: a few children that wait, and what each of them may take.

A child that dies, takes too long or passes its memory is the image's fault: the caller is refused,
and the next image gets a new child.
"""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from pictor.errors.v1 import error_reason_pb2
from services.rpc.errors import InvalidRequest, invalid
from services.storage.decoding.images import Picture

CHILDREN = 2
MEMORY_BYTES = 512 * 1024 * 1024
# The largest picture that is taken decodes in two seconds.
CPU_SECONDS = 15
SECONDS = 30.0
ANSWER_BYTES = 64 * 1024
_MODULE = "services.storage.decoding.child"

log = structlog.get_logger()


class File(Protocol):
    """An open file that a child can be given."""

    def fileno(self) -> int:
        """Return its descriptor."""


@dataclass(frozen=True)
class Limits:
    """
    What one child may take.

    Attributes:
        memory_bytes: Of its address space, the interpreter included.
        cpu_seconds: For one image.
        seconds: For one image, waiting included.
    """

    memory_bytes: int = MEMORY_BYTES
    cpu_seconds: int = CPU_SECONDS
    seconds: float = SECONDS


class Decoders:
    """
    Decodes images in children, each one at a time.

    Args:
        count: How many images are decoded at the same moment.
        limits: Of each child.
    """

    def __init__(self, count: int = CHILDREN, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._turns = asyncio.Semaphore(count)
        self._idle: list[_Child] = []

    async def inspect(self, source: File) -> Picture:
        """
        Tell what an image is.

        Raises:
            InvalidRequest: If it is none that is taken.
        """
        return Picture(*await self.run("inspect", [source]))

    async def clean(self, source: File, target: File) -> tuple[Picture, bool]:
        """
        Tell what an image is, and write it without metadata if it has any.

        Returns:
            What it is, and whether anything was written.

        Raises:
            InvalidRequest: If it is none that is taken.
        """
        *picture, is_changed = await self.run("clean", [source, target])
        return Picture(*picture), is_changed

    async def run(self, operation: str, files: Sequence[File], **arguments: Any) -> Any:
        """
        Let a child do an operation of ``child.py``.

        Args:
            operation: Its name.
            files: The source, and the target if it has one.
            arguments: What JSON can hold.

        Raises:
            InvalidRequest: If the image is not taken, or is more than a child can bear.
        """
        async with self._turns:
            child = self._idle.pop() if self._idle else await _start(self._limits)
            try:
                async with asyncio.timeout(self._limits.seconds):
                    message = {"operation": operation, "arguments": arguments}
                    answer = await child.ask(message, [file.fileno() for file in files])
            except (TimeoutError, OSError, ValueError) as error:
                await child.end()
                log.warning("decoding.child_lost", operation=operation, error=type(error).__name__)
                raise _unbearable() from None
            except BaseException:
                # Canceled: what the child does now nobody wants.
                await asyncio.shield(child.end())
                raise
            self._idle.append(child)
        if "refusal" in answer:
            raise _refused(*answer["refusal"])
        return answer["result"]

    async def warm(self) -> None:
        """Start a child before the first image comes."""
        async with self._turns:
            if not self._idle:
                self._idle.append(await _start(self._limits))

    async def close(self) -> None:
        """End all children."""
        while self._idle:
            await self._idle.pop().end()


class _Child:
    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket) -> None:
        self._process = process
        self._line = line

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        socket.send_fds(self._line, [json.dumps(message).encode()], descriptors)
        answer = await asyncio.get_running_loop().sock_recv(self._line, ANSWER_BYTES)
        if not answer:
            raise ConnectionResetError
        found: dict[str, Any] = json.loads(answer)
        return found

    async def end(self) -> None:
        self._line.close()
        self._process.kill()
        await asyncio.to_thread(self._process.wait)


async def _start(limits: Limits) -> _Child:
    starting = asyncio.ensure_future(asyncio.to_thread(_started, limits))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await (await starting).end()
        raise


def _started(limits: Limits) -> _Child:
    # Messages keep their bounds.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with contextlib.closing(theirs):
        arguments = (theirs.fileno(), limits.memory_bytes, limits.cpu_seconds)
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-S", "-m", _MODULE, *map(str, arguments)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # The child finds what we import, and none of the secrets in our environment.
            env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
        )
    return _Child(process, ours)


def _refused(reason: str, message: str, metadata: dict[str, str]) -> InvalidRequest:
    value = error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}")
    field = metadata.pop("field", "chunk")
    error = invalid(field, message, value)
    error.metadata.update(metadata)
    return error


def _unbearable() -> InvalidRequest:
    return invalid(
        "chunk",
        "the image takes more time or memory than decoding one may; save it anew, or scale it down",
        error_reason_pb2.ERROR_REASON_INPUT_IMAGE_INVALID,
    )
