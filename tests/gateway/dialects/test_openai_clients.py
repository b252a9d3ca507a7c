"""What real clients send, unmodified, and what the documentation shows, as it stands there."""

import asyncio
import base64
import dataclasses
import io
import json
import math
import os
import pathlib
import shutil
import sys

import httpx
import openai
import pytest
from PIL import Image, ImageChops, ImageStat

from gateway.dialects.openai import DIALECT
from gateway.status import RequestTimeout
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.catalog.models import PACKAGED
from services.rpc.errors import (
    AlreadyExists,
    DeadlineExceeded,
    Exhausted,
    Internal,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from tests.gateway.dialect_conformance import finished
from tests.gateway.house import SERVED, open_house, png

NODE_CLIENTS = pathlib.Path(__file__).parents[2] / "clients"
PREVIEW_BYTES = 128 * 1024
# OpenAI has retired variations, of which the package warns whoever calls them.
RETIRED_UPSTREAM = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")

# inference.club's page, with its model; its address and its key are what a user replaces.
CURL_GENERATION = """
curl https://api.inference.club/v1/images/generations \\
-H "Authorization: Bearer $INFERENCE_CLUB_API_KEY" \\
-H "Content-Type: application/json" \\
-d '{ "model": "my-image-model", "prompt": "a watercolor fox", "size": "1024x1024" }'
"""
CURL_EDIT = """
curl https://api.inference.club/v1/images/edits \\
-H "Authorization: Bearer $INFERENCE_CLUB_API_KEY" \\
-F model=my-image-model \\
-F image=@photo.png \\
-F prompt="make the sky a sunset"
"""
PYTHON = """
from openai import OpenAI
client = OpenAI(base_url="https://api.inference.club/v1", api_key="<your-api-key>")
img = client.images.generate(model="my-image-model", prompt="a watercolor fox")
print(img.data[0].url)
"""


@pytest.fixture(scope="module")
async def club(tmp_path_factory):
    """A house in which the served model is also known as inference.club's page calls it."""
    folder = tmp_path_factory.mktemp("club")
    catalog = folder / "models.toml"
    names = 'aliases = ["shapes"', 'aliases = ["shapes", "my-image-model"'
    catalog.write_text(PACKAGED.read_text().replace(*names, 1))
    async with open_house(folder, PICTOR_CATALOG_FILE=str(catalog)) as one:
        yield one


async def ran(house, folder, *command):
    """Run a documented command beside a file photo.png; return what it prints."""
    (folder / "photo.png").write_bytes(png((64, 64)))
    adapted = [
        part.replace("https://api.inference.club", house.url).replace(
            "<your-api-key>", house.api_key
        )
        for part in command
    ]
    process = await asyncio.create_subprocess_exec(
        *adapted,
        cwd=folder,
        env={**os.environ, "INFERENCE_CLUB_API_KEY": house.api_key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


@pytest.mark.parametrize(
    ("command", "size"), [(CURL_GENERATION, "1024x1024"), (CURL_EDIT, "64x64")]
)
async def test_the_documented_curl_commands_get_the_documented_answer(
    club, tmp_path, command, size
):
    """
    ``created`` in seconds and a URL, under which the picture is for everybody.
    """
    answer = json.loads(await ran(club, tmp_path, "bash", "-c", command))
    async with club.client("") as anybody:
        picture = await anybody.get(answer["data"][0]["url"])

    assert isinstance(answer["created"], int)
    assert [set(one) for one in answer["data"]] == [{"url"}]
    assert answer["data"][0]["url"].startswith(f"{club.url}/api/inference/assets/")
    assert picture.headers["content-type"] == "image/png"
    assert answer["size"] == size


async def test_the_documented_python_prints_a_url(club, tmp_path):
    """
    The openai package with another address and key, and nothing else.
    """
    printed = await ran(club, tmp_path, sys.executable, "-c", PYTHON)
    async with club.client("") as anybody:
        picture = await anybody.get(printed.strip())

    assert picture.content[:4] == b"\x89PNG"


async def test_the_documented_async_request_is_polled_to_its_result(club):
    """
    202 with an envelope; GET /v1/jobs/<id> says when, and ``result_url`` where.
    """
    async with club.client() as client:
        asked = {"model": "my-image-model", "prompt": "a watercolor fox", "async": True}
        ticket = await client.post("/v1/images/generations", json=asked)
        await finished(club, ticket.json()["id"])
        job = (await client.get(f"/v1/jobs/{ticket.json()['id']}")).json()
        picture = await client.get(job["result_url"])

    assert ticket.status_code == 202
    assert job["status"] == "PROCESSED"
    assert picture.status_code == 200


async def test_documented_inline_base64_is_stored_all_the_same(club):
    """
    ``response_format: b64_json`` also gets the bytes inline; the image is still stored.
    """
    async with club.client() as client:
        reply = await client.post(
            "/v1/images/generations",
            json={
                "model": "my-image-model",
                "prompt": "a watercolor fox",
                "size": "64x64",
                "response_format": "b64_json",
            },
        )
        (one,) = reply.json()["data"]
        stored = await client.get(one["url"])

    assert base64.b64decode(one["b64_json"]) == stored.content == png((64, 64))


@dataclasses.dataclass
class Counted:
    """The openai package against a gateway that fails as it is told, and what it called."""

    client: openai.AsyncOpenAI
    errors: list
    calls: list


@pytest.fixture(scope="module")
async def counted(tmp_path_factory):
    """The images route of a real gateway, whose requests go wrong with the next of some errors."""
    errors, calls = [], []

    def fail(_):
        raise errors[-1]

    operations = [
        dataclasses.replace(one, decode=fail) if one.path == "/v1/images/generations" else one
        for one in DIALECT.operations
    ]

    async def count(request):
        calls.append(request)

    dialect = dataclasses.replace(DIALECT, operations=operations)
    async with (
        open_house(tmp_path_factory.mktemp("failing"), [dialect]) as house,
        httpx.AsyncClient(event_hooks={"request": [count]}) as http,
        openai.AsyncOpenAI(
            base_url=f"{house.url}/v1", api_key=house.api_key, http_client=http
        ) as client,
    ):
        yield Counted(client, errors, calls)


INVALID = "invalid_request_error"


@pytest.mark.parametrize(
    ("error", "raised", "told", "calls"),
    [
        (InvalidRequest("a"), openai.BadRequestError, (400, INVALID, "invalid_value"), 1),
        (PermissionDenied("a"), openai.PermissionDeniedError, (403, "permission_error", None), 1),
        (
            NotFound("a", reason=reasons.ERROR_REASON_MODEL_NOT_FOUND),
            openai.NotFoundError,
            (404, "no_provider", "model_not_found"),
            1,
        ),
        (AlreadyExists("a"), openai.ConflictError, (409, INVALID, "job_exists"), 1),
        (
            InvalidRequest("a", reason=reasons.ERROR_REASON_INPUT_IMAGE_TOO_LARGE),
            openai.APIStatusError,
            (413, "file_too_large", None),
            1,
        ),
        (
            InvalidRequest("a", reason=reasons.ERROR_REASON_MEDIA_TYPE_UNSUPPORTED),
            openai.APIStatusError,
            (415, "unsupported_media_type", None),
            1,
        ),
        (RequestTimeout("a"), openai.APIStatusError, (408, INVALID, None), 3),
        (
            Exhausted("a", reason=reasons.ERROR_REASON_UNSPECIFIED),
            openai.RateLimitError,
            (429, "rate_limit_error", "rate_limit_exceeded"),
            3,
        ),
        (Internal("a"), openai.InternalServerError, (500, "server_error", None), 3),
        (
            Unavailable("a", retry_after_seconds=0.1),
            openai.InternalServerError,
            (503, "server_error", None),
            3,
        ),
        (DeadlineExceeded("a"), openai.InternalServerError, (504, "server_error", None), 3),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else None,
)
async def test_the_package_raises_and_repeats_as_it_should(counted, error, raised, told, calls):
    """
    Class, status, type, code and request id; what may go away by itself is asked for three times.
    """
    counted.errors.append(error)
    counted.calls.clear()
    with pytest.raises(raised, match=f"Error code: {told[0]} - ") as caught:
        await counted.client.images.generate(model=SERVED, prompt="a")

    assert (caught.value.status_code, caught.value.type, caught.value.code) == told
    assert caught.value.request_id
    assert len(counted.calls) == calls
    if error.retry_after_seconds:
        assert caught.value.response.headers["retry-after"] == "1"


async def test_a_wrong_key_is_an_authentication_error(house):
    """
    It is told with OpenAI's code, and asked once.
    """
    async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key="pk_wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.images.generate(model=SERVED, prompt="a")

    assert (caught.value.code, caught.value.type) == ("invalid_api_key", INVALID)


async def test_models_cannot_be_deleted_and_the_package_is_told_so(house):
    """
    405 in the envelope, and the model stays.
    """
    async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key=house.api_key) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.models.delete(SERVED)
        kept = await client.models.retrieve(SERVED)

    assert (caught.value.status_code, caught.value.code) == (405, "method_not_allowed")
    assert kept.id == SERVED
    assert kept.supported_features == ["text_to_image", "image_to_image", "inpaint"]


@RETIRED_UPSTREAM
def test_the_blocking_package_calls_every_method(suite, tmp_path):
    """
    Against a suite that draws: generate, edit, variation, stream; list and retrieve.
    """
    photo = tmp_path / "photo.png"
    photo.write_bytes(png((128, 64)))
    few = {"extra_body": {"steps": 2, "seed": 7}}
    with openai.OpenAI(base_url=f"{suite.url}/v1", api_key=suite.api_key) as client:
        images = client.images
        inline = images.generate(
            model=SERVED, prompt="a red circle", response_format="b64_json", **few
        )
        with photo.open("rb") as file:
            edited = images.edit(model=SERVED, prompt="a red circle", image=file, **few)
        varied = images.create_variation(model=SERVED, image=photo, size="256x256", **few)
        raw = images.with_raw_response.generate(model=SERVED, prompt="a", **few)
        with images.generate(model=SERVED, prompt="a", stream=True, **few) as stream:
            events = [event.type for event in stream]
        listed = [model.id for model in client.models.list()]

        assert base64.b64decode(inline.data[0].b64_json)[:4] == b"\x89PNG"
        assert (edited.size, varied.size) == ("128x64", "256x256")
        assert raw.headers["x-pictor-job"]
        assert events == ["image_generation.completed"]
        assert client.models.retrieve(SERVED).id in listed


def psnr(one, other):
    """Return how near two pictures are, in decibels."""
    squares = ImageStat.Stat(ImageChops.difference(one, other)).sum2
    return 10 * math.log10(255**2 * 3 * one.width * one.height / max(sum(squares), 1e-9))


def opened(text, size=None):
    picture = Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")
    return picture.resize(size) if size else picture


def test_previews_come_closer_to_the_picture(suite):
    """
    Two partial images of the denoising itself: they differ, and each is nearer to the last.
    """
    with (
        openai.OpenAI(base_url=f"{suite.url}/v1", api_key=suite.api_key) as client,
        client.images.with_streaming_response.generate(
            model=SERVED,
            prompt="a red circle on a white background",
            stream=True,
            partial_images=2,
            extra_body={"seed": 7, "steps": 12},
        ) as reply,
    ):
        texts = list(reply.iter_lines())
    events = [json.loads(line.removeprefix("data: ")) for line in texts if line.startswith("data")]
    final = opened(events[-1]["b64_json"])
    previews = [opened(event["b64_json"], final.size) for event in events[:-1]]
    nearness = [psnr(preview, final) for preview in previews]

    assert [event["type"].rpartition(".")[2] for event in events] == [
        *("partial_image", "partial_image", "completed")
    ]
    assert max(len(line) for line in texts if "partial_image" in line) < PREVIEW_BYTES
    assert psnr(*previews) < 60
    assert 10 < nearness[0] < nearness[1]


def test_only_what_a_mask_shows_is_repainted(suite):
    """
    Where the mask is opaque, every pixel stays as it was; where it is transparent, they change.
    """
    photo = Image.effect_noise((256, 256), 60).convert("RGB")
    mask = Image.new("RGBA", photo.size, (255, 255, 255, 255))
    mask.paste((0, 0, 0, 0), (64, 64, 192, 192))
    files = []
    for picture in (photo, mask):
        files.append(io.BytesIO())
        picture.save(files[-1], "PNG")
    with openai.OpenAI(base_url=f"{suite.url}/v1", api_key=suite.api_key) as client:
        drawn = client.images.edit(
            model=SERVED,
            prompt="a red circle",
            image=files[0].getvalue(),
            mask=files[1].getvalue(),
            response_format="b64_json",
            background="transparent",
            extra_body={"steps": 4},
        )
    result = Image.open(io.BytesIO(base64.b64decode(drawn.data[0].b64_json)))
    changed = ImageChops.difference(result.convert("RGB"), photo)

    assert changed.getbbox() == (64, 64, 192, 192)
    assert drawn.background == "opaque"
    assert "A" not in result.getbands()


@pytest.fixture
async def site():
    """A web server of one picture."""

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        content = png((64, 64))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(content) + content)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.png"


async def test_an_image_may_lie_elsewhere(tmp_path, site):
    """
    ``image_url`` with http is fetched by storage, where the operator permits that address.
    """
    asked = {"prompt": "a", "model": SERVED, "images": [{"image_url": site}]}
    async with (
        open_house(tmp_path, PICTOR_FETCH_NETWORKS="127.0.0.0/8") as house,
        house.client() as client,
    ):
        reply = await client.post("/v1/images/edits", json=asked)
        gone = {**asked, "images": [{"image_url": "http://127.0.0.1:1/a.png"}]}
        unreachable = await client.post("/v1/images/edits", json=gone)

    assert reply.json()["size"] == "64x64"
    assert unreachable.json()["error"]["param"] == "image"
    assert "could not be fetched" in unreachable.json()["error"]["message"]


async def test_an_image_in_this_network_is_not_fetched(house, site):
    """
    What only the server reaches is not for its callers; no job and no asset is made.
    """
    before = len(await house.jobs()), await house.uploads()
    asked = {"prompt": "a", "model": SERVED, "images": [{"image_url": site}]}
    async with house.client() as client:
        reply = await client.post("/v1/images/edits", json=asked)

    assert reply.status_code == 400
    assert "no public address" in reply.json()["error"]["message"]
    assert (len(await house.jobs()), await house.uploads()) == before


@pytest.fixture(scope="module")
async def stand_in(tmp_path_factory):
    """A house in which every model draws, as Open WebUI needs it."""
    async with open_house(
        tmp_path_factory.mktemp("webui"), PICTOR_STAND_IN=SERVED, PICTOR_OPENAI_B64_ONLY="true"
    ) as one:
        yield one


@pytest.mark.parametrize(
    "fields",
    [
        {"model": SERVED, "response_format": "b64_json", "size": "512x512", "n": 1},
        {"model": "gpt-image-1", "size": "1024x1024", "n": 1},
    ],
    ids=["another model", "gpt-image"],
)
async def test_open_webui_draws(stand_in, fields):
    """
    It asks gpt-image models for no format, others for base64, and would follow any ``url``.
    """
    async with stand_in.client() as client:
        reply = await client.post("/v1/images/generations", json={"prompt": "a fox", **fields})

    (one,) = reply.json()["data"]
    assert "url" not in one
    assert Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))).format == "PNG"
    assert one["asset_url"].startswith(stand_in.url)


