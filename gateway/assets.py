"""Assets through the gateway: public ones by URL, results in base64, uploads into storage."""

import asyncio
import base64
import contextlib
import os
import pathlib
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.dialect import Resizing
from gateway.images import InputFile
from pictor.storage.v1 import (
    asset_pb2,
    asset_url_pb2,
    image_description_pb2,
    storage_service_pb2,
)
from services.rpc.errors import InvalidRequest, invalid

if TYPE_CHECKING:
    from pictor.storage.v1.storage_service_pb2_grpc import StorageServiceAsyncStub

M = TypeVar(
    "M",
    storage_service_pb2.CreateAssetRequest,
    storage_service_pb2.ResizeImageRequest,
    storage_service_pb2.ConvertMaskRequest,
    image_description_pb2.DescribeImageRequest,
)

CHUNK_BYTES = 256 * 1024
# Nobody who downloads has more of them; RFC 9110 lets a server refuse.
MOST_RANGES = 16
# In base64, a multiple of 4.
_HEAD_CHARACTERS = 128 * 1024
LONGEST_CACHED_SECONDS = 365 * 24 * 3600
_FILE = "file://"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_HEADERS = {
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
    asset = asset_pb2.Asset(origin=asset_pb2.Asset.ORIGIN_UPLOADED)
    first = storage_service_pb2.CreateAssetRequest(asset=asset, validate_only=validate_only)
    try:
        return await storage.CreateAsset(_messages(first, content))
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
    first = storage_service_pb2.ResizeImageRequest(resize=resize)
    call = storage.ResizeImage(_messages(first, content))
    return b"".join([message.chunk async for message in call])


async def resize(storage: "StorageServiceAsyncStub", content: bytes, file: InputFile) -> bytes:
    """
    Return an image in the size that its file asks for, as PNG.

    Raises:
        InvalidRequest: If storage does not take it; the error names its field.
    """
    assert file.resize is not None
    try:
        return await _resize(storage, file.resize, content)
    except InvalidRequest as error:
        raise _named(error, file.field) from None


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
    wanted = rule.conversion or storage_service_pb2.MaskConversion(
        convention=rule.convention, width_px=size[0], height_px=size[1]
    )
    first = storage_service_pb2.ConvertMaskRequest(conversion=wanted)
    try:
        call = storage.ConvertMask(_messages(first, content))
        return b"".join([message.chunk async for message in call])
    except InvalidRequest as error:
        raise _named(error, file.field) from None


async def described(
    storage: "StorageServiceAsyncStub", file: InputFile
) -> image_description_pb2.DescribeImageResponse:
    """
    Return what an image is that came with a request, and what its file says.

    Raises:
        InvalidRequest: If it cannot be had, or is no image; the error names its field.
    """
    content = await content_of(storage, file)
    try:
        return await _describe(storage, content)
    except InvalidRequest as error:
        raise _named(error, file.field) from None


async def said(
    storage: "StorageServiceAsyncStub", encoded: str
) -> image_description_pb2.DescribeImageResponse:
    """Return what a drawn picture in base64 says of itself; nothing where that cannot be read."""
    # In most files it stands at the beginning.
    for part in dict.fromkeys((encoded[:_HEAD_CHARACTERS], encoded)):
        content = await asyncio.to_thread(base64.b64decode, part)
        with contextlib.suppress(InvalidRequest):
            found = await _describe(storage, content, header_only=True)
            if found.texts or found.user_comment:
                return found
    return image_description_pb2.DescribeImageResponse()


async def _describe(
    storage: "StorageServiceAsyncStub", content: bytes, *, header_only: bool = False
) -> image_description_pb2.DescribeImageResponse:
    first = image_description_pb2.DescribeImageRequest(header_only=header_only)
    return await storage.DescribeImage(_messages(first, content))


async def _messages(first: M, content: bytes) -> AsyncIterator[M]:
    """Yield what a stream of bytes begins with, and then the bytes."""
    yield first
    for start in range(0, len(content), CHUNK_BYTES):
        yield type(first)(chunk=content[start : start + CHUNK_BYTES])


def _named(error: InvalidRequest, field: str) -> InvalidRequest:
    """Make storage's error one of the field in which the image stood."""
    rest = error.message.removeprefix("the mask ")
    message = f"{field} {rest}" if rest != error.message else f"{field}: {error.message}"
    named = invalid(field, message, error.reason)
    named.metadata.update({key: error.metadata[key] for key in error.metadata if key != "field"})
    return named


async def content_of(storage: "StorageServiceAsyncStub", file: InputFile) -> bytes:
    """
    Return an image that came with a request, or that it named by its URL.

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


async def read(storage: "StorageServiceAsyncStub", name: str) -> AsyncIterator[bytes]:
    """Yield the bytes of an asset."""
    async for chunk in _chunks(storage, storage_service_pb2.ReadAssetRequest(name=name)):
        yield chunk


async def _chunks(
    storage: "StorageServiceAsyncStub", wanted: storage_service_pb2.ReadAssetRequest
) -> AsyncIterator[bytes]:
    call = storage.ReadAsset(wanted)
    try:
        async for message in call:
            if message.chunk:
                yield message.chunk
    finally:
        call.cancel()


async def public_response(request: Request, asset_id: str) -> Response:
    """
    Answer with the bytes of an asset: whole, a range that was asked for, or a thumbnail.

    The caller needs no key: an asset's id cannot be guessed, and the URL of a private one is
    signed. The read goes as the suite.

    Raises:
        NotFound: If there is no such asset, it has expired, or it is private.
        PermissionDenied: If the URL is signed, but not by this suite for this asset.
        InvalidRequest: If there are no thumbnails of the width that the URL asks for.
    """
    storage = request.state.suite.storage
    found: asset_url_pb2.ResolveAssetResponse = await storage.ResolveAsset(
        asset_url_pb2.ResolveAssetRequest(
            name=f"assets/{asset_id}",
            method=request.method,
            expires=request.query_params.get("expires", ""),
            signature=request.query_params.get("signature", ""),
        )
    )
    width_px = _thumbnail_width(request)
    headers = {**_HEADERS, "cache-control": _cache_control(request, found.asset)}
    is_file = found.location.startswith(_FILE)
    is_elsewhere = found.location and not is_file
    # The back end's URL is signed for GET.
    if is_elsewhere and not width_px and request.method == "GET":
        # What is stored for longer than the location is good would lead nowhere.
        there = {**headers, "cache-control": "private, no-store", "location": found.location}
        return Response(status_code=302, headers=there)
    read_request = storage_service_pb2.ReadAssetRequest(
        name=found.asset.name, thumbnail_width_px=width_px
    )
    asset = await _small(storage, read_request) if width_px else found.asset
    headers |= {"content-type": asset.media_type, "etag": f'"{asset.sha256}"'}
    known = request.headers.get("if-none-match", "")
    if headers["etag"] in known or known.strip() == "*":
        return Response(status_code=304, headers=headers)
    path = unquote(found.location.removeprefix(_FILE)) if is_file and not width_px else ""
    return await _bytes_response(request, asset, read_request, headers, path)


def _thumbnail_width(request: Request) -> int:
    text = request.query_params.get("width", "")
    if text and not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise invalid("width", f"width {text[:20]!r} is not a whole number of pixels")
    return int(text or 0)


def _cache_control(request: Request, asset: asset_pb2.Asset) -> str:
    """Permit to keep the bytes, which never change, as long as they may be had."""
    ends = [asset.expire_time.seconds] if asset.HasField("expire_time") else []
    expires = request.query_params.get("expires", "")
    if expires:
        ends.append(int(expires))
    seconds = min([LONGEST_CACHED_SECONDS, *(max(0, end - int(time.time())) for end in ends)])
    return f"{'private' if expires else 'public'}, max-age={seconds}, immutable"


async def _small(
    storage: "StorageServiceAsyncStub", wanted: storage_service_pb2.ReadAssetRequest
) -> asset_pb2.Asset:
    try:
        return await _head_of(storage, wanted)
    except InvalidRequest as error:
        message = error.message.replace("thumbnail_width_px", "width")
        raise invalid("width", message, error.reason) from None


async def _head_of(
    storage: "StorageServiceAsyncStub", wanted: storage_service_pb2.ReadAssetRequest
) -> asset_pb2.Asset:
    """Ask what would be read; a thumbnail is made by that, if it is not there yet."""
    head = storage_service_pb2.ReadAssetRequest()
    head.CopyFrom(wanted)
    head.length_bytes = 0
    call = storage.ReadAsset(head)
    try:
        return (await anext(aiter(call))).asset
    finally:
        call.cancel()


async def _bytes_response(
    request: Request,
    asset: asset_pb2.Asset,
    read_request: storage_service_pb2.ReadAssetRequest,
    headers: Mapping[str, str],
    path: str,
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
    file = await asyncio.to_thread(_shared, path, asset.size_bytes, wanted.start) if path else None
    if file:
        return StreamingResponse(_of_file(file, len(wanted)), status, headers=sent)
    read_request.offset_bytes = wanted.start
    read_request.length_bytes = len(wanted)
    chunks = _chunks(request.state.suite.storage, read_request)
    first = await anext(chunks, b"")
    return StreamingResponse(_chain(first, chunks), status, headers=sent)


def _shared(path: str, size_bytes: int, offset: int) -> BinaryIO | None:
    """Open the file of an asset at an offset; None where storage's disk is not the gateway's."""
    try:
        file = pathlib.Path(path).open("rb")  # noqa: SIM115 - who sends it closes it
    except OSError:
        return None
    if os.fstat(file.fileno()).st_size != size_bytes:
        # Storage says what is wrong with it.
        file.close()
        return None
    file.seek(offset)
    return file


async def _of_file(file: BinaryIO, length: int) -> AsyncIterator[bytes]:
    with file:
        while length and (chunk := await asyncio.to_thread(file.read, min(CHUNK_BYTES, length))):
            length -= len(chunk)
            yield chunk


def _wanted(request: Request, asset: asset_pb2.Asset) -> range | None:
    """Return the bytes that are asked for; None where no such bytes exist, or far too many."""
    whole = range(asset.size_bytes)
    asked = request.headers.get("range", "").strip()
    if asked.count(",") >= MOST_RANGES:
        return None
    match = _RANGE.fullmatch(asked)
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
