"""
No URL that a caller sends leads anywhere but to public addresses, in whichever field it stands.

The fields are found by asking the dialects: wherever a URL that is put into a string of a body
comes out of ``decode`` as an image to be fetched, the field takes URLs.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from gateway import assets
from gateway.dialect import Call, Generate, Operation, Preferences
from gateway.images import InputFile
from gateway.routes import discover
from pictor.storage.v1.storage_service_pb2_grpc import StorageServiceStub
from services.rpc.channels import open_channel
from services.rpc.errors import InvalidRequest, SuiteError
from tests.connections import connections
from tests.corpora import ssrf
from tests.gateway.house import SERVED

PROBE = "http://probe.example/a.png"
PREFERENCES = Preferences("http://pictor.test", default_model=SERVED)
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5E"
    "rkJggg=="
)
BASE = {"prompt": "a", "model": SERVED}

# Places that are read and that no schema names.
UNDOCUMENTED = [("contents", 0, "parts", 0, "fileData", "fileUri"), ("image",), ("image", 0)]


def schemas(schema: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the places of a body's schema that may hold a string."""
    if not isinstance(schema, dict) or len(place) > 8:
        return
    kinds = schema.get("type", "string")
    if "string" in ([kinds] if isinstance(kinds, str) else kinds):
        yield place
    for branch in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(branch, ()):
            yield from schemas(one, place)
    for name, inner in schema.get("properties", {}).items():
        yield from schemas(inner, (*place, name))
    if "items" in schema:
        yield from schemas(schema["items"], (*place, 0))


def body_with(place: tuple[Any, ...], value: Any) -> Any:
    """Write a body that has a value at a place, and what every request needs."""
    for step in reversed(place):
        value = [value] if step == 0 else {step: value}
    return value


def merged(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {
            key: merged(one[key], other[key])
            if key in one and key in other
            else {**one, **other}[key]
            for key in {**one, **other}
        }
    if isinstance(one, list) and isinstance(other, list):
        return [*one, *other]
    return other


def files_of(operation: Generate, body: Any) -> list[InputFile]:
    call = Call({"model": SERVED}, {}, {}, body, PREFERENCES, operation.path)
    order = operation.decode(call)
    return [*order.input_images, *([order.mask] if order.mask else [])]


def bases(operation: Operation) -> Iterator[Any]:
    """Yield bodies that are good but for the URL, in the ways of different APIs."""
    yield BASE
    yield {**BASE, "image": PIXEL}
    yield {**BASE, "image": PIXEL, "size": "64x64"}
    yield {"prompt": "a", "init_images": [PIXEL]}
    yield {"contents": [{"parts": [{"text": "a"}]}]}


def fields_that_take_urls() -> dict[str, tuple[Generate, Any, tuple[Any, ...]]]:
    found = {}
    for dialect in discover():
        for operation in dialect.operations:
            if not isinstance(operation, Generate):
                continue
            for place in dict.fromkeys([*schemas(operation.request), *UNDOCUMENTED]):
                for base in bases(operation):
                    body = merged(base, body_with(place, PROBE))
                    try:
                        files = files_of(operation, body)
                    except (SuiteError, AttributeError, KeyError, TypeError):
                        continue
                    if any(file.url == PROBE for file in files):
                        name = ".".join(map(str, place))
                        found[f"{operation.path} {name}"] = (operation, base, place)
                        break
    return found


FIELDS = fields_that_take_urls()


@pytest.fixture(scope="module")
async def storage(house):
    """Storage, as the gateway asks it for an account."""
    async with open_channel(house.environ["PICTOR_STORAGE_ADDRESS"], house.api_key) as channel:
        yield StorageServiceStub(channel)


def test_the_fields_are_found():
    """
    At least those that are documented, or the tests below would test nothing.
    """
    found = " ".join(FIELDS)
    for wanted in ("/v1/images/edits", "/v2/image/qwen/edit", "/v2/image/flux", "generateContent"):
        assert wanted in found


@pytest.fixture(scope="module")
def asked(house):
    """Every text that any field of any dialect would have storage fetch, of the whole corpus."""
    texts: dict[str, str] = {}
    for name, (operation, base, place) in FIELDS.items():
        for url in ssrf.kept():
            try:
                files = files_of(operation, merged(base, body_with(place, url)))
            except SuiteError:
                continue
            texts.update({file.url: name for file in files if file.url})
    return texts


async def test_no_field_of_any_dialect_reaches_what_is_not_public(storage, asked):
    """
    Every URL of the corpus is put into every field; what comes out for fetching is all refused,
    and no connection is made to anything but the suite itself.
    """
    assert len(asked) > 300
    with connections() as made:
        for url, field in asked.items():
            with pytest.raises(InvalidRequest):
                await assets.fetch(storage, url, field)
    assert not made


# AUTOMATIC1111's fields take URLs where the key's options say so, as they do by default.
WEBUI = {
    "init_images": ("/sdapi/v1/img2img", {"prompt": "a"}, ("init_images", 0)),
    "mask": ("/sdapi/v1/img2img", {"prompt": "a", "init_images": [PIXEL]}, ("mask",)),
    "extras": ("/sdapi/v1/extra-single-image", {"upscaling_resize": 2}, ("image",)),
}
OVER_HTTP = {
    **{name: (one.path, base, place) for name, (one, base, place) in FIELDS.items()},
    **WEBUI,
}
PRIVATE = (
    "http://127.0.0.1/a.png",
    "http://2130706433/a.png",
    "http://[::ffff:10.0.0.1]/a.png",
    "http://169.254.169.254/latest/meta-data/",
    "https://[::1]/a.png",
    "http://localhost:8080/a.png",
)


@pytest.mark.parametrize("name", OVER_HTTP)
async def test_over_http_a_private_url_is_refused(house, name):
    """
    As the caller's error in the dialect's envelope, and nobody is connected to but the gateway.
    """
    template, base, place = OVER_HTTP[name]
    path = re.sub(r"\{[^}]*\}", SERVED, template)
    with connections() as made:
        async with house.client() as client:
            for url in PRIVATE:
                reply = await client.post(path, json=merged(base, body_with(place, url)))
                assert reply.status_code in {400, 422}, (url, reply.text)
    host, _, port = house.url.removeprefix("http://").partition(":")

    assert set(made) <= {(host, int(port))}
