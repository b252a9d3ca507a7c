"""A real PostgreSQL for tests: Debian's, in a folder of its own, for as long as the tests run."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import asyncpg

INSTALLED = pathlib.Path("/usr/lib/postgresql")
USER = "postgres"


class NotInstalledError(Exception):
    """There is no PostgreSQL on this machine."""


@dataclass(frozen=True)
class Postgres:
    """
    A cluster that runs.

    Attributes:
        folder: Its data.
        binaries: Where ``pg_ctl`` lies.
        port: On the loopback.
        durable: Whether it waits for the disk.
    """

    folder: pathlib.Path
    binaries: pathlib.Path
    port: int
    durable: bool

    async def database(self) -> str:
        """Make an empty database and return its SQLAlchemy URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        connection = await asyncpg.connect(self._dsn(USER))
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        return self._dsn(name).replace("postgresql://", "postgresql+asyncpg://")

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder}"
        options += "" if self.durable else " -c fsync=off"
        self._control("start", "-w", "-l", str(self.folder / "log"), "-o", options)

    def stop(self) -> None:
        """Pull the plug: no goodbye to whoever is connected."""
        self._control("stop", "-m", "immediate")

    def _control(self, *arguments: str) -> None:
        as_owner(str(self.binaries / "pg_ctl"), "-D", str(self.folder / "data"), *arguments)

    def _dsn(self, database: str) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"


def as_owner(*command: str) -> None:
    """Run a command as somebody whom PostgreSQL accepts; it refuses root."""
    lowered = ["runuser", "-u", USER, "--"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*lowered, *command],
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")


@contextlib.contextmanager
def running_postgres(*, durable: bool = False) -> Iterator[Postgres]:
    """
    Run a cluster within the block; only a durable one waits for the disk.

    Raises:
        NotInstalledError: If there is none to run.
    """
    found = sorted(INSTALLED.glob("*/bin"))
    if not found:
        raise NotInstalledError
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pictor-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(folder, USER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        cluster = Postgres(folder, found[-1], probe.getsockname()[1], durable)
    try:
        data = str(folder / "data")
        as_owner(str(cluster.binaries / "initdb"), "-D", data, "-U", USER, "-A", "trust", "-N")
        cluster.start()
        yield cluster
    finally:
        with contextlib.suppress(RuntimeError):
            cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def fresh_database(kind: str, folder: pathlib.Path, cluster: Postgres | None) -> str:
    """Return the URL of an empty database of a kind: ``sqlite`` or ``postgresql``."""
    if kind == "sqlite":
        return f"sqlite+aiosqlite:///{folder / f'{uuid.uuid4().hex}.db'}"
    assert cluster
    return await cluster.database()
