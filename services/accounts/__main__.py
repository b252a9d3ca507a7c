"""The accounts service as a process of its own."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from pictor.accounts.v1 import accounts_service_pb2, accounts_service_pb2_grpc
from services.accounts.accounts import Accounts
from services.accounts.ledger import Ledger
from services.accounts.preferences import Preferences
from services.accounts.servicer import AccountsServicer, OwnAuthenticator
from services.accounts.store import open_store
from services.accounts.webhook_secrets import WebhookSecrets
from services.rpc.principals import service_token
from services.rpc.process import ProcessSettings, run_process
from services.rpc.server import Served, running_server, stop_of
from services.rpc.settings import setting

SERVICE = accounts_service_pb2.DESCRIPTOR.services_by_name["AccountsService"]


@dataclass(frozen=True)
class Settings(ProcessSettings):
    """
    What the accounts service is told.

    Raises:
        SettingError: From ``settings.read``, if a value breaks its rule.
    """

    database_url: str = setting(
        "PICTOR_ACCOUNTS_DATABASE_URL",
        "",
        str,
        "SQLAlchemy URL of the accounts database; empty: accounts.db in the data folder.",
    )

    @property
    def database(self) -> str:
        """The URL of the database, also where none was set."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir / 'accounts.db'}"


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[str]:
    """
    Serve accounts within the block, and yield the address that was bound.

    Raises:
        OSError: If the address is taken.
    """
    token = await asyncio.to_thread(service_token, settings.data_dir)
    store = await open_store(settings.database)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        accounts = Accounts(store)
        await accounts.make_first(settings.data_dir)
        served = Served(
            SERVICE,
            accounts_service_pb2_grpc.add_AccountsServiceServicer_to_server,
            AccountsServicer(accounts, Preferences(store), Ledger(store), WebhookSecrets(store)),
        )
        yield await stack.enter_async_context(
            running_server(
                settings.accounts_address,
                [served],
                OwnAuthenticator(accounts),
                token,
                settings.tls,
                stop=stop_of(settings),
            )
        )


def main(arguments: Sequence[str] = ()) -> None:
    """Run until SIGINT or SIGTERM."""
    run_process(Settings, running, os.environ, arguments=arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
