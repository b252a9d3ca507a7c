"""
How a store opens its database: SQLite by default, in WAL mode and durable at each commit, or
PostgreSQL by its URL. The tables are made, and later changed, by the service's migrations.

The only module that knows SQLAlchemy, besides the stores and their migrations.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import structlog
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services import migrations
from services.rpc.crash import crash_point
from services.rpc.errors import Unavailable
from services.rpc.settings import SettingError

BUSY_TIMEOUT_MS = 10_000
# Of each process; a service rarely has more than a few transactions at once.
POOL_SIZE = 10
CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 30.0
AWAY_RETRY_SECONDS = 2.0
RELISTEN_SECONDS = 1.0
# Connection exceptions, and a server that stops, starts or has crashed: PostgreSQL's appendix A.
CONNECTION_CODES = ("08", "57P")
# What SQLite calls operational too, although no waiting helps.
DEFECTS = ("no such table", "no such column", "syntax error", "malformed")
# Any number that nobody else locks: processes that start together migrate one after the other.
MIGRATION_LOCK = 0x70696374
POSTGRESQL = "postgresql"

log = structlog.get_logger()


class Database:
    """
    An open database.

    Args:
        engine: With the tables of the service's newest migration.
        service: Whose they are.
    """

    def __init__(self, engine: AsyncEngine, service: str) -> None:
        self._engine = engine
        self._service = service

    @property
    def notifies(self) -> bool:
        """Whether who listens is told what others do: PostgreSQL's LISTEN and NOTIFY."""
        return self._engine.dialect.name == POSTGRESQL

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """
        Write within the block, in one transaction.

        Raises:
            Unavailable: If the database is away, or went while its answer was awaited.
        """
        with _saying_that_it_is_away():
            async with self._engine.begin() as connection:
                yield connection
                crash_point(f"{self._service}.before_commit")
        crash_point(f"{self._service}.after_commit")

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """
        Read within the block.

        Raises:
            Unavailable: As in ``begin``.
        """
        with _saying_that_it_is_away():
            async with self._engine.connect() as connection:
                yield connection

    async def close(self) -> None:
        """Give the connections back."""
        await self._engine.dispose()

    async def notify(self, channel: str, payload: str) -> None:
        """Tell all listeners of a channel, this process's included; at most 8,000 bytes."""
        async with self.begin() as connection:
            await notify(connection, channel, payload)

    async def listen(self, channel: str, hear: Callable[[str], None]) -> None:
        """
        Call *hear* with each notification, for ever.

        After each time that the connection had to be made anew it is called with an empty payload:
        something may have been missed.
        """
        url = self._engine.url.set(drivername=POSTGRESQL)
        dsn = url.render_as_string(hide_password=False)
        while True:
            try:
                connection = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS)
            except (OSError, TimeoutError, asyncpg.PostgresError) as error:
                log.warning("database.not_listening", reason=type(error).__name__)
            else:
                await _listen(connection, channel, hear)
            await asyncio.sleep(RELISTEN_SECONDS)


async def open_database(url: str, service: str) -> Database:
    """
    Open a service's database and bring its tables up to date.

    Args:
        url: A SQLAlchemy URL, e.g. ``sqlite+aiosqlite:////srv/pictor/jobs.db`` or
            ``postgresql+asyncpg://pictor@db.example.com/pictor``.
        service: Names the folder with ``migrations/``, e.g. ``inference``. Services may share one
            PostgreSQL database.

    Raises:
        SettingError: If there is no such database, no driver for it, or it is of a newer version.
    """
    try:
        engine = _engine(url)
    except (ArgumentError, ImportError):
        example = "sqlite+aiosqlite:////srv/pictor/jobs.db or postgresql+asyncpg://user@host/name"
        raise SettingError(f"a database's URL is none that works here, e.g. {example}") from None
    try:
        async with engine.begin() as connection:
            await _lock(connection)
            await connection.run_sync(migrations.migrate, service, migrations.HEAD)
    except (SQLAlchemyError, OSError, TimeoutError, asyncpg.PostgresError) as error:
        await engine.dispose()
        detail = error.args[0] if error.args else type(error).__name__
        raise SettingError(f"cannot open the database {_shown(url)}: {detail}") from None
    except migrations.UnknownRevisionError:
        await engine.dispose()
        raise SettingError(
            f"the database {_shown(url)} is of a newer version of Pictor than this one: run that,"
            f" or restore a backup from before; this one knows up to {migrations.newest(service)}"
        ) from None
    return Database(engine, service)


async def notify(connection: AsyncConnection, channel: str, payload: str) -> None:
    """Tell all listeners, when the transaction commits; nothing where nobody can listen."""
    if connection.dialect.name == POSTGRESQL:
        statement = text("SELECT pg_notify(:channel, :payload)")
        await connection.execute(statement, {"channel": channel, "payload": payload})


async def exclude(connection: AsyncConnection, name: str) -> None:
    """
    Let one transaction at a time go on from here, of those that give the same name.

    SQLite has one writer at a time, and needs nothing.
    """
    if connection.dialect.name == POSTGRESQL:
        statement = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
        await connection.execute(statement, {"name": name})


def _engine(url: str) -> AsyncEngine:
    if make_url(url).get_backend_name() == POSTGRESQL:
        return create_async_engine(
            url,
            pool_size=POOL_SIZE,
            pool_pre_ping=True,
            connect_args={
                "timeout": CONNECT_SECONDS,
                "command_timeout": STATEMENT_SECONDS,
                # What was acknowledged survives a crash, whatever the server's own default is.
                "server_settings": {"application_name": "pictor", "synchronous_commit": "on"},
            },
        )
    engine = create_async_engine(url)
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # FULL: what was acknowledged survives a loss of power; NORMAL may lose the last commits.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.close()


async def _lock(connection: AsyncConnection) -> None:
    """Let one process at a time migrate."""
    if connection.dialect.name == POSTGRESQL:
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
    else:
        await connection.exec_driver_sql("BEGIN IMMEDIATE")


async def _listen(
    connection: "asyncpg.Connection[asyncpg.Record]", channel: str, hear: Callable[[str], None]
) -> None:
    """Hear until the connection ends."""
    ended = asyncio.Event()
    connection.add_termination_listener(lambda _: ended.set())
    try:
        await connection.add_listener(channel, lambda *heard: hear(str(heard[-1])))
        hear("")
        await ended.wait()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        log.warning("database.not_listening", reason=type(error).__name__)
    finally:
        connection.terminate()


@contextlib.contextmanager
def _saying_that_it_is_away() -> Any:
    try:
        yield
    except (DBAPIError, PoolTimeout, OSError) as error:
        if isinstance(error, DBAPIError) and not _is_away(error):
            raise
        log.warning("database.away", reason=type(error).__name__, detail=str(error.args[:1])[:200])
        raise Unavailable(
            "the database does not answer at the moment; nothing is lost, try again",
            retry_after_seconds=AWAY_RETRY_SECONDS,
        ) from error


def _is_away(error: DBAPIError) -> bool:
    if any(words in str(error) for words in DEFECTS):
        return False
    # A line that breaks at the wrong moment is a plain Error, known by PostgreSQL's code alone.
    code = getattr(error.orig, "sqlstate", None) or ""
    return (
        error.connection_invalidated
        or isinstance(error, (OperationalError, InterfaceError))
        or code.startswith(CONNECTION_CODES)
    )


def _shown(url: str) -> str:
    return make_url(url).render_as_string(hide_password=True)
