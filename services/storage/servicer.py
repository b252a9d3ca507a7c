"""StorageService over gRPC."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import empty_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from grpc.aio import ServicerContext

from pictor.errors.v1 import error_reason_pb2
from pictor.storage.v1 import (
    asset_pb2,
    asset_url_pb2,
    image_description_pb2,
    storage_service_pb2,
    storage_service_pb2_grpc,
)
from services.rpc.errors import SuiteError, invalid
from services.storage.assets import Assets
from services.storage.describing import Describer
from services.storage.remote import RemoteImages
from services.storage.resizing import Resizer
from services.storage.sharing import SharedAssets
from services.storage.thumbnails import Thumbnails

Context = ServicerContext[Any, Any]
UPLOAD_CHUNK_BYTES = 1024 * 1024
# How much of a refused upload is still taken, and thrown away.
IGNORED_BYTES = 64 * 1024 * 1024
IGNORED_SECONDS = 2.0


class StorageServicer(storage_service_pb2_grpc.StorageServiceServicer):
    """
    Turns messages into calls of the domain and back.

    Args:
        assets: The assets of the suite.
        remote: Images that lie elsewhere.
        resizer: Makes images of other sizes.
        thumbnails: Makes small images.
        shared: Opens assets by URL.
        describer: Tells what images are.
    """

    def __init__(
        self,
        assets: Assets,
        remote: RemoteImages,
        resizer: Resizer,
        thumbnails: Thumbnails,
        shared: SharedAssets,
        *,
        describer: Describer,
    ) -> None:
        self._assets = assets
        self._remote = remote
        self._resizer = resizer
        self._describer = describer
        self._thumbnails = thumbnails
        self._shared = shared
        self._base_url = shared.base_url

    async def CreateAsset(
        self,
        request_iterator: AsyncIterator[storage_service_pb2.CreateAssetRequest],
        context: Context,
    ) -> asset_pb2.Asset:
        """Store an image, or only check it."""
        async with _read_to_its_end(request_iterator):
            first = await anext(request_iterator, storage_service_pb2.CreateAssetRequest())
            wanted = _metadata(first)
            chunks = _pieces(request_iterator, "asset")
            if not first.validate_only:
                return (await self._assets.create(wanted, chunks)).to_message(self._base_url)
            return _without_name(
                (await self._assets.validate(wanted, chunks)).to_message(self._base_url)
            )

    async def GetAsset(
        self, request: storage_service_pb2.GetAssetRequest, context: Context
    ) -> asset_pb2.Asset:
        """Read an asset's metadata."""
        return (await self._assets.get(request.name)).to_message(self._base_url)

    async def ReadAsset(
        self, request: storage_service_pb2.ReadAssetRequest, context: Context
    ) -> AsyncIterator[storage_service_pb2.ReadAssetResponse]:
        """Send an asset's metadata, then its bytes."""
        length = request.length_bytes if request.HasField("length_bytes") else None
        span = (request.offset_bytes, length)
        if request.thumbnail_width_px:
            width = request.thumbnail_width_px
            asset, chunks = await self._thumbnails.read(request.name, width, *span)
        else:
            asset, chunks = await self._assets.read(request.name, *span)
        yield storage_service_pb2.ReadAssetResponse(asset=asset.to_message(self._base_url))
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                yield storage_service_pb2.ReadAssetResponse(chunk=chunk)

    async def ListAssets(
        self, request: storage_service_pb2.ListAssetsRequest, context: Context
    ) -> storage_service_pb2.ListAssetsResponse:
        """List the caller's assets, newest first."""
        page = await self._assets.page(request.page_size, request.page_token)
        return storage_service_pb2.ListAssetsResponse(
            assets=[asset.to_message(self._base_url) for asset in page.assets],
            next_page_token=page.next_page_token,
        )

    async def DeleteAsset(
        self, request: storage_service_pb2.DeleteAssetRequest, context: Context
    ) -> empty_pb2.Empty:
        """Delete an asset and its bytes."""
        await self._assets.delete(request.name)
        await self._thumbnails.forget(request.name)
        return empty_pb2.Empty()

    async def SignAssetUrl(
        self, request: asset_url_pb2.SignAssetUrlRequest, context: Context
    ) -> asset_url_pb2.SignAssetUrlResponse:
        """Make a URL that opens an asset for a time."""
        ttl = request.ttl.seconds + request.ttl.nanos / 1e9 if request.HasField("ttl") else None
        url, expires = await self._shared.sign(request.name, ttl)
        return asset_url_pb2.SignAssetUrlResponse(url=url, expire_time=Timestamp(seconds=expires))

    async def ResolveAsset(
        self, request: asset_url_pb2.ResolveAssetRequest, context: Context
    ) -> asset_url_pb2.ResolveAssetResponse:
        """Tell the gateway what it may serve."""
        asset, location = await self._shared.resolve(
            request.name, request.method, request.expires, request.signature
        )
        return asset_url_pb2.ResolveAssetResponse(
            asset=asset.to_message(self._base_url), location=location
        )

    async def FetchImage(
        self, request: storage_service_pb2.FetchImageRequest, context: Context
    ) -> AsyncIterator[storage_service_pb2.FetchImageResponse]:
        """Send the bytes of an image that lies elsewhere."""
        async with contextlib.aclosing(self._remote.fetch(request.url)) as chunks:
            async for chunk in chunks:
                yield storage_service_pb2.FetchImageResponse(chunk=chunk)

    async def ResizeImage(
        self,
        request_iterator: AsyncIterator[storage_service_pb2.ResizeImageRequest],
        context: Context,
    ) -> AsyncIterator[storage_service_pb2.ResizeImageResponse]:
        """Send an image back in another size."""
        async with _read_to_its_end(request_iterator):
            first = await anext(request_iterator, storage_service_pb2.ResizeImageRequest())
            made = self._resizer.resize(first.resize, _pieces(request_iterator, "resize"))
            async with contextlib.aclosing(made):
                async for chunk in made:
                    yield storage_service_pb2.ResizeImageResponse(chunk=chunk)

    async def ConvertMask(
        self,
        request_iterator: AsyncIterator[storage_service_pb2.ConvertMaskRequest],
        context: Context,
    ) -> AsyncIterator[storage_service_pb2.ConvertMaskResponse]:
        """Send a mask back in the suite's form."""
        async with _read_to_its_end(request_iterator):
            first = await anext(request_iterator, storage_service_pb2.ConvertMaskRequest())
            pieces = _pieces(request_iterator, "conversion")
            made = self._resizer.convert(first.conversion, pieces)
            async with contextlib.aclosing(made):
                async for chunk in made:
                    yield storage_service_pb2.ConvertMaskResponse(chunk=chunk)

    async def DescribeImage(
        self,
        request_iterator: AsyncIterator[image_description_pb2.DescribeImageRequest],
        context: Context,
    ) -> image_description_pb2.DescribeImageResponse:
        """Tell what an image is and what its file says."""
        async with _read_to_its_end(request_iterator):
            first = await anext(request_iterator, image_description_pb2.DescribeImageRequest())
            chunks = _chunks(first, request_iterator)
            return await self._describer.describe(chunks, header_only=first.header_only)


