"""A catalog service on a free port, and the suite's own stub of it."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from pictor.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from services.catalog.__main__ import Settings, running
from services.rpc.channels import open_channel
from services.rpc.principals import service_token

Open = Callable[..., AbstractAsyncContextManager[CatalogServiceStub]]


@pytest.fixture
def open_catalog(tmp_path: Path) -> Open:
    """Return what runs a catalog within a block, with the given settings, and yields its stub."""

    @contextlib.asynccontextmanager
    async def opened(**changes: Any) -> AsyncIterator[CatalogServiceStub]:
        settings = Settings(data_dir=tmp_path, catalog_address="127.0.0.1:0", **changes)
        async with (
            running(settings) as address,
            open_channel(address, service_token(tmp_path)) as channel,
        ):
            yield CatalogServiceStub(channel)

    return opened


@pytest.fixture
async def catalog(open_catalog: Callable[..., Any]) -> AsyncIterator[CatalogServiceStub]:
    """Return the stub of a catalog without a stand-in."""
    async with open_catalog() as stub:
        yield stub


@pytest.fixture
async def stood_in(open_catalog: Callable[..., Any]) -> AsyncIterator[CatalogServiceStub]:
    """Return the stub of a catalog in which pictor/shapes stands in for what has no weights."""
    async with open_catalog(stand_in="pictor/shapes") as stub:
        yield stub
