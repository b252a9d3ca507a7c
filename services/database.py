"""
How a store opens its database: SQLite by default, in WAL mode and durable at each commit.

The only module besides the stores that knows SQLAlchemy.
"""

from typing import Any

from sqlalchemy import MetaData, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.rpc.settings import SettingError

BUSY_TIMEOUT_MS = 10_000


async def open_database(url: str, tables: MetaData) -> AsyncEngine:
    """
    Open a database and create the tables that it lacks.

    Args:
        url: A SQLAlchemy URL, e.g. ``sqlite+aiosqlite:////srv/pictor/jobs.db``.
        tables: The store's tables.

    Raises:
        SettingError: If there is no such database, or no driver for it.
    """
    try:
        engine = create_async_engine(url)
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        async with engine.begin() as connection:
            await connection.run_sync(tables.create_all)
    except ArgumentError:
        example = "sqlite+aiosqlite:////srv/pictor/jobs.db"
        raise SettingError(f"a database's URL is none of SQLAlchemy's, e.g. {example}") from None
    except (SQLAlchemyError, ImportError, OSError) as error:
        shown = make_url(url).render_as_string(hide_password=True)
        raise SettingError(f"cannot open the database {shown}: {error.args[0]}") from None
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # FULL: what was acknowledged survives a loss of power; NORMAL may lose the last commits.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.close()
