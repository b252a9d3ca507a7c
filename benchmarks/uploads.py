"""A hundred uploads of 25 MB at once: memory and event loop of the suite in one process."""

import asyncio
import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
from PIL import Image

from benchmarks.report import Row

UPLOADS = 100
SIDE_PX = 2900
# Known and not served: the picture is received, stored aside and decoded, and nothing is drawn.
MODEL = "black-forest-labs/FLUX.2-dev"
# The word of the dialect for it, after the picture was found good.
NOT_SERVING = 404
BOUNDARY = b"an-upload"
MOST_MB = 300
MOST_LATE_MS = 50
SECONDS = 600


def measure() -> list[Row]:
    """Send the uploads, and ask the suite what it has seen of itself meanwhile."""
    body = _body()
    with tempfile.TemporaryDirectory() as name, _watched(pathlib.Path(name)) as (suite, process):
        _line(process)
        found = asyncio.run(_send_all(suite, body))
        _line(process)
        seen = _said(process)
    if found != {NOT_SERVING: UPLOADS}:
        raise RuntimeError(f"the uploads were answered {dict(found)}")
    note = f"{UPLOADS} uploads of {len(body) / 1e6:.1f} MB"
    latest = f"p99 of a timer of 5 ms; the latest was {seen['latest_ms']:.0f} ms late"
    return [
        Row("memory grown", [seen["grown_mb"]], goal=MOST_MB, unit="MB", note=note),
        Row("event loop late", [seen["late_ms"]], goal=MOST_LATE_MS, unit="ms", note=latest),
    ]


def _body() -> bytes:
    """Write a form with a picture that does not compress."""
    pixels = os.urandom(SIDE_PX * SIDE_PX * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", (SIDE_PX, SIDE_PX), pixels).save(file, "PNG", compress_level=0)
    parts = [(b'name="model"', MODEL.encode()), (b'name="prompt"', b"a red circle")]
    parts.append((b'name="image"; filename="a.png"', file.getvalue()))
    written = [
        b"--%s\r\ncontent-disposition: form-data; %s\r\n\r\n%s\r\n" % (BOUNDARY, head, value)
        for head, value in parts
    ]
    return b"".join([*written, b"--%s--\r\n" % BOUNDARY])


async def _send_all(suite: dict[str, str], body: bytes) -> Counter[int]:
    headers = {
        "authorization": f"Bearer {suite['key']}",
        "content-type": f"multipart/form-data; boundary={BOUNDARY.decode()}",
    }
    limits = httpx.Limits(max_connections=UPLOADS)
    async with httpx.AsyncClient(timeout=SECONDS, limits=limits, headers=headers) as client:
        url = f"{suite['url']}/v1/images/edits"
        replies = await asyncio.gather(*(client.post(url, content=body) for _ in range(UPLOADS)))
    return Counter(reply.status_code for reply in replies)


@contextlib.contextmanager
def _watched(folder: pathlib.Path) -> Iterator[tuple[dict[str, str], subprocess.Popen[Any]]]:
    parts = ("HTTP", "ACCOUNTS", "CATALOG", "INFERENCE", "STORAGE")
    ports = {f"PICTOR_{part}_ADDRESS": "127.0.0.1:0" for part in parts}
    more = {"PICTOR_DATA_DIR": str(folder / "data"), "PICTOR_LOG_LEVEL": "error"}
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.watched_suite"],
        env={**os.environ, **ports, **more},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield _said(process), process
        finally:
            process.terminate()


def _said(process: subprocess.Popen[Any]) -> dict[str, Any]:
    """Read the next JSON object; warnings may come before it."""
    while line := process.stderr.readline():  # type: ignore[union-attr]  # it is piped
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise RuntimeError("the suite has ended")


def _line(process: subprocess.Popen[Any]) -> None:
    process.stdin.write("\n")  # type: ignore[union-attr]  # it is piped
    process.stdin.flush()  # type: ignore[union-attr]
