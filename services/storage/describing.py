"""What images are and say of themselves: told, and not stored."""

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator

from pictor.storage.v1 import image_description_pb2
from services.rpc.errors import Internal
from services.storage.decoding.images import Picture
from services.storage.decoding.pool import Decoders
from services.storage.resizing import LIMIT_BYTES
from services.storage.spool import Spool

# The texts of a child that keeps its own bounds, each character escaped.
MOST_WRITTEN_BYTES = 8 * 1024 * 1024


class Describer:
    """
    Tells what images are.

    Args:
        spool_dir: An existing folder for bytes that arrive.
        decoders: Who looks into images.
    """

    def __init__(self, spool_dir: pathlib.Path, decoders: Decoders) -> None:
        self._spool_dir = spool_dir
        self._decoders = decoders

    async def describe(
        self, chunks: AsyncIterator[bytes], *, header_only: bool = False
    ) -> image_description_pb2.DescribeImageResponse:
        """
        Tell what an image is, and the texts in its file.

        Args:
            chunks: The file.
            header_only: The pixels may be missing or damaged.

        Raises:
            InvalidRequest: If the bytes are no image that is taken.
        """
        with (
            Spool(self._spool_dir, LIMIT_BYTES) as source,
            Spool(self._spool_dir, MOST_WRITTEN_BYTES) as target,
        ):
            async for chunk in chunks:
                await source.write(chunk)
            files = [source, target]
            found = await self._decoders.run("describe", files, header_only=header_only)
            written = await _whole(target)
        return await asyncio.to_thread(_response, Picture(*found), written)


async def _whole(spool: Spool) -> bytes:
    written = b""
    async for chunk in spool.chunks():
        written += chunk
        if len(written) > MOST_WRITTEN_BYTES:
            raise Internal("an image's texts are longer than they can be")
    return written


def _response(picture: Picture, written: bytes) -> image_description_pb2.DescribeImageResponse:
    found = json.loads(written)
    return image_description_pb2.DescribeImageResponse(
        media_type=picture.media_type,
        width_px=picture.width_px,
        height_px=picture.height_px,
        texts=[
            image_description_pb2.ImageText(name=name, text=text) for name, text in found["texts"]
        ],
        user_comment=found["user_comment"],
    )
