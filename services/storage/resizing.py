"""Images in another size, and masks in the suite's form: made and sent back, and not stored."""

import pathlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from pictor.errors.v1 import error_reason_pb2
from pictor.storage.v1 import mask_convention_pb2, resampling_pb2, storage_service_pb2
from services.rpc.errors import InvalidRequest, invalid
from services.storage.decoding.pool import Decoders
from services.storage.spool import Spool

LIMIT_BYTES = 25 * 1024 * 1024
MOST_FACTOR = 64.0
MOST_BLUR_PX = 1000
# A picture of 8192 x 8192 that does not compress.
MOST_MADE_BYTES = 320 * 1024 * 1024
SENT_BYTES = 256 * 1024
Resampling = resampling_pb2.Resampling
MaskConvention = mask_convention_pb2.MaskConvention


class Resizer:
    """
    Makes images of images.

    Args:
        spool_dir: An existing folder for bytes that arrive.
        decoders: Who looks into images.
    """

    def __init__(self, spool_dir: pathlib.Path, decoders: Decoders) -> None:
        self._spool_dir = spool_dir
        self._decoders = decoders

    async def resize(
        self, wanted: storage_service_pb2.Resize, chunks: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes]:
        """
        Send the image in the wanted size, as a PNG file.

        Raises:
            InvalidRequest: If the size breaks a rule, or the bytes are no image that is taken.
        """
        _check(wanted)
        made = self._made(
            "resize",
            chunks,
            factor=wanted.factor if wanted.HasField("factor") else None,
            size=(wanted.width_px, wanted.height_px),
            crop=wanted.crop,
            fill=wanted.fill,
            flatten=wanted.flatten,
            resampling=Resampling.Name(
                wanted.resampling or Resampling.RESAMPLING_LANCZOS
            ).removeprefix("RESAMPLING_"),
        )
        async for chunk in made:
            yield chunk

    async def convert(
        self, wanted: storage_service_pb2.MaskConversion, chunks: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes]:
        """
        Send a mask in canonical form, as a PNG file of one channel.

        Raises:
            InvalidRequest: If the order or the mask breaks a rule, or nothing is repainted.
        """
        _check_conversion(wanted)
        size = (wanted.width_px, wanted.height_px)
        made = self._made(
            "mask",
            chunks,
            convention=MaskConvention.Name(wanted.convention).removeprefix("MASK_CONVENTION_"),
            size=size if min(size) > 0 else None,
            invert=wanted.invert,
            blur=(wanted.blur_x_px, wanted.blur_y_px),
            crop=wanted.crop,
            fill=wanted.fill,
        )
        async for chunk in made:
            yield chunk

    async def _made(
        self, operation: str, chunks: AsyncIterator[bytes], **arguments: Any
    ) -> AsyncGenerator[bytes]:
        with (
            Spool(self._spool_dir, LIMIT_BYTES) as source,
            Spool(self._spool_dir, MOST_MADE_BYTES) as target,
        ):
            async for chunk in chunks:
                await source.write(chunk)
            await self._decoders.run(operation, [source, target], **arguments)
            async for chunk in target.chunks(SENT_BYTES):
                yield chunk


def _check(wanted: storage_service_pb2.Resize) -> None:
    if wanted.resampling not in Resampling.values():
        raise invalid("resize.resampling", f"resampling {wanted.resampling} is none of the enum's")
    if wanted.HasField("factor"):
        if not 0 < wanted.factor <= MOST_FACTOR:
            description = f"factor {wanted.factor:g} is outside 0 to 64"
            raise _out_of_range("resize.factor", description)
        if wanted.fill:
            raise invalid("resize.fill", "fill comes with width_px and height_px, not with factor")
        return
    _check_size("resize", wanted)


def _check_conversion(wanted: storage_service_pb2.MaskConversion) -> None:
    if wanted.convention not in MaskConvention.values() or not wanted.convention:
        raise invalid(
            "conversion.convention",
            f"conversion.convention {wanted.convention} is unknown; give 1 to 5",
        )
    for side in ("blur_x_px", "blur_y_px"):
        blur = getattr(wanted, side)
        if not 0 <= blur <= MOST_BLUR_PX:
            description = f"{side} {blur} is outside 0 to {MOST_BLUR_PX}"
            raise _out_of_range(f"conversion.{side}", description)
    if wanted.crop or wanted.fill:
        _check_size("conversion", wanted)


def _check_size(
    place: str, wanted: storage_service_pb2.Resize | storage_service_pb2.MaskConversion
) -> None:
    for side in ("width_px", "height_px"):
        if getattr(wanted, side) < 1:
            description = f"{side} {getattr(wanted, side)} is below 1"
            raise _out_of_range(f"{place}.{side}", description)
    if wanted.crop and wanted.fill:
        raise invalid(f"{place}.fill", "crop and fill exclude each other; give one of them")


def _out_of_range(field: str, description: str) -> InvalidRequest:
    return invalid(field, description, error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE)
