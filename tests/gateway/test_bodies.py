import asyncio

import pytest
from starlette.requests import Request

from gateway.answers import error_headers
from gateway.bodies import BUDGET, Budget, Patience, parse_form, parse_json, read_bytes
from gateway.images import Upload
from gateway.status import RequestTimeout, status_of
from services.rpc.errors import InvalidRequest, Unavailable

MULTIPART = "multipart/form-data; boundary=--x--"


def part(head, value):
    return b"----x--\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + value + b"\r\n"


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"\xef\xbb\xbf[]", []),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b"[" * 90 + b"]" * 90, None),
    ],
)
def test_good_json_is_read(content, value):
    """
    Also with a byte order mark, with surrogate pairs, and as deep as bodies reasonably are.
    """
    parsed = parse_json(content)

    assert value is None or parsed == value


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"a": Infinity}',
        b'{"a": "\\ud800"}',
        b'{"\\uDFFF": 1}',
        b"\xff\xfe",
        b"[" * 200 + b"]" * 200,
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b"1" * 5_000,
    ],
)
def test_bad_json_is_the_callers_mistake(content):
    """
    Whatever is sent ends in InvalidRequest, and not in the interpreter's own errors.
    """
    with pytest.raises(InvalidRequest):
        parse_json(content)


def test_a_form_keeps_files_as_bytes_and_repeats_in_order():
    """
    Names with brackets, repeated names, quotes and line ends inside of files are all kept.
    """
    content = (
        part(b'name="prompt"', "ein Füchs".encode())
        + part(b'name="image[]"; filename="a.png"\r\nContent-Type: text/plain', b"\r\n\x89\r\n\r\n")
        + part(b'filename="b"; name="image[]"', b"")
        + part(rb'name="a\"b"', b"1")
        + b"----x----\r\n"
    )

    assert parse_form(content, MULTIPART) == {
        "prompt": ["ein Füchs"],
        "image[]": [Upload(b"\r\n\x89\r\n\r\n"), Upload(b"")],
        'a"b': ["1"],
    }


def test_an_urlencoded_form_is_read():
    """
    Plain HTML forms work too.
    """
    form = parse_form(b"prompt=a+b&n=2&n=3&empty=", "application/x-www-form-urlencoded")

    assert form == {"prompt": ["a b"], "n": ["2", "3"], "empty": [""]}


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"", MULTIPART),
        (b"", "multipart/form-data"),
        (part(b'name="a"', b"1"), MULTIPART),
        (part(b"", b"1") + b"----x----", MULTIPART),
        (part(b'name="a"', b"\xff") + b"----x----", MULTIPART),
        (part(b'name="a"', b"1") * 2000 + b"----x----", MULTIPART),
        (b"a=%ff&" * 2000, "application/x-www-form-urlencoded"),
        (b"a=%ff", "application/x-www-form-urlencoded"),
        (b"a=%ed%a0%80", "application/x-www-form-urlencoded"),
    ],
)
def test_a_broken_form_is_the_callers_mistake(content, media_type):
    """
    A form that was cut off, has no boundary, no names or too many parts is refused.
    """
    with pytest.raises(InvalidRequest):
        parse_form(content, media_type)


def sending(*chunks, pause=0.0):
    """Make a request whose body comes in chunks, with a pause before each."""
    left = list(chunks)

    async def receive():
        await asyncio.sleep(pause)
        chunk = left.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    return Request({"type": "http", "headers": []}, receive)


@pytest.mark.parametrize(
    ("patience", "pause"), [(Patience(0.05, 9), 0.2), (Patience(9, 0.05), 0.02)]
)
async def test_a_body_that_comes_too_slowly_is_408(patience, pause):
    """
    Neither a pause nor a drip holds a request open, and the connection is not used again.
    """
    with pytest.raises(RequestTimeout) as error:
        await read_bytes(sending(*[b"a"] * 50, pause=pause), patience=patience, budget=Budget(50))

    assert status_of(error.value, {}) == 408
    assert error_headers(error.value)["connection"] == "close"


async def test_bodies_share_the_room():
    """
    Where others fill it a body is refused for now; the room is free again with their answers.
    """
    budget = Budget(10)
    first, second = sending(b"1234", b"5678"), sending(b"abc")

    assert await read_bytes(first, budget=budget) == b"12345678"
    with pytest.raises(Unavailable) as error:
        await read_bytes(second, budget=budget)
    assert error_headers(error.value)["retry-after"] == "5"

    budget.release(first.scope)
    budget.release(second.scope)
    assert budget.held_bytes == 0
    assert await read_bytes(sending(b"abc"), budget=budget) == b"abc"


async def test_an_answered_request_takes_no_room(house):
    """
    Good and bad requests alike give back what they took.
    """
    async with house.client() as client:
        for content in (b"{}", b"{", b"a" * 70_000):
            await client.post("/v1/images/generations", content=content)
            await client.post("/pictor/v1/jobs", content=content)

    assert BUDGET.held_bytes == 0
