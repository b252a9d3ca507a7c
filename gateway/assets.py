"""Assets through the gateway: public ones by URL, results in base64, uploads into storage."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.dialect import Resizing
from gateway.images import InputFile
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.storage.v1 import asset_pb2, storage_service_pb2
from services.rpc.errors import InvalidRequest, NotFound, invalid

if TYPE_CHECKING:
    from pictor.storage.v1.storage_service_pb2_grpc import StorageServiceAsyncStub

CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_HEADERS = {
    # The bytes of an asset never change; its URL is new for each.
    "cache-control": "public, max-age=31536000, immutable",
    "x-content-type-options": "nosniff",
    # Nothing in a file that somebody uploaded may run as this site's script.
    "content-security-policy": "sandbox; default-src 'none'",
    "accept-ranges": "bytes",
}


async def upload(
    storage: "StorageServiceAsyncStub", content: bytes, field: str, *, validate_only: bool = False
) -> asset_pb2.Asset:
    """
    Store an image that a caller sent, or only check it.

    Args:
        storage: Where to.
        content: The file.
        field: Where the image stood in the request, for the error.
        validate_only: Store nothing.

    Raises:
        InvalidRequest: If storage does not take it; the error names *field*.
    """

    async def messages() -> AsyncIterator[storage_service_pb2.CreateAssetRequest]:
        asset = asset_pb2.Asset(origin=asset_pb2.Asset.ORIGIN_UPLOADED)
        yield storage_service_pb2.CreateAssetRequest(asset=asset, validate_only=validate_only)
        for start in range(0, len(content), CHUNK_BYTES):
            yield storage_service_pb2.CreateAssetRequest(chunk=content[start : start + CHUNK_BYTES])

    try:
        return await storage.CreateAsset(messages())
    except InvalidRequest as error:
        raise _named(error, field) from None


async def resized(storage: "StorageServiceAsyncStub", wanted: Resizing) -> str:
    """
    Return a picture in another size, as a PNG file in base64; nothing is stored.

    Raises:
        InvalidRequest: If storage does not take it; the error names the picture's field.
    """
    content = await content_of(storage, wanted.file)
    steps = wanted.steps or [storage_service_pb2.Resize(factor=1)]
    try:
        for step in steps:
            content = await _resize(storage, step, content)
    except InvalidRequest as error:
        raise _named(error, wanted.file.field) from None
    return (await asyncio.to_thread(base64.b64encode, content)).decode("ascii")


async def _resize(
    storage: "StorageServiceAsyncStub", resize: storage_service_pb2.Resize, content: bytes
) -> bytes:
    async def messages() -> AsyncIterator[storage_service_pb2.ResizeImageRequest]:
        yield storage_service_pb2.ResizeImageRequest(resize=resize)
        for start in range(0, len(content), CHUNK_BYTES):
            yield storage_service_pb2.ResizeImageRequest(chunk=content[start : start + CHUNK_BYTES])

    chunks = [message.chunk async for message in storage.ResizeImage(messages())]
    return b"".join(chunks)


async def convert_mask(
    storage: "StorageServiceAsyncStub", content: bytes, file: InputFile, size: tuple[int, int]
) -> bytes:
    """
    Return a mask in the form that the suite has for masks.

    Args:
        storage: Who decodes it.
        content: The mask as it came.
        file: Where it stood, and how it is meant.
        size: Of the first input image, upright, in pixels.

    Raises:
        InvalidRequest: If it is no such mask; the error names its field.
    """
    rule = file.mask
    assert rule is not None
    wanted = storage_service_pb2.MaskConversion(
        convention=rule.convention, width_px=size[0], height_px=size[1]
    )

    async def messages() -> AsyncIterator[storage_service_pb2.ConvertMaskRequest]:
        yield storage_service_pb2.ConvertMaskRequest(conversion=wanted)
        for start in range(0, len(content), CHUNK_BYTES):
            yield storage_service_pb2.ConvertMaskRequest(chunk=content[start : start + CHUNK_BYTES])

    try:
        return b"".join([message.chunk async for message in storage.ConvertMask(messages())])
    except InvalidRequest as error:
        raise _named(error, file.field) from None


def _named(error: InvalidRequest, field: str) -> InvalidRequest:
    """Make storage's error one of the field in which the image stood."""
    rest = error.message.removeprefix("the mask ")
    message = f"{field} {rest}" if rest != error.message else f"{field}: {error.message}"
    named = invalid(field, message, error.reason)
    named.metadata.update({key: error.metadata[key] for key in error.metadata if key != "field"})
    return named


