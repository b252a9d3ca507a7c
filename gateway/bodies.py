"""
Bodies: read with a cap, and parsed into JSON values or forms.

Everything here is safe against bodies made to hurt: the size is counted while it arrives, that of
one body and that of all together; who is too slow is sent away; depth ends in an error and not in
the interpreter's; and text that UTF-8 cannot hold is refused.
"""

import asyncio
import io
import itertools
import json
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any, NoReturn
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, FormParser, parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from gateway.dialect import Body
from gateway.fields import FORM_TYPES
from gateway.images import Upload
from gateway.status import RequestTimeout
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.errors import Canceled, InvalidRequest, Unavailable

LIMIT_BYTES = 64 * 1024 * 1024
# Parsing more than this takes long enough to be felt by other requests.
PARSED_IN_LINE_BYTES = 256 * 1024
# What waits for its turn lies on disk, but for this much.
SPOOLED_BYTES = 256 * 1024
WRITTEN_BYTES = 256 * 1024
# Large bodies in memory at the same moment, each several times while it is taken apart.
PARSED_AT_ONCE = 2
MAX_DEPTH = 100
MAX_PARTS = 1000
RETRY_AFTER_SECONDS = 5
_HELD = "gateway.held_bytes"
_TURN = "gateway.turn"

Form = dict[str, list[str | Upload]]


@dataclass(frozen=True)
class Patience:
    """
    How long a body may take.

    Attributes:
        idle_seconds: Without a byte.
        seconds: In all.
    """

    idle_seconds: float = 30.0
    seconds: float = 300.0


class Budget:
    """
    The room for the bodies of all requests together: each counts from its first byte to its answer.

    Args:
        limit_bytes: The room.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.held_bytes = 0
        self._limit_bytes = limit_bytes

    def take(self, scope: Scope, size_bytes: int) -> None:
        """
        Count bytes that a request has brought.

        Raises:
            Unavailable: If there is no room for them.
        """
        if self.held_bytes + size_bytes > self._limit_bytes:
            raise Unavailable(
                "the server is reading as many large requests as it can hold; try again later",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self.held_bytes += size_bytes
        scope[_HELD] = scope.get(_HELD, 0) + size_bytes

    def release(self, scope: Scope) -> None:
        """Count the bytes of a request that is answered no longer."""
        self.held_bytes -= scope.pop(_HELD, 0)


# On disk: a body of more than SPOOLED_BYTES waits there until its turn comes.
BUDGET = Budget(4 * 1024 * 1024 * 1024)


def give_turn_back(scope: Scope) -> bool:
    """Let the next large body into memory, if this request's is there; tell whether it was."""
    turns: asyncio.Semaphore | None = scope.pop(_TURN, None)
    if turns:
        turns.release()
    return turns is not None


async def read_body(request: Request, kind: Body, limit_bytes: int = LIMIT_BYTES) -> Any:
    """
    Read what an operation wants to read; nothing of a body that nobody asked for.

    A large body arrives on disk, and is in memory from its turn on until ``give_turn_back``.

    Returns:
        A JSON value, a Form, or None where there is none.

    Raises:
        InvalidRequest: With REQUEST_TOO_LARGE or BODY_INVALID.
        Canceled: If the caller left while sending.
        RequestTimeout: If the caller is too slow.
        Unavailable: If there is no room for the body now.
    """
    if kind is Body.NONE:
        return None
    media_type = request.headers.get("content-type", "")
    with tempfile.SpooledTemporaryFile(SPOOLED_BYTES) as file:
        size = await _receive(request, file, limit_bytes, Patience(), BUDGET)
        if size <= PARSED_IN_LINE_BYTES:
            return parse(file.read(), media_type, kind)
        await _take_turn(request)
        return await asyncio.to_thread(_parse_file, file, media_type, kind)


async def read_bytes(
    request: Request,
    limit_bytes: int = LIMIT_BYTES,
    *,
    patience: Patience = Patience(),
    budget: Budget = BUDGET,
) -> bytes:
    """
    Read a body of at most *limit_bytes*; one that is declared larger is refused unread.

    Raises:
        InvalidRequest: With REQUEST_TOO_LARGE.
        Canceled: If the caller left while sending.
        RequestTimeout: If the caller is too slow.
        Unavailable: If there is no room for the body now.
    """
    with tempfile.SpooledTemporaryFile(SPOOLED_BYTES) as file:
        await _receive(request, file, limit_bytes, patience, budget)
        return file.read()


async def _receive(
    request: Request, file: IO[bytes], limit_bytes: int, patience: Patience, budget: Budget
) -> int:
    """Write a body into a file, which is at its beginning then, and count its bytes."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > limit_bytes):
        raise too_large(limit_bytes)
    held, size = bytearray(), 0
    try:
        async with asyncio.timeout(patience.seconds):
            async for chunk in _chunks(request, patience):
                size += len(chunk)
                if size > limit_bytes:
                    raise too_large(limit_bytes)
                budget.take(request.scope, len(chunk))
                held += chunk
                if len(held) >= WRITTEN_BYTES:
                    await asyncio.to_thread(file.write, bytes(held))
                    held.clear()
    except ClientDisconnect:
        raise Canceled("the caller left before its request was complete") from None
    except TimeoutError:
        raise RequestTimeout(
            f"the request body did not arrive: {patience.idle_seconds:g} s passed without a byte,"
            f" or {patience.seconds:g} s in all"
        ) from None
    file.write(held)
    file.seek(0)
    return size


async def _take_turn(request: Request) -> None:
    """Wait until there is memory for a large body; the application's requests share it."""
    state = request.app.state
    if not hasattr(state, "turns"):
        state.turns = asyncio.Semaphore(PARSED_AT_ONCE)
    await state.turns.acquire()
    request.scope[_TURN] = state.turns


