"""
What can be done with assets.

Bytes come before rows and go after them: a row always has its bytes, and bytes without a row are
swept away. An asset that does not belong to the caller does not exist for it; the suite on its own
behalf sees all, which is how the gateway serves public assets.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import pathlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import NamedTuple

import stamina
import structlog

from pictor.errors.v1 import error_reason_pb2
from pictor.storage.v1 import asset_pb2
from services.paging import next_token, page_size, position
from services.rpc.crash import crash_point
from services.rpc.errors import Internal, InvalidRequest, invalid
from services.rpc.principals import caller
from services.storage.asset import (
    Asset,
    Origin,
    Wish,
    asset_expired,
    asset_id,
    asset_missing,
    checked_wish,
)
from services.storage.backend import (
    BackendError,
    BackendUnavailable,
    KeyTaken,
    StorageBackend,
)
from services.storage.decoding.images import Picture
from services.storage.decoding.pool import Decoders
from services.storage.spool import Spool
from services.storage.store import Store
from services.timestamps import MICROSECONDS, now

LIMIT_BYTES = {
    Origin.ORIGIN_UPLOADED: 25 * 1024 * 1024,
    Origin.ORIGIN_GENERATED: 128 * 1024 * 1024,
}
# Half of it is longer than any upload takes, from its first byte to its row.
COLLECT_SECONDS = 3600.0
SWEPT_AT_ONCE = 500
# How long an image waits on disk for a back end that does not answer.
PATIENCE_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0

log = structlog.get_logger()


class AssetPage(NamedTuple):
    """Assets, newest first, and the token of the page behind them; empty after the last."""

    assets: list[Asset]
    next_page_token: str


class Assets:
    """
    The assets of a suite.

    Args:
        store: Where their metadata is kept.
        backend: Where their bytes are kept.
        decoders: Who looks into images.
        spool_dir: An existing folder for bytes that arrive.
        patience_seconds: How long an image waits there for a back end that does not answer.
        retention_seconds: How long generated images are kept at most; 0 for as long as nobody
            deletes them.
        collect_seconds: How long bytes may lie that belong to no asset, or to an expired one.
    """

    def __init__(
        self,
        store: Store,
        backend: StorageBackend,
        decoders: Decoders,
        spool_dir: pathlib.Path,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        retention_seconds: float = 0.0,
        collect_seconds: float = COLLECT_SECONDS,
    ) -> None:
        self._store = store
        self._backend = backend
        self._spool_dir = spool_dir
        self._patience_seconds = patience_seconds
        self._retention_seconds = retention_seconds
        # What has just grown old when it is looked for is found the next time.
        self._sweep_seconds = collect_seconds / 2
        self._decoders = decoders
        self._keeping: set[asyncio.Task[Asset]] = set()

    async def close(self) -> None:
        """Wait for assets that are whole but not kept yet."""
        await asyncio.gather(*self._keeping, return_exceptions=True)

    async def create(self, wanted: asset_pb2.Asset, chunks: AsyncIterator[bytes]) -> Asset:
        """
        Store an image, and return its asset when it is durable.

        A caller that goes away before its last byte leaves nothing; after it, the asset is made.

        Raises:
            InvalidRequest: If the metadata breaks a rule, or the bytes are no image that is taken.
            Internal: If the bytes cannot be stored.
        """
        wish = self._bounded(checked_wish(wanted, caller()))
        with contextlib.ExitStack() as stack:
            received = stack.enter_context(await self._received(wish, chunks))
            picture, spool = await self._examined(wish, received)
            if spool is not received:
                received.close()
                stack.enter_context(spool)
            asset = _asset(wish, spool, picture)
            # Nothing must end what follows between the bytes and the row.
            task = asyncio.create_task(self._keep(asset, spool))
            stack.pop_all()
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)
        return await asyncio.shield(task)

    async def validate(self, wanted: asset_pb2.Asset, chunks: AsyncIterator[bytes]) -> Asset:
        """
        Check an image as ``create`` does, and store nothing.

        Returns:
            The asset as it would be made; its id stands for nothing.

        Raises:
            InvalidRequest: If the metadata breaks a rule, or the bytes are no image that is taken.
        """
        wish = checked_wish(wanted, caller())
        with await self._received(wish, chunks) as spool:
            return _asset(wish, spool, await self._decoders.inspect(spool))

    async def get(self, name: str) -> Asset:
        """
        Read an asset's metadata, expired or not.

        Raises:
            NotFound: If there is none of this name for the caller.
        """
        asset = await self._store.asset(asset_id(name))
        if asset is None or not asset.visible_to(caller()):
            raise asset_missing(name)
        return asset

    async def read(
        self, name: str, offset: int, length: int | None
    ) -> tuple[Asset, AsyncGenerator[bytes]]:
        """
        Find an asset and at most *length* of its bytes, from *offset* on; None means all.

        Raises:
            NotFound: If there is none of this name for the caller, or it has expired.
            InvalidRequest: If the range begins behind the end, or is negative.
            Internal: While the bytes are read, if they are lost or damaged.
        """
        asset = await self.get(name)
        if asset.expired(now()):
            raise asset_expired(name)
        if not 0 <= offset <= asset.size_bytes:
            raise _out_of_range("offset_bytes", offset, f"the asset has {asset.size_bytes} bytes")
        if length is not None and length < 0:
            raise _out_of_range("length_bytes", length, "give 0 or more, or nothing for all")
        rest = asset.size_bytes - offset
        return asset, self._bytes(asset, offset, rest if length is None else min(rest, length))

    async def page(self, size: int, token: str) -> AssetPage:
        """
        Read a page of the caller's assets.

        Raises:
            InvalidRequest: If *size* or *token* breaks its rule.
        """
        limit = page_size(size)
        # The suite on its own behalf has no account, and sees all.
        account = caller().account or None
        found = await self._store.assets(account, limit + 1, position(token))
        return AssetPage(found[:limit], next_token([one.position for one in found], limit))

    async def delete(self, name: str) -> None:
        """
        Delete an asset and its bytes.

        Raises:
            NotFound: If there is none of this name for the caller.
        """
        asset = await self.get(name)
        if not await self._store.delete(asset.id):
            raise asset_missing(name)
        log.info("asset.deleted", asset=asset.name)
        # Without a row they are unreachable; if this fails, the next sweep removes them.
        with _failures():
            await self._backend.delete(asset.id)

    async def sweep(self) -> int:
        """Remove bytes without a row and those of expired assets; return how many."""
        await self._backend.tidy(self._sweep_seconds)
        removed = 0
        batch: list[str] = []
        async for key in self._backend.keys(self._sweep_seconds):
            batch.append(key)
            if len(batch) == SWEPT_AT_ONCE:
                removed += await self._sweep(batch)
                batch = []
        return removed + await self._sweep(batch)

    async def sweep_forever(self) -> None:
        """Sweep now, and again and again; a sweep that fails is logged."""
        while True:
            try:
                removed = await self.sweep()
                log.info("assets.swept", removed=removed)
            except Exception:
                log.exception("assets.sweep_failed")
            await asyncio.sleep(self._sweep_seconds)

    @property
    def on_disk(self) -> bool:
        """Whether the bytes are files, for whoever shares the disk."""
        return self._backend.on_disk

    async def url(self, asset: Asset, seconds: int) -> str:
        """Return the back end's own URL of an asset's bytes, good for so long."""
        with _failures():
            return await self._backend.url(asset.id, asset.media_type, seconds)

    def _bounded(self, wish: Wish) -> Wish:
        """Let a generated image stay no longer than the operator retains them."""
        if not self._retention_seconds or wish.origin != Origin.ORIGIN_GENERATED:
            return wish
        latest = now() + int(self._retention_seconds * MICROSECONDS)
        return wish._replace(expire_time=min(wish.expire_time or latest, latest))

    async def _received(self, wish: Wish, chunks: AsyncIterator[bytes]) -> Spool:
        spool = Spool(self._spool_dir, LIMIT_BYTES[wish.origin])
        with contextlib.ExitStack() as stack:
            stack.enter_context(spool)
            async for chunk in chunks:
                with _failures():
                    await spool.write(chunk)
            if not spool.size_bytes:
                raise _no_bytes()
            stack.pop_all()
        return spool

    async def _examined(self, wish: Wish, received: Spool) -> tuple[Picture, Spool]:
        """Tell what an image is, and return it, or its copy without metadata if it was sent in."""
        if wish.origin != Origin.ORIGIN_UPLOADED:
            return await self._decoders.inspect(received), received
        limit = LIMIT_BYTES[Origin.ORIGIN_GENERATED]
        with contextlib.ExitStack() as stack, _failures():
            cleaned = stack.enter_context(Spool(self._spool_dir, limit))
            picture, is_changed = await self._decoders.clean(received, cleaned)
            if not is_changed:
                return picture, received
            await cleaned.measure()
            stack.pop_all()
        return picture, cleaned

    async def _keep(self, asset: Asset, spool: Spool) -> Asset:
        crash_point("storage.before_asset_write")
        with spool, _failures():
            await self._put(asset, spool)
        crash_point("storage.after_asset_write")
        asset = dataclasses.replace(asset, create_time=now())
        # If this fails, the row may exist all the same; so the bytes are left to the sweep.
        await self._store.add(asset)
        log.info("asset.created", asset=asset.name, size_bytes=asset.size_bytes)
        return asset

    async def _put(self, asset: Asset, spool: Spool) -> None:
        """Hand the bytes to the back end, again and again while it does not answer."""
        async for attempt in stamina.retry_context(
            on=BackendUnavailable,
            attempts=None,
            timeout=self._patience_seconds,
            wait_initial=FIRST_PAUSE_SECONDS,
            wait_max=LONGEST_PAUSE_SECONDS,
        ):
            with attempt:
                try:
                    await self._backend.put(asset.id, spool.chunks())
                except KeyTaken:
                    # Nobody else has this key: an attempt before, or one of the back end's own, has
                    # come through, and its answer was lost.
                    if not await self._is_whole(asset):
                        raise

    async def _is_whole(self, asset: Asset) -> bool:
        digest = hashlib.sha256()
        async for chunk in self._backend.read(asset.id, 0, asset.size_bytes + 1):
            digest.update(chunk)
        return digest.hexdigest() == asset.sha256

    async def _bytes(self, asset: Asset, offset: int, length: int) -> AsyncGenerator[bytes]:
        digest = hashlib.sha256()
        sent = 0
        with _failures():
            async with contextlib.aclosing(self._backend.read(asset.id, offset, length)) as chunks:
                async for chunk in chunks:
                    digest.update(chunk)
                    sent += len(chunk)
                    yield chunk
                    crash_point("storage.mid_stream")
        whole = length == asset.size_bytes
        if sent != length or (whole and digest.hexdigest() != asset.sha256):
            log.error("asset.damaged", asset=asset.name, sent_bytes=sent, length_bytes=length)
            raise _storage_failed()

    async def _sweep(self, keys: list[str]) -> int:
        living = await self._store.living(keys, now())
        dead = [key for key in keys if key not in living]
        for key in dead:
            await self._backend.delete(key)
        return len(dead)


def _asset(wish: Wish, spool: Spool, picture: Picture) -> Asset:
    return Asset(
        **wish._asdict(),
        **picture._asdict(),
        id=secrets.token_hex(16),
        size_bytes=spool.size_bytes,
        sha256=spool.sha256,
        create_time=now(),
    )


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (BackendError, OSError) as error:
        log.exception("storage.failed")
        raise _storage_failed() from error


def _storage_failed() -> Internal:
    return Internal(
        "the bytes could not be stored or read; the logs hold the cause",
        reason=error_reason_pb2.ERROR_REASON_STORAGE_FAILED,
    )


def _no_bytes() -> InvalidRequest:
    return invalid(
        "chunk",
        "the image has no bytes",
        error_reason_pb2.ERROR_REASON_FIELD_REQUIRED,
    )


def _out_of_range(field: str, value: int, rule: str) -> InvalidRequest:
    return invalid(
        field,
        f"{field} {value} is out of range: {rule}",
        error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE,
    )