async def content_of(storage: "StorageServiceAsyncStub", file: InputFile) -> bytes:
    """
    Return an image that came with a request, or that it named by its URL, converted.

    Raises:
        InvalidRequest: If it cannot be had; the error names its field.
    """
    fetched = await fetch(storage, file.url, file.field) if file.url else None
    return await asyncio.to_thread(file.content, fetched)


async def fetch(storage: "StorageServiceAsyncStub", url: str, field: str) -> bytes:
    """
    Return an image that a caller named by its URL; storage is who goes there.

    Raises:
        InvalidRequest: If storage does not fetch it; the error names *field*.
    """
    call = storage.FetchImage(storage_service_pb2.FetchImageRequest(url=url))
    try:
        return b"".join([message.chunk async for message in call])
    except InvalidRequest as error:
        raise _named(error, field) from None
    finally:
        call.cancel()


async def read_base64(storage: "StorageServiceAsyncStub", name: str) -> str:
    """Return the bytes of an asset in base64."""
    chunks = [chunk async for chunk in read(storage, name)]
    encoded = await asyncio.to_thread(base64.b64encode, b"".join(chunks))
    return encoded.decode("ascii")


async def read(
    storage: "StorageServiceAsyncStub", name: str, start: int = 0, length: int | None = None
) -> AsyncIterator[bytes]:
    """Yield bytes of an asset, from *start*, at most *length* of them."""
    call = storage.ReadAsset(
        storage_service_pb2.ReadAssetRequest(name=name, offset_bytes=start, length_bytes=length)
    )
    try:
        async for message in call:
            if message.chunk:
                yield message.chunk
    finally:
        call.cancel()


async def public_response(request: Request, asset_id: str) -> Response:
    """
    Answer with the bytes of a public asset: whole, or the range that was asked for.

    The caller needs no key: an asset's id cannot be guessed. The read goes as the suite.

    Raises:
        NotFound: If there is no such asset, or it is private.
    """
    storage = request.state.suite.storage
    asset: asset_pb2.Asset = await storage.GetAsset(
        storage_service_pb2.GetAssetRequest(name=f"assets/{asset_id}")
    )
    if asset.visibility != asset_pb2.Asset.VISIBILITY_PUBLIC:
        raise NotFound(
            f"no asset {asset_id}",
            reason=reasons.ERROR_REASON_ASSET_NOT_FOUND,
            metadata={"asset": f"assets/{asset_id}"},
        )
    headers = {**_HEADERS, "content-type": asset.media_type, "etag": f'"{asset.sha256}"'}
    known = request.headers.get("if-none-match", "")
    if headers["etag"] in known or known.strip() == "*":
        return Response(status_code=304, headers=headers)
    return await _bytes_response(request, asset, headers)


async def _bytes_response(
    request: Request, asset: asset_pb2.Asset, headers: Mapping[str, str]
) -> Response:
    wanted = _wanted(request, asset)
    if wanted is None:
        size = {"content-range": f"bytes */{asset.size_bytes}"}
        return Response(status_code=416, headers={**headers, **size})
    sent = {**headers, "content-length": str(len(wanted))}
    status = 200
    if len(wanted) != asset.size_bytes:
        status = 206
        last = wanted.stop - 1
        sent["content-range"] = f"bytes {wanted.start}-{last}/{asset.size_bytes}"
    if request.method == "HEAD":
        return Response(status_code=status, headers=sent)
    chunks = read(request.state.suite.storage, asset.name, wanted.start, len(wanted))
    first = await anext(chunks, b"")
    return StreamingResponse(_chain(first, chunks), status, headers=sent)


def _wanted(request: Request, asset: asset_pb2.Asset) -> range | None:
    """Return the bytes that are asked for; None where no such bytes exist."""
    whole = range(asset.size_bytes)
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    # Several ranges at once, or another unit: RFC 9110 permits to answer with the whole.
    if match is None or match[0] == "bytes=-":
        return whole
    if request.headers.get("if-range", f'"{asset.sha256}"') != f'"{asset.sha256}"':
        return whole
    first, last = match[1], match[2]
    if not first:
        return whole[-int(last) :] if int(last) else None
    wanted = whole[int(first) : int(last) + 1 if last else None]
    return wanted or None


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk
