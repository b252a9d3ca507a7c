"""
Two servers that speak S3, each for what it checks, as processes on loopback ports.

moto honours ``If-None-Match`` and accepts forged signatures; rclone rejects forgeries and ignores
``If-None-Match``.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import httpx

ACCESS_KEY, SECRET = "AKIAPICTORTEST", "pictor-test-secret"
BUCKET = "pictor"
START_SECONDS = 30.0
ENVIRON = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET}


@dataclass(frozen=True)
class S3Server:
    """
    A server that speaks S3.

    Attributes:
        endpoint: Its URL.
        folder: Where its files lie, if it has any.
    """

    endpoint: str
    folder: pathlib.Path | None = None

    def url(self, prefix: str = "assets", endpoint: str = "") -> str:
        """Return what PICTOR_STORAGE_URL is for it, or for a line to it."""
        return f"s3://{BUCKET}/{prefix}?endpoint={endpoint or self.endpoint}"


@contextlib.contextmanager
def moto() -> Iterator[S3Server]:
    """Run moto, with an empty bucket."""
    script = pathlib.Path(__file__).with_name("moto_process.py")
    environ = {**os.environ, **ENVIRON}
    with _process([sys.executable, "-W", "ignore", str(script)], environ) as process:
        server = S3Server(f"http://127.0.0.1:{int(process.stdout.readline())}")
        with contextlib.closing(_client(server)) as client:
            client.create_bucket(Bucket=BUCKET)
        yield server


@contextlib.contextmanager
def rclone(folder: pathlib.Path) -> Iterator[S3Server]:
    """Run rclone on a folder, whose folders are its buckets."""
    (folder / BUCKET).mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = shutil.which("rclone", path=pathlib.Path(sys.executable).parent)
    command = [program, "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{ACCESS_KEY},{SECRET}", "--dir-cache-time", "0s"]
    environ = {**os.environ, "XDG_CONFIG_HOME": str(folder.parent), "HOME": str(folder.parent)}
    with _process([*command, "--config", "/dev/null"], environ):
        server = S3Server(f"http://127.0.0.1:{port}", folder / BUCKET)
        _until_listening(server.endpoint)
        yield server


def make_old(server: S3Server, name: str, seconds: float) -> None:
    """Make an object look older."""
    if server.folder:
        moment = time.time() - seconds
        os.utime(server.folder / name, (moment, moment))
    else:
        url = f"{server.endpoint}/age?key={name}&seconds={seconds}"
        httpx.post(url).raise_for_status()


def begin_upload(server: S3Server, name: str) -> None:
    """Begin a multipart upload, as a process does that dies then."""
    with contextlib.closing(_client(server)) as client:
        upload = client.create_multipart_upload(Bucket=BUCKET, Key=name)["UploadId"]
        client.upload_part(Bucket=BUCKET, Key=name, UploadId=upload, PartNumber=1, Body=b"abc")


def uploads(server: S3Server, prefix: str) -> list[str]:
    """List the multipart uploads that have not ended."""
    with contextlib.closing(_client(server)) as client:
        listed = client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)
    return [upload["Key"] for upload in listed.get("Uploads", ())]


def head(server: S3Server, name: str) -> dict[str, str]:
    """Ask what a server keeps about an object, its checksum included."""
    with contextlib.closing(_client(server)) as client:
        return client.head_object(Bucket=BUCKET, Key=name, ChecksumMode="ENABLED")


def _client(server: S3Server) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET,
    )


@contextlib.contextmanager
def _process(command: list[str], environ: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=10)


def _until_listening(endpoint: str) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            httpx.get(endpoint)
        except httpx.TransportError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return
