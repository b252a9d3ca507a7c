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
            InvalidRequest: If it breaks its convention, or repaints nothing.
        """
        if wanted.convention not in MaskConvention.values() or not wanted.convention:
            raise invalid(
                "conversion.convention",
                f"conversion.convention {wanted.convention} is unknown; give 1, 2 or 3",
            )
        size = (wanted.width_px, wanted.height_px)
        name = MaskConvention.Name(wanted.convention).removeprefix("MASK_CONVENTION_")
        made = self._made("mask", chunks, convention=name, size=size if min(size) > 0 else None)
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
            raise _out_of_range("factor", f"factor {wanted.factor:g} is outside 0 to 64")
        return
    for side in ("width_px", "height_px"):
        if getattr(wanted, side) < 1:
            raise _out_of_range(side, f"{side} {getattr(wanted, side)} is below 1")


def _out_of_range(field: str, description: str) -> InvalidRequest:
    return invalid(f"resize.{field}", description, error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE)
