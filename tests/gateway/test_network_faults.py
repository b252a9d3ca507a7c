"""The gateway behind lines that are slow, dead, half open or cut."""

import asyncio
import contextlib
import time

import httpx
import pytest

from gateway import __main__ as gateway
from services.rpc import channels
from services.rpc.settings import read
from tests.network import link_to

DEADLINE_SECONDS = 1.5
BODY = {"model": "pictor/shapes", "prompt": "a red circle"}


@pytest.fixture
async def far(house, monkeypatch):
    """A gateway of its own whose way to the inference service is a faulty line."""
    monkeypatch.setitem(channels.open_channel.__kwdefaults__, "deadline_seconds", DEADLINE_SECONDS)
    quick = {"grpc.keepalive_time_ms": 5_000, "grpc.http2.ping_timeout_ms": 3_000}
    monkeypatch.setattr(channels, "OPTIONS", [*{**dict(channels.OPTIONS), **quick}.items()])
    async with contextlib.AsyncExitStack() as stack:
        link = await stack.enter_async_context(link_to(house.environ["PICTOR_INFERENCE_ADDRESS"]))
        environ = {
            **house.environ,
            "PICTOR_INFERENCE_ADDRESS": link.address,
            "PICTOR_HTTP_ADDRESS": "127.0.0.1:0",
        }
        bound = await stack.enter_async_context(gateway.running(read(gateway.Settings, environ)))
        client = httpx.AsyncClient(
            base_url=f"http://{bound}",
            headers={"authorization": f"Bearer {house.api_key}"},
            timeout=20,
        )
        yield link, await stack.enter_async_context(client)


async def drawn(client):
    return await client.post("/v1/images/generations", json=BODY)


async def test_a_slow_line_costs_time_and_nothing_else(far):
    """
    Everything arrives, in pieces and late.
    """
    link, client = far
    link.delay_seconds, link.chunk_bytes = 0.01, 100
    reply = await drawn(client)

    assert reply.status_code == 200
    assert reply.json()["data"][0]["url"]


async def test_a_half_open_line_ends_by_the_deadline(far):
    """
    The caller is told in the API's own words that it may try again, and can, afterwards.
    """
    link, client = far
    assert (await drawn(client)).status_code == 200
    link.open.clear()
    started = time.monotonic()
    late = await drawn(client)
    seconds = time.monotonic() - started
    link.open.set()
    again = await drawn(client)

    assert late.status_code == 504
    assert late.json()["error"]["message"] == "the deadline passed before the answer was there"
    assert DEADLINE_SECONDS <= seconds < DEADLINE_SECONDS + 1
    assert again.status_code == 200


async def test_a_waiting_client_does_not_notice_a_cut_line(far, house):
    """
    The job goes on, and its watch is taken up again where it was.
    """
    link, client = far
    with house.held():
        waiting = asyncio.create_task(drawn(client))
        async with asyncio.timeout(10):
            await house.executor.started.wait()
        before = link.accepted
        link.reset()
        await asyncio.sleep(0.2)
    reply = await waiting

    assert reply.status_code == 200
    assert link.accepted > before
    assert len(reply.json()["data"]) == 1


async def test_a_server_that_is_away_is_said_at_once(far):
    """
    503 with Retry-After, not a wait for a deadline.
    """
    link, client = far
    link.target = "127.0.0.1:9"
    link.reset()
    started = time.monotonic()
    reply = await drawn(client)

    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) >= 1
    assert time.monotonic() - started < DEADLINE_SECONDS


async def test_a_waiting_client_outlives_a_half_open_line(far, house):
    """
    Who only waits for news would never learn that none can come: pings tell.
    """
    link, client = far
    with house.held():
        waiting = asyncio.create_task(drawn(client))
        async with asyncio.timeout(10):
            await house.executor.started.wait()
        await asyncio.sleep(0.2)
        link.open.clear()
    await asyncio.sleep(0.2)
    before = link.accepted
    async with asyncio.timeout(15):
        while link.accepted == before:  # noqa: ASYNC110 - the other end is gRPC's own
            await asyncio.sleep(0.05)
    link.open.set()

    assert (await waiting).status_code == 200
