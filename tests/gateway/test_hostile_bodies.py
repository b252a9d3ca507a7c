"""Forms and base64 that are made to hurt: the same limits by every door, and nothing is kept."""

import base64
import time

import pytest

from tests.gateway.house import SERVED, png

BOUNDARY = "x-pictor-x"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
MOST_BYTES = 25 * 1024 * 1024
# An answer that took longer would have been one to the whole of such a body.
EARLY_SECONDS = 5.0


def part(head, value):
    return b"--%s\r\n%s\r\n\r\n%s\r\n" % (BOUNDARY.encode(), head, value)


def field(name, value):
    return part(b'content-disposition: form-data; name="%s"' % name, value)


def file(content):
    head = b'content-disposition: form-data; name="image"; filename="a.png"'
    return part(head + b"\r\ncontent-type: image/png", content)


def form(*parts):
    good = [field(b"prompt", b"a"), field(b"model", SERVED.encode()), file(png((64, 64)))]
    return b"".join([*good, *parts, b"--%s--\r\n" % BOUNDARY.encode()])


async def dripped(content, size):
    for start in range(0, len(content), size):
        yield content[start : start + size]


def too_large():
    """A picture that is one, up to its last byte."""
    return png((64, 64)) + bytes(MOST_BYTES + 1 - len(png((64, 64))))


async def kept(house):
    return (len(await house.jobs()), await house.uploads())


HOSTILE = {
    "ten thousand parts": (form(*(field(b"x%d" % k, b"1") for k in range(10_000))), 400),
    "ten thousand files": (form(*(file(b"x") for _ in range(10_000))), 400),
    "a part's header of 1 MB": (form(part(b"x: " + b"a" * 2**20, b"1")), 400),
    "a part's name of 1 MB": (form(field(b"a" * 2**20, b"1")), 400),
    "ten thousand headers in a part": (form(part(b"x: y\r\n" * 10_000 + b"z: 1", b"1")), 400),
    "a field of 1 MB": (form(field(b"size", b"1" * 2**20)), 413),
    "an image of 25 MB and a byte": (form(file(too_large())), 400),
    "no end": (form()[:-8], 400),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_form_that_is_made_to_hurt_is_refused_early(house, name):
    """
    By a clear error, before anything is kept.
    """
    content, status = HOSTILE[name]
    before = await kept(house)
    async with house.client() as client:
        started = time.monotonic()
        reply = await client.post("/v1/images/edits", content=content, headers=FORM)

    assert time.monotonic() - started < EARLY_SECONDS
    assert (reply.status_code, "error" in reply.json()) == (status, True), reply.text
    assert len(reply.content) < 2000
    assert await kept(house) == before


async def test_a_form_without_length_is_cut_off_at_the_limit(house):
    """
    What is counted is what arrives, whether or not a length was declared.
    """
    before = await kept(house)
    async with house.client() as client:
        endless = dripped(form(file(bytes(70 * 1024 * 1024))), 1024 * 1024)
        reply = await client.post("/v1/images/edits", content=endless, headers=FORM)

    assert reply.status_code == 413, reply.text
    assert str(64 * 1024 * 1024) in reply.text
    assert await kept(house) == before


async def test_a_form_that_comes_by_the_byte_is_a_form(house):
    """
    How a body is cut on its way means nothing.
    """
    async with house.client() as client:
        reply = await client.post("/v1/images/edits", content=dripped(form(), 1), headers=FORM)

    assert reply.status_code == 200, reply.text


HOSTILE_BASE64 = {
    "34 MB": base64.b64encode(too_large()).decode(),
    "34 MB, with white space": base64.encodebytes(too_large()).decode(),
    "34 MB in a data URL": "data:image/png;base64," + base64.b64encode(too_large()).decode(),
    "a data URL in a data URL": "data:image/png;base64,data:image/png;base64,"
    + base64.b64encode(png((64, 64))).decode(),
    "base64 of a data URL": base64.b64encode(
        b"data:image/png;base64," + base64.b64encode(png((64, 64)))
    ).decode(),
    "padding in the middle": "iVBO==Rw0KGgo=",
    "one digit": "a",
    "nothing but white space": " \n\t" * 1000,
    "a data URL without data": "data:image/png;base64,",
}


@pytest.mark.parametrize("name", HOSTILE_BASE64)
async def test_base64_has_the_limits_that_forms_have(house, name):
    """
    Text that is no image, or one of more than 25 MB, is the caller's mistake.
    """
    before = await kept(house)
    body = {"prompt": "a", "model": SERVED, "input_images_base64": [HOSTILE_BASE64[name]]}
    async with house.client() as client:
        reply = await client.post("/v1/inference/image", json=body)

    assert reply.status_code == 400, reply.text
    assert "input_images_base64" in reply.text
    assert len(reply.content) < 2000
    assert await kept(house) == before
