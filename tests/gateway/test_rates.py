"""How often a key may ask, and how much may wait: refused early, in each API's own words."""

import asyncio
import time

import pytest

from tests.gateway.house import open_house

LIMIT = 4
URL = "/v1/images/generations"
BODY = {"model": "pictor/shapes", "prompt": "a red circle"}


@pytest.fixture
async def limited(tmp_path):
    async with open_house(tmp_path, PICTOR_REQUESTS_PER_MINUTE=str(LIMIT)) as house:
        yield house


@pytest.fixture
async def small(tmp_path):
    """Room for two unfinished jobs of an account, and three that wait in all."""
    async with open_house(tmp_path, PICTOR_ACCOUNT_JOBS="2", PICTOR_QUEUE_JOBS="3") as house:
        yield house


async def test_a_key_that_asks_too_often_is_refused(limited):
    """
    429 with Retry-After in the API's envelope; every answer tells what is left.
    """
    async with limited.client() as client:
        replies = [await client.get("/v1/models") for _ in range(LIMIT + 1)]
    left = [int(reply.headers["x-ratelimit-remaining-requests"]) for reply in replies]
    last = replies[-1]

    assert [reply.status_code for reply in replies] == [200] * LIMIT + [429]
    assert left == [3, 2, 1, 0, 0]
    assert last.headers["x-ratelimit-limit-requests"] == str(LIMIT)
    assert last.headers["ratelimit-policy"] == f'"requests";q={LIMIT};w=60'
    assert 1 <= int(last.headers["retry-after"]) <= 60
    assert last.json()["error"]["code"] == "rate_limit_exceeded"


async def test_each_key_has_a_rate_of_its_own(limited):
    """
    Another key of the same account still may.
    """
    secret, _ = await limited.key("inference")
    async with limited.client() as client, limited.client(secret) as other:
        for _ in range(LIMIT + 1):
            refused = await client.get("/v1/models")
        admitted = await other.get("/v1/models")

    assert refused.status_code == 429
    assert admitted.status_code == 200


async def test_a_body_is_not_read_of_who_asks_too_often(limited):
    """
    The refusal comes while the body is only announced.
    """
    async with limited.client() as client:
        for _ in range(LIMIT):
            await client.get("/v1/models")
    started = time.monotonic()
    status, body = await limited.declare("POST", URL, size_bytes=20_000_000)

    assert status == 429
    assert time.monotonic() - started < 1
    assert "requests a minute" in body["error"]["message"]


async def test_public_pages_and_images_are_not_counted(limited):
    """
    Who shows a picture on a page spends nobody's rate.
    """
    async with limited.client() as client:
        replies = [await client.get("/livez") for _ in range(LIMIT * 2)]

    assert {reply.status_code for reply in replies} == {200}
    assert "x-ratelimit-limit-requests" not in replies[0].headers


@pytest.mark.parametrize(
    ("url", "body"),
    [
        (URL, BODY),
        ("/v1/inference/image", {"model": "pictor/shapes", "prompt": "a"}),
        ("/api/v1/images/generation", {"model": "pictor/shapes", "prompt": "a"}),
        ("/sdapi/v1/txt2img", {"prompt": "a", "steps": 2, "width": 64, "height": 64}),
        ("/v2/image/qwen/generate", {"prompt": "a", "model": "pictor/shapes"}),
        ("/v1beta/models/pictor/shapes:predict", {"instances": [{"prompt": "a"}]}),
        ("/pictor/v1/jobs", {"generation": {"model": "pictor/shapes", "prompt": "a"}}),
    ],
)
async def test_an_account_with_too_many_jobs_is_refused(small, url, body):
    """
    Whatever the API: 429 with Retry-After, the sentence names the limit, and nothing is queued.
    """
    asked = {"generation": {"model": "pictor/shapes", "prompt": "a"}}
    with small.held():
        async with small.client() as client:
            for _ in range(2):
                assert (await client.post("/pictor/v1/jobs", json=asked)).status_code == 200
            reply = await client.post(url, json=body)
        count = len(await small.jobs())

    assert reply.status_code == 429
    assert int(reply.headers["retry-after"]) >= 1
    assert "2 unfinished jobs" in reply.text
    assert count == 2


async def test_a_full_queue_refuses_everybody(small):
    """
    Also accounts that have no job yet; when there is room again, they may.
    """
    asked = {"generation": {"model": "pictor/shapes", "prompt": "a"}}
    with small.held():
        statuses = []
        for _ in range(3):
            secret, _ = await small.key("inference", new_account=True)
            async with small.client(secret) as client:
                for _ in range(2):
                    statuses.append((await client.post("/pictor/v1/jobs", json=asked)).status_code)
        running = 1
        refused = statuses.count(429)
    async with asyncio.timeout(10), small.client() as client:
        while (await client.post("/pictor/v1/jobs", json=asked)).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    assert refused == 6 - running - 3
    assert statuses[0] == 200
