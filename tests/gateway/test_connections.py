import asyncio
import contextlib
import time

import pytest
import uvicorn

from gateway.__main__ import _Server
from gateway.connections import HEAD_BYTES, BoundedProtocol

POST = b"POST / HTTP/1.1\r\nhost: a\r\n"


class Hasty(BoundedProtocol):
    """Deadlines that a test can wait for."""

    head_seconds = 0.3
    body_seconds = 0.6
    linger_seconds = 0.3


async def app(scope, receive, send):
    """Read the body if the path says so, and answer after a while if it says so."""
    if scope["path"] == "/read":
        while (await receive()).get("more_body"):
            pass
    if scope["path"] == "/slow":
        await asyncio.sleep(1)
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
async def port():
    config = uvicorn.Config(
        app, port=0, http=Hasty, log_config=None, lifespan="off", timeout_keep_alive=1
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    await server.ready.wait()
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def held(port, first, *, drip=b"", every=0.05) -> tuple[float, bytes]:
    """Send something, then drip by drip; tell how long the connection stood, and what came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    started, received = time.monotonic(), asyncio.create_task(reader.read())
    with contextlib.suppress(ConnectionError):
        writer.write(first)
        while not received.done() and time.monotonic() < started + 5:
            writer.write(drip)
            await writer.drain()
            await asyncio.wait({received}, timeout=every)
    writer.close()
    content = b""
    with contextlib.suppress(ConnectionError):
        content = await asyncio.wait_for(received, 1)
    return time.monotonic() - started, content


@pytest.mark.parametrize(
    ("first", "drip"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b"GET / HT", b"", id="half a line"),
        pytest.param(b"GET / HTTP/1.1\r\nx: ", b"a", id="a header by the byte"),
        pytest.param(
            POST.replace(b"/ ", b"/read ") + b"content-length: 9999\r\n\r\n", b"a", id="body"
        ),
        pytest.param(POST + b"content-length: 9999\r\n\r\n", b"a", id="a body that nobody reads"),
        pytest.param(POST + b"content-length: 8\r\n\r\n", b"a", id="late body, then a head"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"\r\n", id="empty lines for ever"),
    ],
)
async def test_who_does_not_finish_a_request_is_cut_off(port, first, drip):
    """
    Whatever is sent so slowly that a request never ends, the connection ends.
    """
    seconds, _ = await held(port, first, drip=drip)

    assert seconds < 2.5


async def test_an_answer_may_take_longer_than_a_request(port):
    """
    The clock runs for the caller's part only, and an empty line is no request.
    """
    _, content = await held(port, b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n\r\n")

    assert content.endswith(b"ok")


async def test_requests_follow_each_other_on_one_connection(port):
    """
    Each request has its own time; pauses between them are the keep-alive time's.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(3):
        writer.write(POST.replace(b"/ ", b"/read ") + b"content-length: 2\r\n\r\n")
        await asyncio.sleep(0.2)
        writer.write(b"{}")
        assert (await asyncio.wait_for(reader.readuntil(b"ok"), 2)).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.2)
    writer.close()


async def test_a_head_without_end_is_431(port):
    """
    Headers and URLs are held in memory, and so they are bounded.
    """
    _, content = await held(port, b"GET / HTTP/1.1\r\nx: ", drip=b"a" * HEAD_BYTES, every=0.001)

    assert content == b"" or content.startswith(b"HTTP/1.1 431 ")
