"""The database of accounts and API keys."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    MetaData,
    Select,
    String,
    Table,
    Text,
    func,
    insert,
    select,
    tuple_,
    update,
)

from services.accounts.account import Account
from services.accounts.api_key import ApiKey
from services.database import Database, open_database
from services.paging import Position

TABLES = MetaData()
_accounts = Table(
    "accounts",
    TABLES,
    Column("id", String(32), primary_key=True),
    Column("display_name", String(63), nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Index("accounts_by_age", "create_time", "id"),
)
_api_keys = Table(
    "api_keys",
    TABLES,
    Column("id", String(32), primary_key=True),
    Column("account_id", String(32), ForeignKey("accounts.id"), nullable=False),
    Column("prefix", String(12), nullable=False, unique=True),
    Column("sha256", String(64), nullable=False),
    Column("display_name", String(63), nullable=False),
    Column("scopes", String(200), nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("expire_time", BigInteger),
    Column("revoke_time", BigInteger),
    Index("api_keys_by_age", "create_time", "id"),
    Index("api_keys_of_account", "account_id", "create_time", "id"),
)

_preferences = Table(
    "preferences",
    TABLES,
    Column("owner", String(100), primary_key=True),
    Column("dialect", String(40), primary_key=True),
    Column("choices", Text, nullable=False),
)


class Store:
    """Reads and writes accounts and keys; each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def close(self) -> None:
        """Give the connections back."""
        await self._database.close()

    async def add_account(self, account: Account) -> None:
        """Keep a new account."""
        async with self._database.begin() as connection:
            await connection.execute(insert(_accounts).values(_account_values(account)))

    async def add_first(self, account: Account, key: ApiKey) -> None:
        """Keep the first account together with its key."""
        async with self._database.begin() as connection:
            await connection.execute(insert(_accounts).values(_account_values(account)))
            await connection.execute(insert(_api_keys).values(_key_values(key)))

    async def account(self, account_id: str) -> Account | None:
        """Read one account."""
        query = select(_accounts).where(_accounts.c.id == account_id)
        async with self._database.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return _account(row) if row else None

    async def has_accounts(self) -> bool:
        """Tell whether there is any account."""
        query = select(func.count()).select_from(select(_accounts.c.id).limit(1).subquery())
        async with self._database.connect() as connection:
            return bool(await connection.scalar(query))

    async def accounts(self, limit: int, after: Position | None) -> list[Account]:
        """Read accounts, oldest first, behind *after*."""
        query = _page(select(_accounts), _accounts, limit, after)
        async with self._database.connect() as connection:
            return [_account(row) for row in await connection.execute(query)]

    async def add_key(self, key: ApiKey) -> None:
        """Keep a new key."""
        async with self._database.begin() as connection:
            await connection.execute(insert(_api_keys).values(_key_values(key)))

    async def key_by_prefix(self, prefix: str) -> ApiKey | None:
        """Read the key with this prefix."""
        query = select(_api_keys).where(_api_keys.c.prefix == prefix)
        async with self._database.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return _key(row) if row else None

    async def keys(
        self, account_id: str | None, limit: int, after: Position | None
    ) -> list[ApiKey]:
        """Read keys of one account, or of all (None), oldest first, behind *after*."""
        query = _page(select(_api_keys), _api_keys, limit, after)
        if account_id is not None:
            query = query.where(_api_keys.c.account_id == account_id)
        async with self._database.connect() as connection:
            return [_key(row) for row in await connection.execute(query)]

    async def revoke(self, account_id: str, key_id: str, moment: int) -> ApiKey | None:
        """Revoke a key, unless it is revoked already, and return it; None if there is none."""
        this = (_api_keys.c.id == key_id) & (_api_keys.c.account_id == account_id)
        async with self._database.begin() as connection:
            await connection.execute(
                update(_api_keys)
                .where(this, _api_keys.c.revoke_time.is_(None))
                .values(revoke_time=moment)
            )
            row = (await connection.execute(select(_api_keys).where(this))).one_or_none()
        return _key(row) if row else None

    async def preferences(self, owner: str, dialect: str) -> str:
        """Read what an owner has chosen; empty where nothing was."""
        query = select(_preferences.c.choices).where(_of(owner, dialect))
        async with self._database.connect() as connection:
            return await connection.scalar(query) or ""

    async def change_preferences(
        self, owner: str, dialect: str, change: Callable[[str], str]
    ) -> str:
        """Replace what an owner has chosen by what *change* makes of it, and return that."""
        this = _of(owner, dialect)
        async with self._database.begin() as connection:
            # Writing first takes the lock: of two changes at once, the second sees the first.
            changed = await connection.execute(
                update(_preferences).where(this).values(choices=_preferences.c.choices)
            )
            if not changed.rowcount:
                row = {"owner": owner, "dialect": dialect, "choices": ""}
                await connection.execute(insert(_preferences).values(row))
            before = await connection.scalar(select(_preferences.c.choices).where(this))
            after = change(before or "")
            await connection.execute(update(_preferences).where(this).values(choices=after))
        return after


async def open_store(url: str) -> Store:
    """Open the database at a SQLAlchemy URL, and bring its tables up to date."""
    return Store(await open_database(url, "accounts"))


def _of(owner: str, dialect: str) -> ColumnElement[bool]:
    return (_preferences.c.owner == owner) & (_preferences.c.dialect == dialect)


def _page(query: Select[Any], table: Table, limit: int, after: Position | None) -> Select[Any]:
    key = (table.c.create_time, table.c.id)
    if after:
        query = query.where(tuple_(*key) > after)
    return query.order_by(*key).limit(limit)


def _account_values(account: Account) -> dict[str, Any]:
    return dict(vars(account))


def _account(row: Any) -> Account:
    return Account(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it


def _key_values(key: ApiKey) -> dict[str, Any]:
    return {**vars(key), "scopes": " ".join(key.scopes)}


def _key(row: Any) -> ApiKey:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    return ApiKey(**{**values, "scopes": tuple(values["scopes"].split())})
