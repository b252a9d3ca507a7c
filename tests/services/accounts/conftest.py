"""A real accounts service on a free port, with its own data folder."""

import pathlib
from collections.abc import AsyncIterator

import pytest

from pictor.accounts.v1 import accounts_service_pb2_grpc
from services.accounts.__main__ import Settings, running
from services.rpc.channels import open_channel
from services.rpc.principals import service_token
from services.rpc.settings import read


@pytest.fixture
def settings(tmp_path: pathlib.Path) -> Settings:
    return read(
        Settings,
        {"PICTOR_DATA_DIR": str(tmp_path), "PICTOR_ACCOUNTS_ADDRESS": "127.0.0.1:0"},
    )


@pytest.fixture
async def address(settings: Settings) -> AsyncIterator[str]:
    async with running(settings) as address:
        yield address


@pytest.fixture
async def suite(
    settings: Settings, address: str
) -> AsyncIterator[accounts_service_pb2_grpc.AccountsServiceStub]:
    """
    A client with the service token.
    """
    async with open_channel(address, service_token(settings.data_dir)) as channel:
        yield accounts_service_pb2_grpc.AccountsServiceStub(channel)


@pytest.fixture
def first_secret(settings: Settings, address: str) -> str:
    """
    The secret that the first start wrote.
    """
    return (settings.data_dir / "api-key").read_text().strip()
