"""A key that is revoked opens nothing within a second, also what was open already."""

import asyncio
import time

import httpx
import pytest

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from services.rpc.channels import open_channel
from services.rpc.errors import Unauthenticated
from tests.gateway.house import SERVED

BODY = {"model": SERVED, "prompt": "a red circle"}
# What the machine needs on top of the second, when it is busy with other tests.
SLACK_SECONDS = 0.5


async def ended_after(house, name: str, work: asyncio.Task) -> float:
    """Revoke a key while something goes on, and return how long it still did."""
    await asyncio.sleep(0.7)
    assert not work.done(), work
    await house.revoke(name)
    revoked = time.monotonic()
    await asyncio.wait({work}, timeout=5)
    return time.monotonic() - revoked


@pytest.fixture
async def key(house):
    return await house.key("inference")


@pytest.fixture
async def job(house, key):
    """A job of the account that goes on."""
    with house.held():
        async with house.client(key[0]) as client:
            made = await client.post(
                "/pictor/v1/jobs", json={"generation": {"model": SERVED, "prompt": "a cat"}}
            )
        yield made.json()["name"]


async def test_an_open_watch_over_grpc_ends(house, key, job):
    """
    The stream ends with UNAUTHENTICATED, though nothing happens to the job.
    """
    secret, name = key
    address = house.environ["PICTOR_INFERENCE_ADDRESS"]
    async with open_channel(address, secret) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)

        async def watch() -> None:
            async for _ in stub.WatchJob(inference_service_pb2.WatchJobRequest(name=job)):
                pass

        watching = asyncio.create_task(watch())
        assert await ended_after(house, name, watching) < 1 + SLACK_SECONDS

    error = watching.exception()
    assert isinstance(error, Unauthenticated)
    assert error.reason == reasons.ERROR_REASON_API_KEY_REVOKED


async def test_an_open_stream_of_events_ends(house, key, job):
    """
    The native stream says why in an event, and closes.
    """
    secret, name = key
    async with house.client(secret) as client:

        async def watch() -> str:
            async with client.stream("GET", f"/pictor/v1/{job}:watch") as reply:
                return (await reply.aread()).decode()

        watching = asyncio.create_task(watch())
        assert await ended_after(house, name, watching) < 1 + SLACK_SECONDS

    assert "event: error" in watching.result()
    assert "API_KEY_REVOKED" in watching.result()


async def test_an_open_stream_of_a_public_api_ends(house, key):
    """
    OpenAI's stream ends with an error in its words.
    """
    secret, name = key
    with house.held():
        async with house.client(secret) as client:

            async def draw() -> str:
                body = {**BODY, "stream": True}
                async with client.stream("POST", "/v1/images/generations", json=body) as reply:
                    return (await reply.aread()).decode()

            drawing = asyncio.create_task(draw())
            assert await ended_after(house, name, drawing) < 1 + SLACK_SECONDS

    assert "invalid_api_key" in drawing.result()


async def test_a_request_that_waits_for_its_picture_ends(house, key):
    """
    Who waits for a picture is answered 401 instead.
    """
    secret, name = key
    with house.held():
        async with house.client(secret) as client:
            drawing = asyncio.create_task(client.post("/v1/images/generations", json=BODY))
            assert await ended_after(house, name, drawing) < 1 + SLACK_SECONDS

    reply: httpx.Response = drawing.result()
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "invalid_api_key"


async def test_a_stream_ends_when_its_key_does(house, job):
    """
    A key that runs out while a stream is open ends it too.
    """
    secret, _ = await house.key("inference", seconds=1.5)
    async with house.client(secret) as client:
        started = time.monotonic()
        async with client.stream("GET", f"/pictor/v1/{job}:watch") as reply:
            text = (await reply.aread()).decode()

    assert "API_KEY_EXPIRED" in text
    assert time.monotonic() - started < 2.5 + SLACK_SECONDS


async def test_another_key_of_the_account_goes_on(house, key, job):
    """
    Only what the revoked key has opened ends.
    """
    other, _ = await house.key("inference")
    address = house.environ["PICTOR_INFERENCE_ADDRESS"]
    async with open_channel(address, other) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        watch = stub.WatchJob(inference_service_pb2.WatchJobRequest(name=job))
        await anext(aiter(watch))
        await house.revoke(key[1])
        await asyncio.sleep(1.2)
        house.executor.gate.set()
        messages = [message async for message in watch]

    assert messages[-1].job.result.images


@pytest.mark.parametrize(
    "key", ["", "pk_", "pk_0123456789ab", "pk_0123456789ab_" + "A" * 43, "x" * 300, "Ä"]
)
async def test_a_key_that_is_none_opens_nothing(house, key):
    """
    Missing, truncated, invented and endless keys are answered alike.
    """
    headers = {"authorization": f"Bearer {key}".encode()} if key else {}
    async with house.client("", headers=headers) as client:
        reply = await client.get("/pictor/v1/jobs")

    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == 401


async def test_a_truncated_key_opens_nothing(house, key):
    """
    Each character counts, and what comes after the last one too.
    """
    secret, _ = key
    for wrong in (secret[:-1], secret + "A", secret.upper(), secret[:16]):
        async with house.client(wrong) as client:
            assert (await client.get("/pictor/v1/jobs")).status_code == 401
    async with house.client(secret) as client:
        assert (await client.get("/pictor/v1/jobs")).status_code == 200
