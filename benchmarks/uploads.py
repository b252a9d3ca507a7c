"""A hundred uploads of 25 MB at once: memory and event loop of the suite in one process."""

import asyncio
import io
import os
import pathlib
import tempfile
from collections import Counter

import httpx
from PIL import Image

from benchmarks.report import Row
from benchmarks.watched_suite import WatchedSuite, watched_suite

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
    with tempfile.TemporaryDirectory() as name, watched_suite(pathlib.Path(name)) as suite:
        suite.begin()
        found = asyncio.run(_send_all(suite, body))
        seen = suite.end()
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


async def _send_all(suite: WatchedSuite, body: bytes) -> Counter[int]:
    headers = {
        "authorization": f"Bearer {suite.key}",
        "content-type": f"multipart/form-data; boundary={BOUNDARY.decode()}",
    }
    limits = httpx.Limits(max_connections=UPLOADS)
    async with httpx.AsyncClient(timeout=SECONDS, limits=limits, headers=headers) as client:
        url = f"{suite.url}/v1/images/edits"
        replies = await asyncio.gather(*(client.post(url, content=body) for _ in range(UPLOADS)))
    return Counter(reply.status_code for reply in replies)
