"""
An 8 MB picture through REST, over reading it where it lies.

With a folder the baseline is a bare Starlette application that serves the same file; with S3,
where readers are sent, it is the bucket itself, by a URL that it signed. Then many readers stop.
"""

import asyncio
import contextlib
import http.client
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import AsyncIterator, Iterator

import boto3
from botocore.config import Config
from PIL import Image

from benchmarks.report import Row
from benchmarks.watched_suite import WatchedSuite, watched_suite
from pictor.storage.v1 import (
    asset_pb2,
    asset_url_pb2,
    storage_service_pb2,
    storage_service_pb2_grpc,
)
from services.rpc.channels import open_channel
from tests.services.storage import s3_servers

# Of noise, which PNG cannot compress: 8.0 MB.
SIDE_PX = 1632
REPEATS, READS, WARM_READS = 7, 12, 4
LEAST_RATIO = 0.8
STREAMS, STALLED_SECONDS = 32, 3.0
CHUNK_BYTES = 256 * 1024
READ_BYTES = 1024 * 1024


def measure() -> list[Row]:
    """Read from a folder and from a bucket, each in turn with its baseline."""
    content = _picture()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        return [*_of_a_folder(folder, content), *_of_a_bucket(folder, content)]


def _of_a_folder(folder: pathlib.Path, content: bytes) -> list[Row]:
    with watched_suite(folder / "files") as suite, _bare(folder, content) as bare:
        url = asyncio.run(_stored(suite, content))
        row = _compared("from a folder, over bare Starlette", url, bare, content)
        suite.begin()
        _stall(url)
        grown = suite.end()["grown_mb"] * 1e6 / CHUNK_BYTES / STREAMS
    memory = Row(
        "memory of a stream whose reader has stopped",
        [grown],
        goal=2,
        unit="chunks",
        note=f"{STREAMS} readers, chunks of 256 KiB",
    )
    return [row, memory]


def _of_a_bucket(folder: pathlib.Path, content: bytes) -> list[Row]:
    os.environ.update(s3_servers.ENVIRON)
    with (
        s3_servers.rclone(folder / "buckets") as server,
        watched_suite(
            folder / "s3", PICTOR_STORAGE_URL=server.url("assets"), PICTOR_STORAGE_REDIRECT="true"
        ) as suite,
    ):
        url = asyncio.run(_stored(suite, content))
        client = boto3.client(
            "s3", endpoint_url=server.endpoint, region_name="us-east-1", config=_PATHS
        )
        key = f"assets/{urllib.parse.urlsplit(url).path.strip('/').rpartition('/')[2]}"
        direct = client.generate_presigned_url(
            "get_object", Params={"Bucket": s3_servers.BUCKET, "Key": key}
        )
        return [_compared("sent to S3, over the bucket's own URL", url, direct, content)]


_PATHS = Config(s3={"addressing_style": "path"}, signature_version="s3v4")


def _compared(claim: str, url: str, direct: str, content: bytes) -> Row:
    for one in (url, direct):
        if _read(one) != content:
            raise RuntimeError(f"{claim}: other bytes than were stored")
        for _ in range(WARM_READS):
            _read(one)
    ours, baseline = [], []
    for _ in range(REPEATS):
        ours.append(_rate(url, len(content)))
        baseline.append(_rate(direct, len(content)))
    return Row(claim, ours, baseline, LEAST_RATIO, "MB/s", at_least=True)


def _rate(url: str, size: int) -> float:
    started = time.perf_counter()
    for _ in range(READS):
        _read(url)
    return READS * size / 1e6 / (time.perf_counter() - started)


def _read(url: str) -> bytes:
    """Read what is under a URL, with as little of a client as there can be."""
    with contextlib.closing(_asked(url)) as line:
        reply = line.getresponse()
        if reply.status == 302:
            return _read(reply.headers["location"])
        if reply.status != 200:
            raise RuntimeError(f"{url} was answered {reply.status}")
        content = bytearray(int(reply.headers["content-length"]))
        view = memoryview(content)
        while view:
            view = view[reply.readinto(view[:READ_BYTES]) :]
    return bytes(content)


def _asked(url: str) -> http.client.HTTPConnection:
    parts = urllib.parse.urlsplit(url)
    line = http.client.HTTPConnection(parts.netloc)
    line.request("GET", f"{parts.path}?{parts.query}")
    return line


def _stall(url: str) -> None:
    """Begin to read many times, and go on with none of them."""
    with contextlib.ExitStack() as stack:
        for _ in range(STREAMS):
            reply = stack.enter_context(contextlib.closing(_asked(url))).getresponse()
            reply.read(1)
        time.sleep(STALLED_SECONDS)


def _picture() -> bytes:
    file = io.BytesIO()
    pixels = os.urandom(SIDE_PX * SIDE_PX * 3)
    Image.frombytes("RGB", (SIDE_PX, SIDE_PX), pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


async def _stored(suite: WatchedSuite, content: bytes) -> str:
    """Store a picture, and return its signed URL."""

    async def messages() -> AsyncIterator[storage_service_pb2.CreateAssetRequest]:
        asset = asset_pb2.Asset(origin=asset_pb2.Asset.ORIGIN_UPLOADED)
        yield storage_service_pb2.CreateAssetRequest(asset=asset)
        for start in range(0, len(content), CHUNK_BYTES):
            yield storage_service_pb2.CreateAssetRequest(chunk=content[start : start + CHUNK_BYTES])

    async with open_channel(suite.storage, suite.key) as channel:
        storage = storage_service_pb2_grpc.StorageServiceStub(channel)
        asset = await storage.CreateAsset(messages())
        signed = await storage.SignAssetUrl(asset_url_pb2.SignAssetUrlRequest(name=asset.name))
    url: str = signed.url
    return url


@contextlib.contextmanager
def _bare(folder: pathlib.Path, content: bytes) -> Iterator[str]:
    """Serve the file by Starlette and uvicorn and nothing else; yield its URL."""
    file = folder / "picture.png"
    file.write_bytes(content)
    script = [sys.executable, "-m", "benchmarks.bare_server", str(file)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()  # type: ignore[union-attr]  # it is piped
        finally:
            process.terminate()
