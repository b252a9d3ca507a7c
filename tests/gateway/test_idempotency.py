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
    # OpenAI's package would give up.
    assert "x-should-retry" not in twin.headers
    assert "idempotent-replayed" not in twin.headers
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


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/sdapi/v1/interrupt", {}),
        ("/sdapi/v1/options", {"save_images_add_number": True}),
        ("/sdapi/v1/extra-single-image", {"image": png_base64(), "upscaling_resize": 2}),
        ("/sdapi/v1/png-info", {"image": png_base64()}),
    ],
)
async def test_what_makes_no_job_may_be_repeated_anyway(house, url, body):
    """
    Sent twice with one key it is answered twice in the same way, and nothing is kept of it.
    """
    async with house.client() as client:
        before = (len(await house.jobs()), await house.uploads())
        replies = [await client.post(url, json=body, headers=keyed(url)) for _ in range(2)]
        after = (len(await house.jobs()), await house.uploads())

    assert replies[0].is_success, replies[0].text
    assert (replies[0].status_code, replies[0].text) == (replies[1].status_code, replies[1].text)
    assert before == after


async def test_canceling_may_be_repeated(house):
    """
    Through a public API and the native one: the job is canceled once.
    """
    async with house.client() as client:
        with house.held():
            made = await client.post(URL, json={**BODY, "async": True})
            job = made.headers["x-pictor-job"]
            replies = [
                await client.post(f"/pictor/v1/jobs/{job}:cancel", headers=keyed("cancel"))
                for _ in range(2)
            ]

    assert [reply.status_code for reply in replies] == [200, 200]
    assert replies[0].json() == replies[1].json()


async def test_a_key_that_could_not_keep_its_promise_is_refused(house):
    """
    A second account would be made: 400 says so, and makes not even the first.
    """
    async with house.client() as client:
        before = (await client.get("/pictor/v1/accounts")).json()["accounts"]
        made = {"displayName": "twice"}
        reply = await client.post("/pictor/v1/accounts", json=made, headers=keyed("account"))
        after = (await client.get("/pictor/v1/accounts")).json()["accounts"]

    assert reply.status_code == 400
    assert "no effect on CreateAccount" in reply.json()["error"]["message"]
    assert before == after


async def test_a_twins_uploads_do_not_stay(house):
    """
    Of several that come at once, only the images of the one that made the job are kept.
    """
    body = {"model": "pictor/shapes", "prompt": "a", "image": png_base64(), "async": True}
    async with house.client() as client:
        before = await house.uploads()
        replies = await asyncio.gather(
            *(client.post("/v1/images/edits", json=body, headers=keyed("race")) for _ in range(6))
        )
        after = await house.uploads()

    assert {reply.headers["x-pictor-job"] for reply in replies} == {
        replies[0].headers["x-pictor-job"]
    }
    assert after == before + 1
