"""Reads a generation's input images from storage."""

import asyncio
import io
from dataclasses import dataclass

from PIL import Image, ImageOps

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2
from pictor.inference.v1 import generation_pb2
from pictor.storage.v1 import storage_service_pb2, storage_service_pb2_grpc
from services.rpc.errors import InvalidRequest, invalid
from services.rpc.patience import outlast

UNCHANGING = (model_pb2.OPERATION_TEXT_TO_IMAGE, model_pb2.OPERATION_EDIT)


@dataclass(frozen=True)
class Inputs:
    """
    The pictures that a drawing starts from.

    Attributes:
        image: The picture to change, RGB; None where there is none.
        mask: One channel, 255 is repainted; None where there is none.
        references: The pictures that the prompt speaks of, RGB.
    """

    image: Image.Image | None = None
    mask: Image.Image | None = None
    references: tuple[Image.Image, ...] = ()


async def read_inputs(
    storage: "storage_service_pb2_grpc.StorageServiceAsyncStub",
    generation: generation_pb2.Generation,
) -> Inputs:
    """
    Read and decode a generation's images.

    Raises:
        NotFound: With ASSET_NOT_FOUND.
        InvalidRequest: With INPUT_IMAGE_INVALID, if the bytes are not an image.
    """
    pictures = [
        await _read(storage, given.asset, "RGB", "generation.input_images")
        for given in generation.input_images
    ]
    first = _first(generation)
    references = tuple(picture for index, picture in enumerate(pictures) if index != first)
    mask = None
    if generation.mask:
        mask = await _read(storage, generation.mask, "L", "generation.mask")
    return Inputs(None if first is None else pictures[first], mask, references)


def _first(generation: generation_pb2.Generation) -> int | None:
    """Find the picture to change, if one is changed and not just looked at."""
    if generation.operation in UNCHANGING or not generation.input_images:
        return None
    roles = [given.role for given in generation.input_images]
    changed = (
        k for k, role in enumerate(roles) if role != generation_pb2.InputImage.ROLE_REFERENCE
    )
    return next(changed, 0)


async def _read(
    storage: "storage_service_pb2_grpc.StorageServiceAsyncStub", asset: str, mode: str, field: str
) -> Image.Image:
    request = storage_service_pb2.ReadAssetRequest(name=asset)

    async def content() -> bytes:
        return b"".join([message.chunk async for message in storage.ReadAsset(request)])

    return await asyncio.to_thread(_decoded, await outlast(content), mode, field)


def _decoded(content: bytes, mode: str, field: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(content)) as file:
            return ImageOps.exif_transpose(file).convert(mode)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise _not_an_image(field) from error


def _not_an_image(field: str) -> InvalidRequest:
    return invalid(
        field,
        "the input image cannot be decoded; PNG, JPEG and WEBP can",
        error_reason_pb2.ERROR_REASON_INPUT_IMAGE_INVALID,
    )
