"""Images in another size: decoded, resampled and written as PNG, without being stored."""

import asyncio
import io
import pathlib
from collections.abc import AsyncIterator
from typing import IO

from PIL import Image, ImageOps, PngImagePlugin

from pictor.errors.v1 import error_reason_pb2
from pictor.storage.v1 import resampling_pb2, storage_service_pb2
from services.rpc.errors import InvalidRequest, invalid
from services.storage.images import MOST_PIXELS
from services.storage.spool import Spool

LIMIT_BYTES = 25 * 1024 * 1024
MOST_FACTOR = 64.0
# What an AUTOMATIC1111 picture says of itself; it is as true of the larger one.
KEPT_TEXT = "parameters"
FILTERS = {
    resampling_pb2.RESAMPLING_UNSPECIFIED: Image.Resampling.LANCZOS,
    resampling_pb2.RESAMPLING_LANCZOS: Image.Resampling.LANCZOS,
    resampling_pb2.RESAMPLING_NEAREST: Image.Resampling.NEAREST,
    resampling_pb2.RESAMPLING_BILINEAR: Image.Resampling.BILINEAR,
    resampling_pb2.RESAMPLING_BICUBIC: Image.Resampling.BICUBIC,
}


class Resizer:
    """
    Resizes images, few at a time.

    Args:
        spool_dir: An existing folder for bytes that arrive.
        at_once: How many images are decoded at the same moment.
    """

    def __init__(self, spool_dir: pathlib.Path, at_once: int = 2) -> None:
        self._spool_dir = spool_dir
        self._decoding = asyncio.Semaphore(at_once)

    async def resize(
        self, wanted: storage_service_pb2.Resize, chunks: AsyncIterator[bytes]
    ) -> bytes:
        """
        Return the image in the wanted size, as a PNG file.

        Raises:
            InvalidRequest: If the size breaks a rule, or the bytes are no image that is taken.
        """
        _check(wanted)
        with await asyncio.to_thread(Spool, self._spool_dir, LIMIT_BYTES) as spool:
            async for chunk in chunks:
                await spool.write(chunk)
            async with self._decoding:
                picture = await spool.picture()
                _size(wanted, picture.width_px, picture.height_px)
                return await asyncio.to_thread(_resized, spool.file, wanted)


def _check(wanted: storage_service_pb2.Resize) -> None:
    if wanted.resampling not in FILTERS:
        raise invalid("resize.resampling", f"resampling {wanted.resampling} is none of the enum's")
    if wanted.HasField("factor"):
        if not 0 < wanted.factor <= MOST_FACTOR:
            raise _out_of_range("factor", f"factor {wanted.factor:g} is outside 0 to 64")
        return
    for side in ("width_px", "height_px"):
        if getattr(wanted, side) < 1:
            raise _out_of_range(side, f"{side} {getattr(wanted, side)} is below 1")


def _size(wanted: storage_service_pb2.Resize, width: int, height: int) -> tuple[int, int]:
    """Return the size to which the whole image is scaled; what is over is cut off later."""
    factor = wanted.factor
    if not wanted.HasField("factor"):
        ratios = (wanted.width_px / width, wanted.height_px / height)
        factor = max(ratios) if wanted.crop else min(ratios)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if size[0] * size[1] > MOST_PIXELS:
        name = "factor" if wanted.HasField("factor") else "width_px"
        raise _out_of_range(
            name,
            f"the result would have {size[0]} x {size[1]} pixels; at most {MOST_PIXELS} may be",
        )
    return size


def _resized(file: IO[bytes], wanted: storage_service_pb2.Resize) -> bytes:
    file.seek(0)
    with Image.open(file) as opened:
        text = opened.info.get(KEPT_TEXT)
        image = ImageOps.exif_transpose(opened)
        mode = "RGBA" if image.has_transparency_data else "RGB"
        # A camera's note may have turned it: then its sides are the other way round.
        size = _size(wanted, *image.size)
        result = image.convert(mode).resize(size, FILTERS[wanted.resampling])
    if wanted.crop and not wanted.HasField("factor"):
        left = (result.width - wanted.width_px) // 2
        top = (result.height - wanted.height_px) // 2
        result = result.crop((left, top, left + wanted.width_px, top + wanted.height_px))
    info = PngImagePlugin.PngInfo()
    if isinstance(text, str):
        info.add_text(KEPT_TEXT, text)
    written = io.BytesIO()
    result.save(written, "PNG", pnginfo=info, compress_level=1)
    return written.getvalue()


def _out_of_range(field: str, description: str) -> InvalidRequest:
    return invalid(f"resize.{field}", description, error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE)
