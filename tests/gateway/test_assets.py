import hashlib

import pytest

from tests.gateway.house import SERVED, png, png_base64

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
    assert "immutable" in reply.headers["cache-control"]
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
