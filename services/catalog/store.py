"""The database of the catalog: what operators want of models. The models themselves are a file."""

from collections.abc import Mapping

from sqlalchemy import Boolean, Column, Integer, MetaData, String, Table, insert, select, update
from sqlalchemy.exc import IntegrityError

from services.catalog.targets import Target
from services.database import Database, open_database

TABLES = MetaData()
_targets = Table(
    "serving_targets",
    TABLES,
    Column("model", String(500), primary_key=True),
    Column("desired_replicas", Integer),
    Column("pinned", Boolean, nullable=False),
)


class TargetStore:
    """
    Reads and writes targets; each method is one transaction.

    Args:
        database: Open, with this module's table.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    async def open(cls, url: str) -> "TargetStore":
        """Open the database at a SQLAlchemy URL."""
        return cls(await open_database(url, "catalog"))

    async def close(self) -> None:
        """Give the connections back."""
        await self._database.close()

    async def all(self) -> Mapping[str, Target]:
        """Read the targets of all models of which there is one, by the models' names."""
        async with self._database.connect() as connection:
            rows = await connection.execute(select(_targets))
        return {row.model: Target(row.desired_replicas, row.pinned) for row in rows}

    async def put(self, model: str, target: Target) -> None:
        """Replace a model's target."""
        values = {"desired_replicas": target.desired_replicas, "pinned": target.pinned}
        changed = update(_targets).where(_targets.c.model == model).values(**values)
        try:
            async with self._database.begin() as connection:
                if not (await connection.execute(changed)).rowcount:
                    await connection.execute(insert(_targets).values(model=model, **values))
        except IntegrityError:
            # Another request came first, perhaps of a process that has died since.
            async with self._database.begin() as connection:
                await connection.execute(changed)
