import contextlib

import httpx
import pytest

from gateway import __main__ as gateway
from services.rpc.settings import read
from tests.gateway.house import free_address


async def test_a_suite_that_can_draw_is_ready(house):
    """
    Ready means that a picture can be drawn now.
    """
    async with house.client("") as client:
        reply = await client.get("/readyz")

    assert reply.status_code == 200
    assert reply.json() == {"ready": True, "missing": []}


async def test_a_gateway_without_services_lives_and_says_what_is_missing(tmp_path):
    """
    Each service that does not answer is named; no address leaves the process.
    """
    addresses = {
        f"PICTOR_{part}_ADDRESS": free_address()
        for part in ("HTTP", "ACCOUNTS", "CATALOG", "INFERENCE", "STORAGE")
    }
    settings = read(gateway.Settings, {"PICTOR_DATA_DIR": str(tmp_path), **addresses})
    async with contextlib.AsyncExitStack() as stack:
        bound = await stack.enter_async_context(gateway.running(settings))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://{bound}"))
        alive = await client.get("/livez")
        ready = await client.get("/readyz")
        drawn = await client.post(
            "/v1/images/generations", headers={"authorization": "Bearer k"}, json={}
        )

    assert alive.status_code == 200
    assert ready.status_code == 503
    assert "the inference service does not answer" in ready.json()["missing"]
    assert "127.0.0.1" not in ready.text
    assert drawn.status_code == 503
    assert set(drawn.json()["error"]) == {"message", "type", "param", "code"}


async def test_the_root_lists_what_is_here(house):
    """
    Whoever opens the address in a browser learns which APIs are there.
    """
    async with house.client("") as client:
        index = (await client.get("/")).json()

    assert {"OpenAI Images", "RemoteGPU"} <= {api["name"] for api in index["apis"]}
    assert index["documentation"]


async def test_a_callers_request_id_is_kept_if_it_is_fit(house):
    """
    An id with anything but letters, digits and ``._-`` is replaced.
    """
    async with house.client("") as client:
        kept = await client.get("/livez", headers={"x-request-id": "trace-0123"})
        replaced = await client.get("/livez", headers={"x-request-id": "a b\tc<script>"})

    assert kept.headers["x-request-id"] == "trace-0123"
    assert "script" not in replaced.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz"])
@pytest.mark.parametrize("method", ["POST", "DELETE", "TRACE"])
async def test_the_suites_own_pages_are_only_read(house, method, path):
    """
    Any other method is 405, and Allow says which ones there are.
    """
    async with house.client("") as client:
        reply = await client.request(method, path)

    assert reply.status_code == 405
    assert reply.headers["allow"] == "GET, HEAD"
