"""The database of assets: their metadata, not their bytes."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    insert,
    or_,
    select,
    tuple_,
)

from services.database import Database, open_database
from services.paging import Position
from services.storage.asset import Asset

TABLES = MetaData()
_assets = Table(
    "assets",
    TABLES,
    Column("id", String(32), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("origin", Integer, nullable=False),
    Column("visibility", Integer, nullable=False),
    Column("media_type", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("width_px", Integer, nullable=False),
    Column("height_px", Integer, nullable=False),
    Column("job", String(80), nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("expire_time", BigInteger),
    Index("assets_by_age", "create_time", "id"),
    Index("assets_of_account", "account", "create_time", "id"),
)


class Store:
    """Reads and writes assets; each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def close(self) -> None:
        """Give the connections back."""
        await self._database.close()

    async def add(self, asset: Asset) -> None:
        """Keep a new asset."""
        async with self._database.begin() as connection:
            await connection.execute(insert(_assets).values(vars(asset)))

    async def asset(self, asset_id: str) -> Asset | None:
        """Read one asset."""
        query = select(_assets).where(_assets.c.id == asset_id)
        async with self._database.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return _asset(row) if row else None

    async def assets(self, account: str | None, limit: int, before: Position | None) -> list[Asset]:
        """Read assets of one account, or of all (None), newest first, behind *before*."""
        key = (_assets.c.create_time, _assets.c.id)
        query = select(_assets).order_by(*(column.desc() for column in key)).limit(limit)
        if before:
            query = query.where(tuple_(*key) < before)
        if account is not None:
            query = query.where(_assets.c.account == account)
        async with self._database.connect() as connection:
            return [_asset(row) for row in await connection.execute(query)]

    async def delete(self, asset_id: str) -> bool:
        """Remove an asset; False if it was gone."""
        query = delete(_assets).where(_assets.c.id == asset_id)
        async with self._database.begin() as connection:
            return (await connection.execute(query)).rowcount == 1

    async def living(self, asset_ids: Iterable[str], moment: int) -> set[str]:
        """Tell which of these ids belong to assets that have not expired at *moment*."""
        query = select(_assets.c.id).where(
            _assets.c.id.in_(list(asset_ids)),
            or_(_assets.c.expire_time.is_(None), _assets.c.expire_time > moment),
        )
        async with self._database.connect() as connection:
            return set(await connection.scalars(query))


async def open_store(url: str) -> Store:
    """Open the database at a SQLAlchemy URL, and bring its table up to date."""
    return Store(await open_database(url, "storage"))


def _asset(row: Any) -> Asset:
    return Asset(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
