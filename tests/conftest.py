"""
The suite that tests share: everything runs, in a thread of its own, with one device process.

The tests talk to it as its users do, over HTTP and gRPC; blocking clients may be used, since the
suite's event loop is not the tests'.
"""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import grpc
import httpx
import pytest
import structlog

from pictor.accounts.v1 import accounts_service_pb2, accounts_service_pb2_grpc, api_key_pb2
from services.__main__ import Suite, running, until_ready
from services.rpc.channels import open_channel
from services.rpc.process import ProcessSettings
from tests.postgres import NotInstalledError, Postgres, fresh_database, running_postgres

START_SECONDS = 120
PORTS = {
    f"PICTOR_{part}_ADDRESS": "127.0.0.1:0"
    for part in ("HTTP", "ACCOUNTS", "CATALOG", "INFERENCE", "STORAGE")
}
# As services.rpc.logs has it: with locals, a traceback takes a second of the event loop.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        ),
    ]
)


@dataclass(frozen=True)
class RunningSuite:
    """
    A suite that a test may use.

    Attributes:
        settings: The addresses that were bound, and the data folder.
        api_key: A key with every scope.
    """

    settings: ProcessSettings
    api_key: str

    @property
    def url(self) -> str:
        return self.settings.base_url

    @property
    def environ(self) -> dict[str, str]:
        """What a process finds in its environment to reach this suite."""
        return {
            field.metadata["variable"]: str(getattr(self.settings, field.name))
            for field in dataclasses.fields(self.settings)
        }

    @contextlib.asynccontextmanager
    async def channel(self, part: str, key: str | None = None) -> AsyncIterator[grpc.aio.Channel]:
        """Open a channel to a service, e.g. ``accounts``, with an API key."""
        address = getattr(self.settings, f"{part}_address")
        async with open_channel(address, key or self.api_key) as channel:
            yield channel

    def client(self, key: str | None = None, **options: object) -> httpx.AsyncClient:
        """Make an HTTP client that sends an API key; an empty one sends none."""
        key = self.api_key if key is None else key
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=120, **options)

    async def key(self, *scopes: str, account: str = "") -> tuple[str, str]:
        """Make a key of the first account, or of another one; return its secret and its name."""
        async with self.channel("accounts") as channel:
            stub = accounts_service_pb2_grpc.AccountsServiceStub(channel)
            if not account:
                page = await stub.ListAccounts(accounts_service_pb2.ListAccountsRequest())
                account = page.accounts[0].name
            made = await stub.CreateApiKey(
                accounts_service_pb2.CreateApiKeyRequest(
                    parent=account, api_key=api_key_pb2.ApiKey(scopes=scopes)
                )
            )
        return made.secret, made.api_key.name

    async def revoke(self, name: str) -> None:
        async with self.channel("accounts") as channel:
            stub = accounts_service_pb2_grpc.AccountsServiceStub(channel)
            await stub.RevokeApiKey(accounts_service_pb2.RevokeApiKeyRequest(name=name))


@contextlib.contextmanager
def suite_in_a_thread(data_dir: pathlib.Path, **environ: str) -> Iterator[RunningSuite]:
    """Run a suite within the block, on ports of its own, ready to draw."""
    ready, box, stop = threading.Event(), {}, asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        variables = {**os.environ, **PORTS, "PICTOR_DATA_DIR": str(data_dir), **environ}
        try:
            async with running(variables) as suite:
                async with asyncio.timeout(START_SECONDS):
                    await until_ready(suite)
                box["suite"] = suite
                ready.set()
                await stop.wait()
        except BaseException as error:
            box["error"] = error
            raise
        finally:
            ready.set()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    ready.wait()
    if "error" in box:
        raise box["error"]
    suite: Suite = box["suite"]
    try:
        yield RunningSuite(suite.settings, suite.key_file.read_text().strip())
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSuite]:
    """A suite with the model that ships in the repository."""
    with suite_in_a_thread(tmp_path_factory.mktemp("suite")) as one:
        yield one


@pytest.fixture(scope="session")
def stand_in_suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSuite]:
    """A suite in which the shipped model answers for every model without weights."""
    folder = tmp_path_factory.mktemp("stand-in")
    with suite_in_a_thread(folder, PICTOR_STAND_IN="pictor/shapes") as one:
        yield one


def run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a Python module as a user would, e.g. ``run("-m", "cli", "models")``."""
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL cluster; each test makes databases of its own in it."""
    with contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(running_postgres())
        except NotInstalledError:
            pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
        yield cluster


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """The URL of an empty database, of each kind that is supported."""
    cluster = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    return await fresh_database(request.param, tmp_path, cluster)