def _parse_file(file: IO[bytes], media_type: str, kind: Body) -> Any:
    if _is_multipart(media_type) and kind in (Body.FORM, Body.JSON_OR_FORM):
        return parse_multipart(iter(lambda: file.read(WRITTEN_BYTES), b""), media_type)
    return parse(file.read(), media_type, kind)


def too_large(limit_bytes: int) -> InvalidRequest:
    """Make the error of a body with more than *limit_bytes*."""
    return InvalidRequest(
        f"the request has more than {limit_bytes} bytes, which is the most that is accepted here",
        reason=reasons.ERROR_REASON_REQUEST_TOO_LARGE,
        metadata={"limit_bytes": str(limit_bytes)},
    )


async def _chunks(request: Request, patience: Patience) -> AsyncIterator[bytes]:
    stream = aiter(request.stream())
    while True:
        async with asyncio.timeout(patience.idle_seconds):
            chunk = await anext(stream, None)
        if chunk is None:
            return
        yield chunk


def parse(content: bytes, media_type: str, kind: Body) -> Any:
    """
    Parse a body that was read.

    Raises:
        InvalidRequest: With BODY_INVALID.
    """
    is_form = media_type.lower().startswith(FORM_TYPES)
    if kind is Body.FORM or (kind is Body.JSON_OR_FORM and is_form):
        return parse_form(content, media_type)
    if kind is Body.OPTIONAL_JSON and not content.strip():
        return None
    return parse_json(content)


def parse_json(content: bytes) -> Any:
    """
    Parse strict JSON: UTF-8, no NaN, not deeper than MAX_DEPTH.

    Raises:
        InvalidRequest: With BODY_INVALID.
    """
    try:
        value = json.loads(content.decode("utf-8-sig"), parse_constant=_no_constant)
        _check_depth(value)
        # Half of a surrogate pair is legal in JSON and in nothing that comes after it.
        if b"\\ud" in content.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        _invalid(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}")
    except RecursionError:
        _invalid(f"the body is nested more than {MAX_DEPTH} deep")
    except UnicodeError:
        _invalid("the body is not UTF-8 text")
    except ValueError as error:
        # Python's word for a number of thousands of digits advises how to raise its limit.
        what = str(error).partition(";")[0]
        _invalid(f"the body is not JSON: {what}")
    return value


def parse_form(content: bytes, media_type: str) -> Form:
    """
    Parse a form, multipart or urlencoded.

    Raises:
        InvalidRequest: With BODY_INVALID.
    """
    if _is_multipart(media_type):
        return parse_multipart([content], media_type)
    try:
        pairs = parse_qsl(
            content.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARTS
        )
    except UnicodeDecodeError:
        _invalid("a text of the form is not UTF-8")
    except ValueError:
        _invalid(f"the form has more than {MAX_PARTS} parts")
    form: Form = {}
    for name, value in pairs:
        form.setdefault(name, []).append(value)
    return form


def parse_multipart(pieces: Iterable[bytes], media_type: str) -> Form:
    """
    Parse a form of type multipart/form-data that comes in pieces.

    Raises:
        InvalidRequest: With BODY_INVALID.
    """
    _, options = parse_options_header(media_type)
    try:
        return _multipart(pieces, options.get(b"boundary"))
    except UnicodeDecodeError:
        _invalid("a text of the form is not UTF-8")
    except FormParserError as error:
        _invalid(f"the body is not a form: {error}")


def _is_multipart(media_type: str) -> bool:
    return parse_options_header(media_type)[0] == b"multipart/form-data"


def _multipart(pieces: Iterable[bytes], boundary: bytes | None) -> Form:
    form: Form = {}
    count = itertools.count(1)
    ended = []

    def add(name: bytes | None, value: bytes | Upload) -> None:
        if next(count) > MAX_PARTS:
            _invalid(f"the form has more than {MAX_PARTS} parts")
        if not name:
            _invalid("a part of the form has no name")
        text = value if isinstance(value, Upload) else value.decode()
        form.setdefault(name.decode(), []).append(text)

    def add_file(file: File) -> None:
        held = file.file_object
        held.seek(0)
        # In memory, by the limit below, where the value is the buffer itself and read() a copy.
        content = held.getvalue() if isinstance(held, io.BytesIO) else held.read()
        add(file.field_name, Upload(content))
        file.close()

    parser = FormParser(
        "multipart/form-data",
        lambda field: add(field.field_name, field.value or b""),
        add_file,
        on_end=lambda: ended.append(True),
        boundary=boundary,
        config={"MAX_MEMORY_FILE_SIZE": LIMIT_BYTES},
    )
    for piece in pieces:
        parser.write(piece)
    parser.finalize()
    if not ended:
        _invalid("the form does not end with its boundary; it was cut off")
    return form


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, Mapping) else one)
        ]
        if not level:
            return
    raise RecursionError


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _invalid(message: str) -> NoReturn:
    raise InvalidRequest(message, reason=reasons.ERROR_REASON_BODY_INVALID)
