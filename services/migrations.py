"""
The migrations of the services' databases: one folder a service, one file a step.

    python -m services.migrations inference "Remember who asked"

writes the next file from what the service's store says and what its migrations make so far; read it
before you commit it.
"""

import importlib
import pathlib
import sys
from typing import Any

from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, create_engine

SERVICES = pathlib.Path(__file__).parent
HEAD, BASE = "heads", "base"

UnknownRevisionError = CommandError


def migrate(connection: Connection, service: str, revision: str = HEAD) -> None:
    """
    Bring the tables of a service to a revision, up or down.

    Args:
        connection: In a transaction.
        service: As in ``open_database``.
        revision: ``HEAD`` for the newest, ``BASE`` for none, or a file's number.

    Raises:
        UnknownRevisionError: If the database or the call names one that is not known.
    """
    script = _script(service)
    downwards = revision != HEAD

    def plan(current: Any, _context: MigrationContext) -> Any:
        # As alembic.command does.
        steps = script._downgrade_revs if downwards else script._upgrade_revs  # noqa: SLF001
        return steps(revision, current)

    with EnvironmentContext(Config(), script, fn=plan) as environment:
        environment.configure(connection=connection, version_table=_version_table(service))
        environment.run_migrations()


def differences(connection: Connection, service: str, tables: MetaData) -> list[Any]:
    """List where what the migrations made differs from a store's tables."""
    return list(compare_metadata(_comparing(connection, service, tables), tables))


def newest(service: str) -> str:
    """Return the name of a service's newest revision."""
    return str(_script(service).get_current_head())


def revise(service: str, message: str) -> pathlib.Path:
    """Write the next migration of a service, and return its file."""
    tables = importlib.import_module(f"services.{service}.store").TABLES
    with create_engine("sqlite://").begin() as connection:
        migrate(connection, service)
        wanted = produce_migrations(_comparing(connection, service, tables), tables)
    up, down = wanted.upgrade_ops, wanted.downgrade_ops
    if up is None or down is None or up.is_empty():
        sys.exit(f"the migrations of {service} already make what its store says")
    last = _script(service).get_current_head()
    number = f"{int(last or 0) + 1:04}"
    words = "_".join(message.lower().split())
    file = SERVICES / service / "migrations" / f"{number}_{words}.py"
    file.write_text(
        f'"""{message}."""\n\nimport sqlalchemy as sa\nfrom alembic import op\n\n'
        f"revision = {number!r}\ndown_revision = {last!r}\n\n\n"
        f'def upgrade() -> None:\n    """Step up."""\n    {_code(up)}\n\n\n'
        f'def downgrade() -> None:\n    """Step down."""\n    {_code(down)}\n'
    )
    return file


def _code(operations: Any) -> str:
    code = render_python_code(operations, render_as_batch=True)
    return "\n".join(line for line in code.splitlines() if not line.strip().startswith("#")).strip()


def _script(service: str) -> ScriptDirectory:
    folder = str(SERVICES / service / "migrations")
    return ScriptDirectory(folder, version_locations=[folder])


def _version_table(service: str) -> str:
    return f"{service}_revision"


def _comparing(connection: Connection, service: str, tables: MetaData) -> MigrationContext:
    def is_ours(_item: Any, name: str | None, kind: str, *_more: Any) -> bool:
        return kind != "table" or name in tables.tables

    return MigrationContext.configure(
        connection,
        opts={
            "version_table": _version_table(service),
            "include_object": is_ours,
            "compare_type": True,
            "target_metadata": tables,
        },
    )


if __name__ == "__main__":
    print(revise(*sys.argv[1:]))  # noqa: T201 - for the developer
