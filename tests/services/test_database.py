import asyncio
import importlib

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError

from services import migrations
from services.database import open_database
from services.migrations import BASE, HEAD, SERVICES
from services.rpc.errors import Unavailable
from services.rpc.settings import SettingError

NAMES = sorted(folder.parent.name for folder in SERVICES.glob("*/migrations"))


async def call(database, function, *arguments):
    async with database.begin() as connection:
        return await connection.run_sync(function, *arguments)


@pytest.mark.parametrize("service", NAMES)
async def test_the_migrations_make_what_the_store_says(service, database_url):
    """
    Nothing that the code expects is missing, and nothing is left over, on either database.
    """
    database = await open_database(database_url, service)
    tables = importlib.import_module(f"services.{service}.store").TABLES
    found = await call(database, migrations.differences, service, tables)
    await database.close()

    assert not found
    assert tables.tables


@pytest.mark.parametrize("service", NAMES)
async def test_a_database_goes_down_and_up_again(service, database_url):
    """
    Each step can be taken back, and taken again.
    """
    database = await open_database(database_url, service)
    tables = importlib.import_module(f"services.{service}.store").TABLES
    await call(database, migrations.migrate, service, BASE)
    missing = await call(database, migrations.differences, service, tables)
    await call(database, migrations.migrate, service, HEAD)
    found = await call(database, migrations.differences, service, tables)
    await database.close()

    assert len(missing) >= len(tables.tables)
    assert not found


async def test_a_database_of_a_newer_version_is_refused(database_url):
    """
    What this version does not know it does not touch; the error says what to do.
    """
    database = await open_database(database_url, "catalog")
    async with database.begin() as connection:
        await connection.execute(text("UPDATE catalog_revision SET version_num = '9999'"))
    await database.close()

    with pytest.raises(SettingError, match=r"newer version of Pictor.*knows up to 0"):
        await open_database(database_url, "catalog")


async def test_processes_that_start_together_migrate_once(database_url):
    """
    They wait for each other instead of making the same tables twice.
    """
    opened = await asyncio.gather(*(open_database(database_url, "accounts") for _ in range(5)))
    for database in opened:
        await database.close()

    assert len(opened) == 5


async def test_services_may_share_a_database(database_url):
    """
    Each has tables and a revision of its own.
    """
    for service in NAMES:
        await (await open_database(database_url, service)).close()
    database = await open_database(database_url, "inference")
    async with database.connect() as connection:
        revisions = [
            await connection.scalar(text(f"SELECT version_num FROM {name}_revision"))
            for name in NAMES
        ]
    await database.close()

    assert revisions == [migrations.newest(name) for name in NAMES]


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://root@localhost/x",
        "postgresql+psycopg2://localhost/x",
        "sqlite+aiosqlite:////proc/none/x.db",
    ],
)
async def test_a_url_that_cannot_work_is_named(url):
    """
    The process that reads the setting ends with a sentence instead of a stack.
    """
    with pytest.raises(SettingError, match="database"):
        await open_database(url, "catalog")


async def test_a_password_is_not_shown():
    """
    Not even where the database is away.
    """
    with pytest.raises(SettingError) as refused:
        await open_database("postgresql+asyncpg://pictor:secret@127.0.0.1:9/x", "catalog")

    assert "secret" not in str(refused.value)
    assert "127.0.0.1:9" in str(refused.value)


async def test_what_is_acknowledged_is_on_disk(database_url):
    """
    SQLite waits for the disk at each commit, PostgreSQL too, whatever its own default is.
    """
    database = await open_database(database_url, "catalog")
    async with database.connect() as connection:
        if database.notifies:
            answer = await connection.scalar(text("SHOW synchronous_commit"))
        else:
            answer = await connection.scalar(text("PRAGMA synchronous"))
    await database.close()

    assert answer in ("on", 2)


async def test_a_database_that_is_away_comes_back(postgres):
    """
    Meanwhile each question is UNAVAILABLE, with the time after which to try again.
    """
    database = await open_database(await postgres.database(), "catalog")
    postgres.stop()
    try:
        for _ in range(2):
            with pytest.raises(Unavailable, match="nothing is lost") as away:
                async with database.connect() as connection:
                    await connection.execute(text("SELECT 1"))
    finally:
        postgres.start()
    async with database.connect() as connection:
        answer = await connection.scalar(text("SELECT 1"))
    await database.close()

    assert away.value.retry_after_seconds > 0
    assert answer == 1


@pytest.mark.parametrize(
    ("cause", "away"),
    [
        (asyncpg.ConnectionDoesNotExistError, True),
        (asyncpg.AdminShutdownError, True),
        (asyncpg.CannotConnectNowError, True),
        (asyncpg.QueryCanceledError, False),
        (asyncpg.UniqueViolationError, False),
    ],
)
async def test_a_line_that_breaks_is_told_from_a_mistake(database_url, cause, away):
    """
    By PostgreSQL's own code, however SQLAlchemy calls what broke it.
    """
    database = await open_database(database_url, "catalog")
    error = DBAPIError("", {}, AsyncAdapt_asyncpg_dbapi.Error("broke", cause("broke")))
    try:
        with pytest.raises(Unavailable if away else DBAPIError):
            async with database.connect():
                raise error
    finally:
        await database.close()


async def test_listeners_hear_and_are_told_of_interruptions(postgres):
    """
    After the connection was made anew, an empty payload says that something may have been missed.
    """
    database = await open_database(await postgres.database(), "catalog")
    heard = asyncio.Queue()
    listening = asyncio.create_task(database.listen("news", heard.put_nowait))
    async with asyncio.timeout(20):
        first = await heard.get()
        await database.notify("news", "one")
        second = await heard.get()
        postgres.stop()
        postgres.start()
        third = await heard.get()
        await database.notify("news", "two")
        fourth = await heard.get()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await database.close()

    assert [first, second, third, fourth] == ["", "one", "", "two"]