async def test_open_webui_edits(stand_in):
    """
    Its list form is ``image[]``, even for one image.
    """
    async with stand_in.client() as client:
        reply = await client.post(
            "/v1/images/edits",
            data={"model": "gpt-image-1", "prompt": "at night", "n": "1", "size": "1024x1024"},
            files=[("image[]", ("image.png", png((64, 64)), "image/png"))],
        )

    assert reply.status_code == 200, reply.text
    assert reply.json()["data"][0]["b64_json"]


async def test_a_picture_can_be_fetched_with_a_key_that_nobody_asked_for(house):
    """
    Open WebUI forwards its Authorization header; the type that is sent is an image's.
    """
    async with house.client() as client:
        drawn = await client.post("/v1/images/generations", json={"prompt": "a", "model": SERVED})
        url = drawn.json()["data"][0]["url"]
        reply = await client.get(url, headers={"authorization": "Bearer nonsense"})

    assert reply.headers["content-type"].startswith("image/")


async def test_librechat_draws_and_edits(stand_in):
    """
    Its agents' tools send gpt-image-1 with ``auto`` in every place, and read base64.
    """
    drawing = {
        "model": "gpt-image-1",
        "prompt": "a fox",
        "n": 1,
        "background": "auto",
        "output_format": "webp",
        "output_compression": 100,
        "quality": "auto",
        "size": "auto",
    }
    editing = {"model": "gpt-image-1", "prompt": "at night", "quality": "auto", "size": "auto"}
    async with stand_in.client() as client:
        drawn = await client.post("/v1/images/generations", json=drawing)
        edited = await client.post(
            "/v1/images/edits",
            data=editing,
            files=[("image[]", (f"{k}.png", png((64, 64)), "image/png")) for k in range(2)],
        )

    for reply in (drawn, edited):
        assert reply.status_code == 200, reply.text
        assert reply.json()["data"][0]["b64_json"]


