"""A real storage service beside a real accounts service, each on a free port."""

import contextlib
import pathlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from pictor.accounts.v1 import (
    account_pb2,
    accounts_service_pb2,
    accounts_service_pb2_grpc,
    api_key_pb2,
)
from pictor.storage.v1.storage_service_pb2_grpc import StorageServiceStub
from services.accounts import __main__ as accounts
from services.rpc.channels import open_channel
from services.rpc.principals import service_token
from services.rpc.settings import read
from services.storage.__main__ import Settings, running
from services.storage.decoding.pool import Decoders


@dataclass(frozen=True)
class Caller:
    """An account with a key, and a storage client that uses it."""

    account: str
    storage: StorageServiceStub


@pytest.fixture(scope="session")
async def decoders() -> AsyncIterator[Decoders]:
    """
    Children that decode, for tests that have no service.
    """
    one = Decoders()
    yield one
    await one.close()


@pytest.fixture
async def settings(tmp_path: pathlib.Path) -> AsyncIterator[Settings]:
    """
    What a storage process is told when the suite's accounts run.
    """
    environ = {
        "PICTOR_DATA_DIR": str(tmp_path),
        "PICTOR_ACCOUNTS_ADDRESS": "127.0.0.1:0",
        "PICTOR_STORAGE_ADDRESS": "127.0.0.1:0",
        "PICTOR_PUBLIC_URL": "https://pictor.example.com/",
    }
    async with accounts.running(read(accounts.Settings, environ)) as address:
        yield read(Settings, {**environ, "PICTOR_ACCOUNTS_ADDRESS": address})


@pytest.fixture
async def address(settings: Settings) -> AsyncIterator[str]:
    async with running(settings) as address:
        yield address


@pytest.fixture
async def suite(settings: Settings, address: str) -> AsyncIterator[StorageServiceStub]:
    """
    A storage client with the service token.
    """
    async with open_channel(address, service_token(settings.data_dir)) as channel:
        yield StorageServiceStub(channel)


@pytest.fixture
async def alice(settings: Settings, address: str) -> AsyncIterator[Caller]:
    async with _caller(settings, address) as caller:
        yield caller


@pytest.fixture
async def bob(settings: Settings, address: str) -> AsyncIterator[Caller]:
    async with _caller(settings, address) as caller:
        yield caller


@contextlib.asynccontextmanager
async def _caller(settings: Settings, address: str) -> AsyncIterator[Caller]:
    token = service_token(settings.data_dir)
    async with open_channel(settings.accounts_address, token) as channel:
        client = accounts_service_pb2_grpc.AccountsServiceStub(channel)
        account = await client.CreateAccount(
            accounts_service_pb2.CreateAccountRequest(
                account=account_pb2.Account(display_name="somebody")
            )
        )
        made = await client.CreateApiKey(
            accounts_service_pb2.CreateApiKeyRequest(
                parent=account.name, api_key=api_key_pb2.ApiKey(scopes=["inference"])
            )
        )
    async with open_channel(address, made.secret) as channel:
        yield Caller(account.name, StorageServiceStub(channel))