@contextlib.asynccontextmanager
async def _read_to_its_end(
    requests: AsyncIterator[Any],
) -> AsyncIterator[None]:
    """
    Before an upload is refused, let the client send the rest of it, within limits.

    A client of grpc.aio that is refused while it writes loses the status: it sees INTERNAL,
    "Internal error from Core", instead of the reason.
    """
    try:
        yield
    except SuiteError:
        left = IGNORED_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IGNORED_SECONDS):
                while left > 0 and (request := await anext(requests, None)):
                    left -= len(request.chunk)
        raise


def _metadata(first: storage_service_pb2.CreateAssetRequest) -> asset_pb2.Asset:
    if first.WhichOneof("content") != "asset":
        raise invalid(
            "asset",
            "the first message holds no metadata; send asset, then chunks",
            error_reason_pb2.ERROR_REASON_FIELD_REQUIRED,
        )
    return first.asset


def _without_name(asset: asset_pb2.Asset) -> asset_pb2.Asset:
    for field in ("name", "url", "create_time"):
        asset.ClearField(field)
    return asset


async def _pieces(requests: AsyncIterator[Any], first: str) -> AsyncIterator[bytes]:
    """Yield the bytes behind the first message, whose field is not to come again."""
    async for request in requests:
        if request.WhichOneof("content") == first:
            raise invalid(first, f"{first} came twice; only the first message holds it")
        yield _checked(request.chunk)


async def _chunks(first: Any, rest: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    """Yield the bytes of messages that hold nothing else."""
    yield _checked(first.chunk)
    async for request in rest:
        yield _checked(request.chunk)


def _checked(chunk: bytes) -> bytes:
    if len(chunk) > UPLOAD_CHUNK_BYTES:
        raise invalid(
            "chunk",
            f"a chunk has {len(chunk)} bytes; at most {UPLOAD_CHUNK_BYTES} are taken",
            error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE,
        )
    return chunk
