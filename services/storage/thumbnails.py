"""
Small images of assets, made when they are first asked for and kept on disk.

They are made of what is stored, so they may be lost at any time; a sweep removes old ones.
"""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import secrets
import time
from collections.abc import AsyncGenerator

from pictor.errors.v1 import error_reason_pb2
from services.rpc.errors import invalid
from services.storage.asset import Asset, asset_id
from services.storage.assets import Assets
from services.storage.decoding.pool import Decoders
from services.storage.spool import Spool

WIDTHS_PX = (64, 128, 256, 512, 1024)
MOST_BYTES = 4 * 1024 * 1024
KEPT_SECONDS = 7 * 24 * 3600.0
SWEEP_SECONDS = 3600.0


class Thumbnails:
    """
    Makes small images.

    Args:
        assets: Of what.
        decoders: Who makes them.
        folder: An existing folder for those that are made.
        spool_dir: An existing folder for bytes on their way.
    """

    def __init__(
        self, assets: Assets, decoders: Decoders, folder: pathlib.Path, spool_dir: pathlib.Path
    ) -> None:
        self._assets = assets
        self._decoders = decoders
        self._folder = folder
        self._spool_dir = spool_dir

    async def read(
        self, name: str, width_px: int, offset: int, length: int | None
    ) -> tuple[Asset, AsyncGenerator[bytes]]:
        """
        Find the small image of an asset; what is returned describes that one.

        Raises:
            InvalidRequest: If there are no small images of this width.
            NotFound: As reading the asset itself does.
        """
        if width_px not in WIDTHS_PX:
            widths = ", ".join(map(str, WIDTHS_PX))
            raise invalid(
                "thumbnail_width_px",
                f"thumbnail_width_px {width_px} is none of {widths}",
                error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE,
            )
        asset, chunks = await self._assets.read(name, 0, None)
        path = self._folder / f"{asset.id}.{width_px}"
        content = await asyncio.to_thread(_content, path)
        if content is None:
            content = await self._made(path, chunks, asset.size_bytes, width_px)
        await chunks.aclose()
        head, _, body = content.partition(b"\n")
        small_width, small_height, sha256 = head.decode("ascii").split()
        small = dataclasses.replace(
            asset,
            media_type="image/webp",
            size_bytes=len(body),
            sha256=sha256,
            width_px=int(small_width),
            height_px=int(small_height),
        )
        end = None if length is None else offset + length
        return small, _sent(body[offset:end])

    async def forget(self, name: str) -> None:
        """Remove the small images of an asset that was deleted."""
        for width_px in WIDTHS_PX:
            path = self._folder / f"{asset_id(name)}.{width_px}"
            await asyncio.to_thread(path.unlink, missing_ok=True)

    async def sweep_forever(self) -> None:
        """Remove what was made long ago, now and every hour."""
        while True:
            await asyncio.to_thread(_remove_old, self._folder)
            await asyncio.sleep(SWEEP_SECONDS)

    async def _made(
        self, path: pathlib.Path, chunks: AsyncGenerator[bytes], size_bytes: int, width_px: int
    ) -> bytes:
        with (
            Spool(self._spool_dir, size_bytes) as source,
            Spool(self._spool_dir, MOST_BYTES) as target,
        ):
            async for chunk in chunks:
                await source.write(chunk)
            width, height = await self._decoders.run(
                "thumbnail", [source, target], width_px=width_px
            )
            await target.measure()
            body = b"".join([chunk async for chunk in target.chunks()])
            content = f"{width} {height} {target.sha256}\n".encode() + body
        # Whether it is kept is no matter of the caller's.
        with contextlib.suppress(OSError):
            await asyncio.to_thread(_keep, path, content)
        return content


async def _sent(body: bytes) -> AsyncGenerator[bytes]:
    if body:
        yield body


def _content(path: pathlib.Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _keep(path: pathlib.Path, content: bytes) -> None:
    aside = path.with_name(f".{secrets.token_hex(8)}")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _remove_old(folder: pathlib.Path) -> None:
    latest = time.time() - KEPT_SECONDS
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.stat().st_mtime < latest:
                    pathlib.Path(entry).unlink()
