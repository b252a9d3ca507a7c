"""
Bytes as objects in an S3 bucket: ``{prefix}/{key}``, at AWS or at any endpoint that speaks S3.

    s3://bucket/prefix?region=eu-central-1
    s3://bucket?endpoint=https://s3.example.com:9000

Credentials are found as all AWS tools find them: environment, ``~/.aws``, the machine's role. Small
images are one PUT, larger ones come in parts; both carry their SHA-256, and ``If-None-Match: *``
keeps what is there. boto3 blocks, so each call has a thread of this back end's own.
"""

import asyncio
import base64
import contextlib
import functools
import hashlib
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from urllib3.exceptions import HTTPError as WireError

from services.storage.backend import (
    CHUNK_BYTES,
    BackendError,
    BackendUnavailable,
    KeyMissing,
    KeyTaken,
    StorageBackend,
    checked_key,
)

SCHEMES = ("s3",)
OPTIONS = ("endpoint", "region")
# S3 takes no part under 5 MiB but the last. With UPLOADED_AT_ONCE this bounds what is held.
PART_BYTES = 8 * 1024 * 1024
UPLOADED_AT_ONCE = 8
CALLS_AT_ONCE = 32
# One call, before botocore tries it again; three times in all.
CONNECT_SECONDS = 5
ANSWER_SECONDS = 20
ATTEMPTS = 3
# Parts that a crash has left are given back after this.

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_LATER = frozenset({409, 429})
T = TypeVar("T")

log = structlog.get_logger()


def open(url: str) -> StorageBackend:  # noqa: A001 - the contract's name
    """
    Make the back end of a ``s3://bucket/prefix`` URL; nothing is asked yet.

    Raises:
        ValueError: If the URL names no bucket, or an option that there is not.
    """
    parts = urlsplit(url)
    options = parse_qs(parts.query, keep_blank_values=True)
    if not _BUCKET.fullmatch(parts.netloc) or parts.fragment:
        raise ValueError("must be s3://bucket/prefix, with the name of a bucket")
    for name in options:
        if name not in OPTIONS:
            raise ValueError(f"knows no option {name!r}; there are {', '.join(OPTIONS)}")
    endpoint = options.get("endpoint", [""])[0]
    if "endpoint" in options and urlsplit(endpoint).scheme not in ("http", "https"):
        raise ValueError(f"endpoint {endpoint!r} is no URL with http or https")
    try:
        client = _client(endpoint, options.get("region", ["us-east-1"])[0])
    except (ValueError, BotoCoreError) as error:
        raise ValueError(f"is none that boto3 takes ({error})") from None
    return S3Backend(client, parts.netloc, unquote(parts.path).strip("/"))


def _client(endpoint: str, region: str) -> Any:
    # Not the default session: it would keep the first credentials that it finds.
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint or None,
        region_name=region,
        config=Config(
            signature_version="s3v4",
            connect_timeout=CONNECT_SECONDS,
            read_timeout=ANSWER_SECONDS,
            max_pool_connections=CALLS_AT_ONCE,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            # What is sent carries SHA-256; other servers stumble over newer kinds of checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if endpoint else "auto"},
        ),
    )


