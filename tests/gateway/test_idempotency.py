"""One key, one job, one answer: through every public API."""

import asyncio

import pytest

from tests.gateway.house import png_base64

BODY = {"model": "pictor/shapes", "prompt": "a red circle", "size": "256x256"}
URL = "/v1/images/generations"


def keyed(key):
    return {"idempotency-key": key}


async def test_an_answer_is_given_again(house):
    """
    The same status, body and job; a header says that nothing was drawn for it.
    """
    async with house.client() as client:
        first = await client.post(URL, json=BODY, headers=keyed("answer"))
        again = await client.post(URL, json=dict(reversed(BODY.items())), headers=keyed("answer"))

    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert first.headers["x-pictor-job"] == again.headers["x-pictor-job"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"


async def test_another_body_with_the_same_key_is_refused(house):
    """
    In the API's own envelope, and nothing is drawn.
    """
    async with house.client() as client:
        await client.post(URL, json=BODY, headers=keyed("body"))
        before = len(await house.jobs())
        reply = await client.post(URL, json={**BODY, "n": 2}, headers=keyed("body"))

    assert reply.status_code == 400
    assert "came with another request" in reply.json()["error"]["message"]
    assert len(await house.jobs()) == before


async def test_a_twin_of_a_request_under_way_is_told_to_wait(house):
    """
    409 with Retry-After and the job's id; when the first is answered, so is the twin.
    """
    async with house.client() as client:
        with house.held():
            first = asyncio.create_task(client.post(URL, json=BODY, headers=keyed("twin")))
            async with asyncio.timeout(10):
                await house.executor.started.wait()
            twin = await client.post(URL, json=BODY, headers=keyed("twin"))
        answered = await first
        later = await client.post(URL, json=BODY, headers=keyed("twin"))

    assert twin.status_code == 409
    assert int(twin.headers["retry-after"]) >= 1
    assert twin.headers["x-pictor-job"] == answered.headers["x-pictor-job"]
    assert later.json() == answered.json()


async def test_who_named_its_request_may_come_back_for_the_answer(house):
    """
    Its job is not canceled when the connection ends; the repeated request gets the picture.
    """
    async with house.client() as client:
        with house.held():
            gone = asyncio.create_task(client.post(URL, json=BODY, headers=keyed("back")))
            async with asyncio.timeout(10):
                await house.executor.started.wait()
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            await asyncio.sleep(0.3)
        async with asyncio.timeout(10):
            while (reply := await client.post(URL, json=BODY, headers=keyed("back"))).is_error:
                assert reply.status_code == 409
                await asyncio.sleep(0.1)

    assert reply.headers["idempotent-replayed"] == "true"
    assert reply.json()["data"][0]["url"]


async def test_uploads_of_a_repeated_request_are_not_stored_again(house):
    """
    Images are what the request is, too: another one is another request.
    """
    body = {"model": "pictor/shapes", "prompt": "a", "image": png_base64()}
    url = "/v1/images/edits"
    async with house.client() as client:
        first = await client.post(url, json=body, headers=keyed("upload"))
        stored = await house.uploads()
        again = await client.post(url, json=body, headers=keyed("upload"))
        assert await house.uploads() == stored
        other = await client.post(
            url, json={**body, "image": [png_base64()] * 2}, headers=keyed("upload")
        )

    assert first.json() == again.json()
    assert other.status_code == 400


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_has_bounds(house, key):
    """
    1 to 255 characters.
    """
    async with house.client() as client:
        reply = await client.post(URL, json=BODY, headers=keyed(key))

    assert reply.status_code == 400
    assert "1 to 255" in reply.json()["error"]["message"]


async def test_the_native_api_takes_the_header(house):
    """
    As the field that it stands for.
    """
    body = {"generation": {"model": "pictor/shapes", "prompt": "a"}}
    async with house.client() as client:
        replies = [
            await client.post("/pictor/v1/jobs", json=body, headers=keyed("native"))
            for _ in range(2)
        ]

    assert replies[0].json()["name"] == replies[1].json()["name"]
    assert replies[1].json()["replayed"]


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/images/generations", {**BODY, "async": True}),
        ("/v1/inference/image", {"model": "pictor/shapes", "prompt": "a"}),
        ("/api/v1/images/generation", {"model": "pictor/shapes", "prompt": "a"}),
        ("/sdapi/v1/txt2img", {"prompt": "a", "steps": 2, "width": 64, "height": 64}),
        ("/v2/image/qwen/generate", {"prompt": "a", "model": "pictor/shapes", "async": True}),
        ("/v1beta/models/pictor/shapes:predict", {"instances": [{"prompt": "a"}]}),
    ],
)
async def test_each_api_repeats_its_answers(house, url, body):
    """
    Whatever its envelope: the same reply for the same key, and one job.
    """
    key = keyed(f"each {url}")
    async with house.client() as client:
        before = len(await house.jobs())
        first = await client.post(url, json=body, headers=key)
        await asyncio.sleep(0.3)
        again = await client.post(url, json=body, headers=key)

    assert first.status_code < 300, first.text
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert len(await house.jobs()) == before + 1
