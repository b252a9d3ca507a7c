"""A whole generation with S3 as the only store, and readers who are sent there."""

import hashlib
import secrets

import pytest

from tests.gateway.house import SERVED, open_house, png, png_base64
from tests.services.storage import s3_servers

BODY = {"prompt": "a", "model": SERVED, "size": "64x64"}


@pytest.fixture(scope="module")
def rclone(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_servers.ENVIRON.items():
            patch.setenv(name, value)
        with s3_servers.rclone(tmp_path_factory.mktemp("rclone") / "buckets") as server:
            yield server


async def test_a_picture_is_drawn_from_a_bucket_into_a_bucket(tmp_path, rclone):
    """
    The upload, the result and its bytes: nothing of them lies in the data folder.
    """
    prefix = secrets.token_hex(4)
    async with open_house(tmp_path, PICTOR_STORAGE_URL=rclone.url(prefix)) as house:
        async with house.client() as client:
            made = await client.post("/v1/images/generations", json=BODY)
            reply = await client.get(made.json()["data"][0]["url"])
            edit = {"prompt": "a", "model": SERVED, "input_images_base64": [png_base64()]}
            assert (await client.post("/v1/inference/image", json=edit)).status_code == 200
        results = [image for job in await house.jobs() for image in job.result.images]

    assert reply.content == png((64, 64))
    kept = {path.name for path in (rclone.folder / prefix).iterdir()}
    assert {image.asset.removeprefix("assets/") for image in results} < kept
    # The upload, and what the second job had drawn by then.
    assert len(kept) > len(results)
    assert not (tmp_path / "assets").exists()


async def test_readers_are_sent_to_the_bucket_where_the_operator_wants_it(tmp_path, rclone):
    """
    By a URL that the bucket's own server checks; the redirect is not kept longer than it is good.
    """
    where = {"PICTOR_STORAGE_URL": rclone.url("sent"), "PICTOR_STORAGE_REDIRECT": "true"}
    async with open_house(tmp_path, **where) as house, house.client() as client:
        made = await client.post("/v1/images/generations", json=BODY)
        url = made.json()["data"][0]["url"]
        sent = await client.get(url)
        small = await client.get(url, params={"width": 64})
        head = await client.head(url)
        there = await client.get(sent.headers["location"], headers={"authorization": ""})
        forged = await client.get(
            sent.headers["location"][:-4] + "0000", headers={"authorization": ""}
        )

    assert (sent.status_code, sent.headers["cache-control"]) == (302, "private, no-store")
    assert sent.headers["location"].startswith(rclone.endpoint)
    digest = hashlib.sha256(there.content).digest()
    assert digest == hashlib.sha256(png((64, 64))).digest()
    assert small.headers["content-type"] == "image/webp"
    assert forged.status_code == 403
    # The bucket's URL is signed for GET alone.
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(there.content)))
