"""
Bodies: read with a cap, and parsed into JSON values or forms.

Everything here is safe against bodies made to hurt: the size is counted while it arrives, depth
ends in an error and not in the interpreter's, and text that UTF-8 cannot hold is refused.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from gateway.dialect import Body
from gateway.images import Upload
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.errors import Canceled, InvalidRequest

LIMIT_BYTES = 64 * 1024 * 1024
# Parsing more than this takes long enough to be felt by other requests.
PARSED_IN_LINE_BYTES = 256 * 1024
MAX_DEPTH = 100
MAX_PARTS = 1000

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,200})"|([^;\s]{1,200}))', re.IGNORECASE)
_NAME = re.compile(r'[;\s]name=(?:"((?:[^"\\]|\\.)*)"|([^;\s]+))', re.IGNORECASE)

Form = dict[str, list[str | Upload]]


async def read_body(request: Request, kind: Body) -> Any:
    """
    Read what an operation wants to read; nothing of a body that nobody asked for.

    Returns:
        A JSON value, a Form, or None where there is none.

    Raises:
        InvalidRequest: With REQUEST_TOO_LARGE or BODY_INVALID.
        Canceled: If the caller left while sending.
    """
    if kind is Body.NONE:
        return None
    content = await read_bytes(request)
    media_type = request.headers.get("content-type", "")
    if len(content) <= PARSED_IN_LINE_BYTES:
        return parse(content, media_type, kind)
    return await asyncio.to_thread(parse, content, media_type, kind)


async def read_bytes(request: Request, limit_bytes: int = LIMIT_BYTES) -> bytes:
    """
    Read a body of at most *limit_bytes*; one that is declared larger is refused unread.

    Raises:
        InvalidRequest: With REQUEST_TOO_LARGE.
        Canceled: If the caller left while sending.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        _too_large(limit_bytes)
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit_bytes:
                _too_large(limit_bytes)
            chunks.append(chunk)
    except ClientDisconnect:
        raise Canceled("the caller left before its request was complete") from None
    return b"".join(chunks)


def parse(content: bytes, media_type: str, kind: Body) -> Any:
    """
    Parse a body that was read.

    Raises:
        InvalidRequest: With BODY_INVALID.
    """
    is_form = media_type.lower().startswith(("multipart/", "application/x-www-form-urlencoded"))
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
        _invalid(f"the body is not JSON: {error}")
    return value


def parse_form(content: bytes, media_type: str) -> Form:
    """
    Parse a form, multipart or urlencoded.

    Raises:
        InvalidRequest: With BODY_INVALID.
    """
    if media_type.lower().startswith("multipart/"):
        boundary = _BOUNDARY.search(media_type)
        if boundary is None:
            _invalid("the content type multipart/form-data names no boundary")
        return _multipart(content, (boundary[1] or boundary[2]).encode("latin-1"))
    try:
        pairs = parse_qsl(content.decode(), keep_blank_values=True, max_num_fields=MAX_PARTS)
    except ValueError:
        _invalid("the body is not a form in UTF-8")
    form: Form = {}
    for name, value in pairs:
        form.setdefault(name, []).append(value)
    return form


def _multipart(content: bytes, boundary: bytes) -> Form:
    parts = (b"\r\n" + content).split(b"\r\n--" + boundary)
    if len(parts) > MAX_PARTS + 2:
        _invalid(f"the form has more than {MAX_PARTS} parts")
    if len(parts) < 2 or not parts[-1].startswith(b"--"):
        _invalid("the form does not end with its boundary; it was cut off")
    form: Form = {}
    for part in parts[1:-1]:
        head, separator, value = part.partition(b"\r\n\r\n")
        disposition = _disposition(head)
        name = _NAME.search(disposition)
        if not separator or name is None:
            _invalid("a part of the form has no name")
        key = re.sub(r"\\(.)", r"\1", name[1]) if name[1] is not None else name[2]
        form.setdefault(key, []).append(_part(value, is_file="filename" in disposition.lower()))
    return form


def _disposition(head: bytes) -> str:
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition":
            return value
    return ""


def _part(value: bytes, *, is_file: bool) -> str | Upload:
    if is_file:
        return Upload(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        _invalid("a text of the form is not UTF-8")


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


def _too_large(limit_bytes: int) -> NoReturn:
    raise InvalidRequest(
        f"the request body has more than {limit_bytes} bytes",
        reason=reasons.ERROR_REASON_REQUEST_TOO_LARGE,
        metadata={"limit_bytes": str(limit_bytes)},
    )
