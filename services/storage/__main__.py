"""The storage service as a process of its own."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from pictor.storage.v1 import storage_service_pb2, storage_service_pb2_grpc
from services.outbound import Network, networks
from services.rpc.authentication import AccountsAuthenticator
from services.rpc.channels import open_channel
from services.rpc.principals import service_token
from services.rpc.process import ProcessSettings, run_process
from services.rpc.server import Served, running_server, stop_of
from services.rpc.settings import SettingError, duration, seconds, setting, switch
from services.storage.assets import Assets
from services.storage.backend import StorageBackend
from services.storage.backends import open_backend
from services.storage.decoding.pool import Decoders
from services.storage.describing import Describer
from services.storage.remote import RemoteImages
from services.storage.resizing import Resizer
from services.storage.servicer import StorageServicer
from services.storage.sharing import SharedAssets
from services.storage.store import open_store
from services.storage.thumbnails import Thumbnails
from services.storage.urls import AssetUrls, own_key, url_keys

SERVICE = storage_service_pb2.DESCRIPTOR.services_by_name["StorageService"]


@dataclass(frozen=True)
class Settings(ProcessSettings):
    """
    What the storage service is told.

    Raises:
        SettingError: From ``settings.read``, if a value breaks its rule.
    """

    database_url: str = setting(
        "PICTOR_STORAGE_DATABASE_URL",
        "",
        str,
        "SQLAlchemy URL of the storage database; empty: storage.db in the data folder.",
    )
    storage_url: str = setting(
        "PICTOR_STORAGE_URL",
        "",
        str,
        "Where bytes are kept, e.g. file:///srv/pictor/assets; empty: assets in the data folder.",
    )
    patience_seconds: float = setting(
        "PICTOR_STORAGE_PATIENCE",
        "60",
        duration,
        "How long an image waits on disk for a back end that does not answer, in seconds.",
    )
    redirects: bool = setting(
        "PICTOR_STORAGE_REDIRECT",
        "false",
        switch,
        "Whether readers of assets are sent to S3's own signed URLs.",
    )
    retention_seconds: float = setting(
        "PICTOR_ASSET_RETENTION",
        "0",
        duration,
        "How long generated images are kept at most, in seconds; 0: until somebody deletes them.",
    )
    collect_seconds: float = setting(
        "PICTOR_COLLECT_SECONDS",
        "3600",
        seconds,
        "How long bytes lie at most that belong to no asset, or to an expired one, in seconds.",
    )
    url_keys: tuple[str, ...] = setting(
        "PICTOR_URL_KEYS",
        "",
        url_keys,
        "Secrets that sign URLs of assets, newest first, with commas; empty: one in data folder.",
    )
    fetch_networks: tuple[Network, ...] = setting(
        "PICTOR_FETCH_NETWORKS",
        "",
        networks,
        "Networks besides public ones from which images are fetched by URL, e.g. 10.0.0.0/8.",
    )

    @property
    def database(self) -> str:
        """The URL of the database, also where none was set."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir / 'storage.db'}"

    @property
    def storage(self) -> str:
        """The URL of the back end, also where none was set."""
        return self.storage_url or (self.data_dir / "assets").as_uri()


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[str]:
    """
    Serve assets within the block, and yield the address that was bound.

    Raises:
        OSError: If the address is taken.
        SettingError: If no back end takes PICTOR_STORAGE_URL.
    """
    token = await asyncio.to_thread(service_token, settings.data_dir)
    spool_dir = settings.data_dir / "spool"
    thumbnail_dir = settings.data_dir / "thumbnails"
    for folder in (spool_dir, thumbnail_dir):
        await asyncio.to_thread(folder.mkdir, exist_ok=True)
    keys = settings.url_keys or (await asyncio.to_thread(own_key, settings.data_dir),)
    async with contextlib.AsyncExitStack() as stack:
        backend = await asyncio.to_thread(_backend, settings.storage)
        stack.push_async_callback(backend.close)
        store = await open_store(settings.database)
        stack.push_async_callback(store.close)
        accounts = await stack.enter_async_context(
            open_channel(settings.accounts_address, token, tls=settings.tls)
        )
        decoders = Decoders()
        stack.push_async_callback(decoders.close)
        await stack.enter_async_context(_meanwhile(decoders.warm()))
        assets = Assets(
            store,
            backend,
            decoders,
            spool_dir,
            patience_seconds=settings.patience_seconds,
            retention_seconds=settings.retention_seconds,
            collect_seconds=settings.collect_seconds,
        )
        stack.push_async_callback(assets.close)
        await stack.enter_async_context(_meanwhile(assets.sweep_forever()))
        thumbnails = Thumbnails(assets, decoders, thumbnail_dir, spool_dir)
        await stack.enter_async_context(_meanwhile(thumbnails.sweep_forever()))
        urls = AssetUrls(settings.base_url, keys)
        served = Served(
            SERVICE,
            storage_service_pb2_grpc.add_StorageServiceServicer_to_server,
            StorageServicer(
                assets,
                RemoteImages(spool_dir, decoders, settings.fetch_networks),
                Resizer(spool_dir, decoders),
                thumbnails,
                SharedAssets(assets, urls, redirects=settings.redirects),
                describer=Describer(spool_dir, decoders),
            ),
        )
        authenticator = AccountsAuthenticator(accounts)
        yield await stack.enter_async_context(
            running_server(
                settings.storage_address,
                [served],
                authenticator,
                token,
                settings.tls,
                stop=stop_of(settings),
            )
        )


def _backend(url: str) -> StorageBackend:
    try:
        return open_backend(url)
    except ValueError as error:
        raise SettingError(f"PICTOR_STORAGE_URL={url!r}: {error}") from None


@contextlib.asynccontextmanager
async def _meanwhile(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do something beside the block, and end it with the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def main(arguments: Sequence[str] = ()) -> None:
    """Run until SIGINT or SIGTERM."""
    run_process(Settings, running, os.environ, arguments=arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