class S3Backend:
    """
    Keeps bytes in a bucket.

    Args:
        client: boto3's client of S3.
        bucket: An existing one.
        prefix: Under which the objects lie, without slashes at its ends; or empty.
    """

    on_disk = False

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._threads = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="s3")
        self._turns = asyncio.Semaphore(UPLOADED_AT_ONCE)

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        """Write bytes once, and return their number when they are durable."""
        place = self._place(key)
        async with self._turns:
            parts = _parts(chunks)
            async with contextlib.aclosing(parts):
                first = await anext(parts, b"")
                if len(first) < PART_BYTES:
                    put = self._call(
                        self._client.put_object,
                        **place,
                        Body=first,
                        ChecksumAlgorithm="SHA256",
                        ChecksumSHA256=_checksum(first),
                        IfNoneMatch="*",
                    )
                    await self._finish(key, put)
                    return len(first)
                return await self._put_parts(key, first, parts)

    async def read(self, key: str, offset: int, length: int) -> AsyncGenerator[bytes]:
        """Send at most *length* bytes from *offset* on; where the line breaks, go on behind it."""
        place, attempt = self._place(key), 0
        while length > 0:
            body = await self._body(place, offset, length)
            try:
                while body and (chunk := await self._run(body.read, min(CHUNK_BYTES, length))):
                    offset, length, attempt = offset + len(chunk), length - len(chunk), 0
                    yield chunk
                length = 0
            except BackendUnavailable:
                attempt += 1
                if attempt == ATTEMPTS:
                    raise
            finally:
                if body:
                    body.close()

    async def size(self, key: str) -> int | None:
        """Count the bytes under a key."""
        place = self._place(key)
        try:
            return int((await self._call(self._client.head_object, **place))["ContentLength"])
        except KeyMissing:
            return None

    async def delete(self, key: str) -> None:
        """Remove the bytes under a key, if there are any."""
        place = self._place(key)
        with contextlib.suppress(KeyMissing):
            await self._call(self._client.delete_object, **place)

    async def keys(self, older_than_seconds: float) -> AsyncGenerator[str]:
        """List the keys whose bytes were written so long ago."""
        token: dict[str, str] = {}
        while True:
            page = await self._call(
                self._client.list_objects_v2, Bucket=self._bucket, Prefix=self._prefix, **token
            )
            latest = time.time() - older_than_seconds
            for item in page.get("Contents", ()):
                name = item["Key"].removeprefix(self._prefix)
                with contextlib.suppress(ValueError):
                    # Seconds are what S3 counts in, so the youngest may lie ahead.
                    if int(item["LastModified"].timestamp()) <= latest:
                        yield checked_key(name)
            if not page.get("NextContinuationToken"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    async def url(self, key: str, media_type: str, seconds: int) -> str:
        """Sign a URL that reads the object and nothing else."""
        wanted = {
            **self._place(key),
            "ResponseContentType": media_type,
            "ResponseCacheControl": f"private, max-age={seconds}",
        }
        return str(
            await self._run(
                functools.partial(
                    self._client.generate_presigned_url,
                    "get_object",
                    Params=wanted,
                    ExpiresIn=seconds,
                    HttpMethod="GET",
                )
            )
        )

    async def close(self) -> None:
        """Give back connections and threads."""
        self._client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _put_parts(self, key: str, first: bytes, rest: AsyncIterator[bytes]) -> int:
        place = self._place(key)
        begun = await self._call(
            self._client.create_multipart_upload, **place, ChecksumAlgorithm="SHA256"
        )
        upload = {**place, "UploadId": begun["UploadId"]}
        with contextlib.ExitStack() as undo:
            undo.callback(self._threads.submit, self._abort, upload)
            sent = [await self._send_part(upload, 1, first)]
            size = len(first)
            async for part in rest:
                sent.append(await self._send_part(upload, len(sent) + 1, part))
                size += len(part)
            whole = self._call(
                self._client.complete_multipart_upload,
                **upload,
                MultipartUpload={"Parts": sent},
                IfNoneMatch="*",
            )
            await self._finish(key, whole)
            undo.pop_all()
        return size

    async def _send_part(self, upload: dict[str, str], number: int, part: bytes) -> dict[str, Any]:
        checksum = _checksum(part)
        sent = await self._call(
            self._client.upload_part,
            **upload,
            PartNumber=number,
            Body=part,
            ChecksumAlgorithm="SHA256",
            ChecksumSHA256=checksum,
        )
        return {"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": checksum}

    async def _finish(self, key: str, making_visible: Any) -> None:
        """Do what makes the object visible; if the caller is canceled meanwhile, take it back."""
        making = asyncio.ensure_future(making_visible)
        try:
            await asyncio.shield(making)
        except asyncio.CancelledError:
            await asyncio.wait({making})
            if not making.cancelled() and making.exception() is None:
                await self.delete(key)
            raise

    async def _body(self, place: dict[str, str], offset: int, length: int) -> Any:
        """Open a range; None where it lies behind the end."""
        span = f"bytes={offset}-{offset + length - 1}"
        try:
            return (await self._call(self._client.get_object, **place, Range=span))["Body"]
        except BackendError as error:
            cause = error.__cause__
            if isinstance(cause, ClientError) and _status(cause) == 416:
                return None
            raise

    async def tidy(self, older_than_seconds: float) -> None:
        """Give back the parts of uploads that go on no longer."""
        try:
            listed = await self._call(
                self._client.list_multipart_uploads, Bucket=self._bucket, Prefix=self._prefix
            )
        except BackendError:
            # Not all servers know how; theirs are given back by themselves.
            return
        for upload in listed.get("Uploads", ()):
            if upload["Initiated"].timestamp() < time.time() - older_than_seconds:
                where = {"Bucket": self._bucket, "Key": upload["Key"]}
                await self._run(self._abort, {**where, "UploadId": upload["UploadId"]})

    def _abort(self, upload: dict[str, str]) -> None:
        try:
            self._client.abort_multipart_upload(**upload)
        except (ClientError, BotoCoreError) as error:
            log.warning("s3.parts_left", reason=type(error).__name__)

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}{checked_key(key)}"}

    async def _call(self, method: Callable[..., Any], **wanted: Any) -> Any:
        return await self._run(functools.partial(method, **wanted))

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        with _failures():
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, function, *arguments)


async def _parts(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Gather chunks into parts of PART_BYTES; only the last is smaller, or empty if it is alone."""
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        while len(held) >= PART_BYTES:
            part = bytes(held[:PART_BYTES])
            del held[:PART_BYTES]
            yield part
            del part
    if held:
        yield bytes(held)


def _checksum(part: bytes) -> str:
    return base64.b64encode(hashlib.sha256(part).digest()).decode()


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _failure(error)(str(error)) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise BackendError(str(error)) from error
    # A connection that breaks within a body is botocore's error, urllib3's, or the system's.
    except (BotoCoreError, WireError, OSError) as error:
        raise BackendUnavailable(str(error)) from error


def _failure(error: ClientError) -> type[BackendError]:
    status = _status(error)
    if status == 404 and error.response["Error"]["Code"] in ("NoSuchKey", "404"):
        return KeyMissing
    if status == 412:
        return KeyTaken
    return BackendUnavailable if status >= 500 or status in _LATER else BackendError


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
