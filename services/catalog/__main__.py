"""Runs the catalog service: python -m services.catalog."""

import asyncio
import contextlib
import os
import pathlib
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from pictor.catalog.v1 import catalog_service_pb2, catalog_service_pb2_grpc
from services.catalog.catalog import Catalog
from services.catalog.models import MOST_PRICE, PACKAGED, read_models
from services.catalog.rules import PREFIX, CatalogError
from services.catalog.servicer import CatalogServicer
from services.catalog.serving import Serving
from services.catalog.store import TargetStore
from services.rpc.authentication import AccountsAuthenticator
from services.rpc.channels import open_channel
from services.rpc.errors import NotFound
from services.rpc.principals import service_token
from services.rpc.process import ProcessSettings, run_process
from services.rpc.server import Served, running_server, stop_of
from services.rpc.settings import SettingError, setting


def _file(text: str) -> pathlib.Path:
    return pathlib.Path(text).expanduser().absolute() if text else PACKAGED


def _price(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= MOST_PRICE:
        raise ValueError(f"must be a whole number from 0 to {MOST_PRICE}")
    return int(text)


@dataclass(frozen=True)
class Settings(ProcessSettings):
    """What the catalog service reads."""

    catalog_file: pathlib.Path = setting(
        "PICTOR_CATALOG_FILE",
        "",
        _file,
        "File of the models; empty: the one that comes with Pictor.",
    )
    catalog_database_url: str = setting(
        "PICTOR_CATALOG_DATABASE_URL",
        "",
        str,
        "SQLAlchemy URL of what operators want of models; empty: catalog.db in PICTOR_DATA_DIR.",
    )
    stand_in: str = setting(
        "PICTOR_STAND_IN",
        "",
        str,
        "Id of the model that draws for those without weights; empty: they are not served.",
    )

    default_price: int = setting(
        "PICTOR_DEFAULT_PRICE",
        "0",
        _price,
        "Micro-credits for a megapixel and a step, of models whose entry names no price.",
    )


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[str]:
    """
    Serve the catalog within the block, and yield the address that was bound.

    Raises:
        SettingError: If the catalog's file breaks a rule, or the stand-in is none of its models.
        OSError: If the address is taken.
    """
    catalog = await asyncio.to_thread(_catalog, settings)
    stand_in = _stand_in(catalog, settings)
    token = await asyncio.to_thread(service_token, settings.data_dir)
    async with contextlib.AsyncExitStack() as stack:
        url = settings.catalog_database_url
        store = await TargetStore.open(
            url or f"sqlite+aiosqlite:///{settings.data_dir / 'catalog.db'}"
        )
        stack.push_async_callback(store.close)
        clock = asyncio.get_running_loop().time
        serving = Serving(catalog, stand_in, clock, await store.all())
        served = Served(
            catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"],
            catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server,
            CatalogServicer(catalog, serving, store),
        )
        accounts = await stack.enter_async_context(
            open_channel(settings.accounts_address, token, tls=settings.tls)
        )
        bound = await stack.enter_async_context(
            running_server(
                settings.catalog_address,
                [served],
                AccountsAuthenticator(accounts),
                token,
                settings.tls,
                stop=stop_of(settings),
            )
        )
        # Before the server waits for the calls that are being answered.
        stack.callback(serving.close)
        yield bound


def _catalog(settings: Settings) -> Catalog:
    try:
        return Catalog(read_models(settings.catalog_file, settings.default_price))
    except CatalogError as error:
        raise SettingError(f"PICTOR_CATALOG_FILE: {error}") from None


def _stand_in(catalog: Catalog, settings: Settings) -> str:
    if not settings.stand_in:
        return ""
    try:
        return catalog.get(PREFIX + settings.stand_in.removeprefix(PREFIX)).name
    except NotFound as error:
        raise SettingError(f"PICTOR_STAND_IN={settings.stand_in!r}: {error.message}") from None


def main(arguments: Sequence[str] = ()) -> None:
    """Run until SIGINT or SIGTERM."""
    run_process(Settings, running, os.environ, arguments=arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