@pytest.mark.skipif(
    not (shutil.which("node") and (NODE_CLIENTS / "node_modules/openai").is_dir()),
    reason="needs node, and npm install --prefix tests/clients",
)
async def test_the_package_for_node_calls_every_method(house, tmp_path):
    """
    The one from npm: images and models, uploads, streams and classes of errors.
    """
    (tmp_path / "photo.png").write_bytes(png((64, 64)))
    process = await asyncio.create_subprocess_exec(
        *["node", NODE_CLIENTS / "openai.mjs", f"{house.url}/v1", house.api_key, SERVED],
        tmp_path / "photo.png",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    said = json.loads(output)

    assert said["url"].startswith(house.url)
    assert base64.b64decode(said["base64"]) == png((64, 64))
    assert said["events"] == ["image_generation.completed"]
    assert (said["edited"], said["varied"], said["listed"]) == ("64x64", 1, True)
    assert said["retrieved"] == SERVED
    names = {name: said[name]["name"] for name in ("several", "missing", "wrong", "deleted")}
    assert names == {
        "several": "BadRequestError",
        "missing": "NotFoundError",
        "wrong": "BadRequestError",
        "deleted": "APIError",
    }
    assert said["missing"] == {
        "name": "NotFoundError",
        "status": 404,
        "code": "model_not_found",
        "type": INVALID,
        "param": "model",
        "request": True,
    }
