"""
Bodies: read with a cap, and parsed into JSON values or forms.

Everything here is safe against bodies made to hurt: the size is counted while it arrives, depth
ends in an error and not in the interpreter's, and text that UTF-8 cannot hold is refused.
"""

import asyncio
import itertools
import json
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, FormParser, parse_options_header
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
    kind, options = parse_options_header(media_type)
    try:
        if kind == b"multipart/form-data":
            return _multipart(content, options.get(b"boundary"))
        pairs = parse_qsl(content.decode(), keep_blank_values=True, max_num_fields=MAX_PARTS)
    except UnicodeDecodeError:
        _invalid("a text of the form is not UTF-8")
    except FormParserError as error:
        _invalid(f"the body is not a form: {error}")
    except ValueError:
        _invalid(f"the form has more than {MAX_PARTS} parts")
    form: Form = {}
    for name, value in pairs:
        form.setdefault(name, []).append(value)
    return form


def _multipart(content: bytes, boundary: bytes | None) -> Form:
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
        file.file_object.seek(0)
        add(file.field_name, Upload(file.file_object.read()))
        file.close()

    parser = FormParser(
        "multipart/form-data",
        lambda field: add(field.field_name, field.value or b""),
        add_file,
        on_end=lambda: ended.append(True),
        boundary=boundary,
        config={"MAX_MEMORY_FILE_SIZE": LIMIT_BYTES},
    )
    parser.write(content)
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


def _too_large(limit_bytes: int) -> NoReturn:
    raise InvalidRequest(
        f"the request body has more than {limit_bytes} bytes",
        reason=reasons.ERROR_REASON_REQUEST_TOO_LARGE,
        metadata={"limit_bytes": str(limit_bytes)},
    )
