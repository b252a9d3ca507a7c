"""A gateway that is told to stop: whoever waits gets an answer."""

import asyncio
import contextlib

import httpx
import pytest

from gateway import __main__ as gateway
from pictor.inference.v1 import job_pb2
from services.rpc.settings import read

BODY = {"model": "pictor/shapes", "prompt": "a red circle"}


@pytest.fixture
async def start(house):
    """Start a further gateway of the house; it stops at the end, or when the test says so."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(**settings):
            environ = {**house.environ, "PICTOR_HTTP_ADDRESS": "127.0.0.1:0", **settings}
            running = contextlib.AsyncExitStack()
            stack.push_async_callback(running.aclose)
            bound = await running.enter_async_context(
                gateway.running(read(gateway.Settings, environ))
            )
            client = httpx.AsyncClient(
                base_url=f"http://{bound}",
                headers={"authorization": f"Bearer {house.api_key}"},
                timeout=20,
            )
            return running, await stack.enter_async_context(client)

        yield open_one


async def until_waiting(house, count):
    async with asyncio.timeout(10):
        while await unfinished(house) < count:  # noqa: ASYNC110 - polled as a client would
            await asyncio.sleep(0.02)


async def unfinished(house):
    return sum(job.state != job_pb2.Job.STATE_SUCCEEDED for job in await house.jobs())


async def test_requests_under_way_are_answered(house, start):
    """
    No client sees a failure because a gateway was told to stop under load.
    """
    running, client = await start(PICTOR_DRAIN_SECONDS="10")
    with house.held():
        waiting = [
            asyncio.create_task(client.post("/v1/images/generations", json=BODY)) for _ in range(10)
        ]
        await until_waiting(house, 10)
        stopping = asyncio.create_task(running.aclose())
        await asyncio.sleep(0.3)
    replies = await asyncio.gather(*waiting)
    await stopping

    assert [reply.status_code for reply in replies] == [200] * 10


async def test_who_waits_longer_is_told_and_the_job_goes_on(house, start):
    """
    503 in the API's words with Retry-After and the id of the job; a stream ends with an error.
    """
    running, client = await start(PICTOR_DRAIN_SECONDS="0.3")
    with house.held():
        waiting = asyncio.create_task(client.post("/v1/images/generations", json=BODY))
        streaming = asyncio.create_task(
            client.post(
                "/v1/images/generations", json={**BODY, "stream": True, "partial_images": 0}
            )
        )
        await until_waiting(house, 2)
        await asyncio.sleep(0.2)
        await running.aclose()
        reply, stream = await asyncio.gather(waiting, streaming)
    job = await house.job(reply.headers["x-pictor-job"])

    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) >= 1
    assert reply.json()["error"]["message"] == "the gateway is stopping; the job goes on"
    assert "the gateway is stopping" in stream.text
    assert job.state != job_pb2.Job.STATE_CANCELED


async def test_a_gateway_that_stops_is_not_ready_but_answers(house, start):
    """
    For the time of grace, so that who chooses among gateways chooses another.
    """
    running, client = await start(PICTOR_GRACE_SECONDS="0.5")
    ready = await client.get("/readyz")
    stopping = asyncio.create_task(running.aclose())
    await asyncio.sleep(0.2)
    not_ready = await client.get("/readyz")
    drawn = await client.post("/v1/images/generations", json=BODY)
    await stopping

    assert ready.status_code == 200
    assert not_ready.status_code == 503
    assert "the gateway is stopping" in not_ready.json()["missing"]
    assert drawn.status_code == 200
