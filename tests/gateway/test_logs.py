"""What the gateway writes about requests."""

import asyncio
import contextlib
import json
import os
import sys

import httpx
import pytest
import structlog

from tests.gateway.house import free_address


async def answered(house, method, path):
    merge = structlog.contextvars.merge_contextvars
    with structlog.testing.capture_logs(processors=[merge]) as lines:
        async with house.client() as client:
            await client.request(method, path)
            await asyncio.sleep(0.05)
    # The services write to the same place here.
    return [line for line in lines if line["event"].startswith("http.")]


async def test_the_native_api_is_logged_with_its_rpc(house):
    """
    The route says nothing there; the name of the method does.
    """
    [line] = await answered(house, "GET", "/pictor/v1/jobs/none")

    assert line["rpc"] == "/pictor.inference.v1.InferenceService/GetJob"
    assert line["status"] == 404


@pytest.mark.parametrize("path", ["/v1/inference/jobs/none", "/v1/nothing", "/pictor/v1/nothing"])
async def test_a_request_is_one_line(house, path):
    """
    One line at info, also where something is missing.
    """
    [line] = await answered(house, "GET", path)

    assert (line["event"], line["status"], line["log_level"]) == ("http.answered", 404, "info")


async def test_every_line_is_json_also_uvicorns(tmp_path):
    """
    What libraries log takes the form of all other lines.
    """
    address = free_address()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        env={
            **os.environ,
            "PICTOR_DATA_DIR": str(tmp_path),
            "PICTOR_HTTP_ADDRESS": address,
            "PICTOR_LOG_FORM": "json",
        },
        stderr=asyncio.subprocess.PIPE,
    )
    async with httpx.AsyncClient() as client, asyncio.timeout(60):
        while True:
            with contextlib.suppress(httpx.TransportError):
                await client.get(f"http://{address}/livez")
                break
            await asyncio.sleep(0.1)
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"garbage\r\n\r\n")
    await reader.read()
    writer.close()
    process.terminate()
    _, errors = await asyncio.wait_for(process.communicate(), 30)

    lines = [json.loads(line) for line in errors.decode().splitlines()]
    assert "Invalid HTTP request received." in [line.get("message") for line in lines]
