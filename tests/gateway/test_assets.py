"""Assets by URL: whole, in part, small, signed, and gone."""

import asyncio
import hashlib
import io
import time

import httpx
import pytest
from PIL import Image

from tests.gateway.house import SERVED, open_house, png, png_base64

CONTENT = png((64, 64))


@pytest.fixture(scope="module")
async def url(house):
    """The URL of a picture of 64 x 64 pixels."""
    async with house.client() as client:
        reply = await client.post(
            "/v1/images/generations", json={"prompt": "a", "model": SERVED, "size": "64x64"}
        )
    return reply.json()["data"][0]["url"]


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer pk_wrong"}])
async def test_a_picture_is_open_to_everybody_who_has_its_url(house, url, headers):
    """
    No key is needed and a wrong one does no harm: Open WebUI forwards its own.
    """
    async with house.client("") as client:
        reply = await client.get(url, headers=headers)

    assert reply.status_code == 200
    assert reply.content == CONTENT
    assert reply.headers["content-type"] == "image/png"
    assert reply.headers["content-length"] == str(len(CONTENT))
    assert reply.headers["etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert reply.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in reply.headers["content-security-policy"]


async def test_head_tells_the_size_without_the_bytes(house, url):
    """
    HEAD has the headers of GET.
    """
    async with house.client("") as client:
        reply = await client.head(url)

    assert reply.headers["content-length"] == str(len(CONTENT))
    assert reply.content == b""


@pytest.mark.parametrize(
    ("wanted", "slice_"),
    [
        ("bytes=0-9", slice(0, 10)),
        ("bytes=10-", slice(10, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=5-999999", slice(5, None)),
    ],
)
async def test_a_range_is_answered_with_its_bytes(house, url, wanted, slice_):
    """
    A download that broke off goes on where it was.
    """
    async with house.client("") as client:
        reply = await client.get(url, headers={"range": wanted})

    assert reply.status_code == 206
    assert reply.content == CONTENT[slice_]
    assert reply.headers["content-range"].endswith(f"/{len(CONTENT)}")


@pytest.mark.parametrize("wanted", ["bytes=0-1,4-5", "lines=1-2", "bytes=-", "bytes=a-b"])
async def test_other_ranges_are_answered_with_the_whole(house, url, wanted):
    """
    What is not understood is ignored, as RFC 9110 permits.
    """
    async with house.client("") as client:
        reply = await client.get(url, headers={"range": wanted})

    assert reply.status_code == 200
    assert reply.content == CONTENT


@pytest.mark.parametrize("wanted", ["bytes=999999-", "bytes=-0", "bytes=9-3"])
async def test_a_range_behind_the_end_is_416(house, url, wanted):
    """
    The reply says how long the picture is.
    """
    async with house.client("") as client:
        reply = await client.get(url, headers={"range": wanted})

    assert reply.status_code == 416
    assert reply.headers["content-range"] == f"bytes */{len(CONTENT)}"


@pytest.mark.parametrize("known", ["{}", "W/{}", '"a", {}', "*"])
async def test_a_picture_that_the_client_has_is_not_sent_again(house, url, known):
    """
    The ETag is the SHA-256 of bytes that never change; a star stands for any.
    """
    async with house.client("") as client:
        etag = (await client.head(url)).headers["etag"]
        reply = await client.get(url, headers={"if-none-match": known.format(etag)})

    assert reply.status_code == 304
    assert reply.content == b""


async def test_unknown_and_private_assets_do_not_exist(house):
    """
    Both are 404 in the OpenAI envelope, so that nobody learns which ids there are.
    """
    async with house.client() as client:
        made = await client.post(
            "/v1/inference/image",
            json={"prompt": "a", "model": SERVED, "input_images_base64": [png_base64()]},
        )
        job = (await client.get(f"/pictor/v1/jobs/{made.json()['job_id']}")).json()
        private = job["generation"]["inputImages"][0]["asset"].removeprefix("assets/")
        replies = [
            await client.get(f"/api/inference/assets/{asset_id}/")
            for asset_id in (private, "0" * 32, "..%2F..", "x")
        ]

    assert [reply.status_code for reply in replies] == [404, 404, 404, 404]
    assert set(replies[0].json()["error"]) == {"message", "type", "param", "code"}
    assert private not in replies[1].text


@pytest.mark.parametrize("count", [17, 10_000])
async def test_a_request_for_very_many_ranges_is_refused(house, url, count):
    """
    Nobody needs them, and they are no way to make the server work.
    """
    ranges = ",".join(["0-0"] * count)
    begin = time.monotonic()
    async with house.client("") as client:
        reply = await client.get(url, headers={"range": f"bytes={ranges}"})

    assert reply.status_code == 416
    assert time.monotonic() - begin < 1


async def test_a_thumbnail_is_a_small_picture(house, url):
    """
    As WebP, at the width that the query asks for, with an ETag and ranges of its own.
    """
    async with house.client("") as client:
        reply = await client.get(url, params={"width": 64})
        part = await client.get(url, params={"width": 64}, headers={"range": "bytes=4-9"})
        known = {"if-none-match": reply.headers["etag"]}
        again = await client.get(url, params={"width": 64}, headers=known)
        whole = await client.head(url)

    with Image.open(io.BytesIO(reply.content)) as image:
        assert (image.format, image.width) == ("WEBP", 64)
    assert reply.headers["content-type"] == "image/webp"
    assert part.content == reply.content[4:10]
    assert again.status_code == 304
    assert reply.headers["etag"] != whole.headers["etag"]


@pytest.mark.parametrize("width", ["65", "0x40", "-64", "9" * 30, "\u0664\u0664"])
async def test_other_widths_are_refused(house, url, width):
    """
    With the ones that there are, in the dialect's envelope.
    """
    async with house.client("") as client:
        reply = await client.get(url, params={"width": width})

    assert reply.status_code == 400
    assert "width" in reply.json()["error"]["message"]


@pytest.fixture(scope="module")
async def signed(house):
    """The signed URL of an upload, and the upload's name."""
    async with house.client() as client:
        made = await client.post(
            "/v1/inference/image",
            json={"prompt": "a", "model": SERVED, "input_images_base64": [png_base64()]},
        )
        job = (await client.get(f"/pictor/v1/jobs/{made.json()['job_id']}")).json()
        name = job["generation"]["inputImages"][0]["asset"]
        reply = await client.post(f"/pictor/v1/{name}:signUrl", json={"ttl": "60s"})
    return reply.json()["url"], name


async def test_a_signed_url_opens_a_private_picture(house, signed):
    """
    Without a key, and for no longer kept by anybody than it is good.
    """
    async with house.client("") as client:
        reply = await client.get(signed[0])

    assert reply.content == png()
    kind, age, _ = reply.headers["cache-control"].split(", ")
    assert kind == "private"
    assert 50 < int(age.removeprefix("max-age=")) <= 60


@pytest.mark.parametrize(
    ("old", "new"),
    [("expires=", "expires=9"), ("signature=", "signature=0"), ("assets/", "assets/0")],
)
async def test_an_altered_url_is_403(house, signed, old, new):
    """
    Another end, another signature, another path, where nothing is told of what lies there.
    """
    url = signed[0].replace(old, new)
    if old == "assets/":
        url = signed[0].replace(signed[1].removeprefix("assets/"), "0" * 32)
    async with house.client("") as client:
        reply = await client.get(url)

    assert reply.status_code == 403


@pytest.mark.parametrize("method", ["DELETE", "PUT", "POST"])
async def test_a_signed_url_does_nothing_but_read(house, signed, method):
    """
    Whatever is tried, the picture stays.
    """
    async with house.client("") as client:
        reply = await client.request(method, signed[0])

        assert reply.status_code in {403, 405}
        assert (await client.get(signed[0])).status_code == 200


async def test_an_expired_picture_is_410_and_its_metadata_are_there(tmp_path):
    """
    The operator chose a second for this API; the job and the asset can still be asked for.
    """
    async with open_house(tmp_path, PICTOR_RESULT_SECONDS="openai=1,relay/qwen=0") as house:
        async with house.client() as client:
            body = {"prompt": "a", "model": SERVED, "size": "64x64"}
            made = await client.post("/v1/images/generations", json=body)
            url = made.json()["data"][0]["url"]
            fresh = await client.get(url)
            await asyncio.sleep(1.1)
            gone = await client.get(url)
            name = (await house.jobs())[0].result.images[0].asset
            metadata = await client.get(f"/pictor/v1/{name}")
            kept = await client.post("/v2/image/qwen/generate", json=body)
            later = await client.post(
                "/v1/images/generations",
                json={**body, "async": True, "response_format": "b64_json"},
            )
            await asyncio.sleep(1.5)
            status = await client.get(f"/v1/jobs/{later.headers['x-pictor-job']}")

        assert (fresh.status_code, gone.status_code) == (200, 410)
        assert fresh.headers["cache-control"] in {
            f"public, max-age={seconds}, immutable" for seconds in (0, 1)
        }
        assert gone.json()["error"]["message"]
        assert metadata.json()["sha256"] == hashlib.sha256(CONTENT).hexdigest()
        assert kept.status_code == 200
        # Where a job stands can be read for longer than its picture.
        assert status.status_code == 200
        assert "url" in status.json()["result"]["data"][0]
        assert not (await house.jobs())[1].HasField("result_ttl")


async def test_an_api_keeps_results_as_long_as_it_says(house):
    """
    Qwen's URLs end after seven days; where nothing is documented, they stay.
    """
    body = {"prompt": "a", "model": SERVED, "size": "64x64"}
    async with house.client() as client:
        await client.post("/v2/image/qwen/generate", json=body)
        qwen = (await house.jobs())[0]
        await client.post("/v1/images/generations", json=body)
        other = (await house.jobs())[0]

    assert qwen.result_ttl.seconds == 7 * 24 * 3600
    assert not other.HasField("result_ttl")


@pytest.mark.parametrize("lost", ["all of it", "its end"])
async def test_storage_says_what_is_wrong_with_a_file(tmp_path, lost):
    """
    The gateway reads files that are whole by itself; of others it asks storage.
    """
    async with open_house(tmp_path) as house, house.client() as client:
        made = await client.post("/v1/images/generations", json={"prompt": "a", "model": SERVED})
        url = made.json()["data"][0]["url"]
        whole = await client.get(url)
        key = (await house.jobs())[0].result.images[0].asset.removeprefix("assets/")
        file = tmp_path / "assets" / key[:2] / key
        file.unlink() if lost == "all of it" else file.write_bytes(file.read_bytes()[:-1])
        try:
            broken = (await client.get(url)).status_code
        except httpx.RemoteProtocolError:
            # The end that is missing is noticed at the end.
            broken = 500

    assert whole.status_code == 200
    assert broken >= 500
