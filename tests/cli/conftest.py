"""Running the `pictor` command as a user does, in a process of its own."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.accounts import __main__ as accounts
from services.catalog import __main__ as catalog
from services.rpc.process import ProcessSettings


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command left behind: exit status, standard output and standard error."""

    status: int
    output: str
    errors: str


class Shell:
    """Runs commands in an environment and a folder."""

    def __init__(self, folder: pathlib.Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.environ = {**os.environ, **environ}

    async def start(self, *arguments: str, **environ: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cli",
            *arguments,
            cwd=self.folder,
            env={**self.environ, **environ},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str, **environ: str) -> Outcome:
        process = await self.start(*arguments, **environ)
        output, errors = await process.communicate()
        assert process.returncode is not None
        return Outcome(process.returncode, output.decode(), errors.decode())


def environ_of(settings: ProcessSettings, api_key: str) -> dict[str, str]:
    """Return the variables that lead to a running suite."""
    parts = ("accounts", "catalog", "inference", "storage")
    addresses = {
        f"PICTOR_{part.upper()}_ADDRESS": getattr(settings, f"{part}_address") for part in parts
    }
    return {**addresses, "PICTOR_DATA_DIR": str(settings.data_dir), "PICTOR_API_KEY": api_key}


@pytest.fixture
def nowhere(tmp_path: pathlib.Path) -> Shell:
    """A shell of somebody who has not started the suite: nothing listens, and there is no key."""
    parts = ("ACCOUNTS", "CATALOG", "INFERENCE", "STORAGE")
    addresses = {f"PICTOR_{part}_ADDRESS": "127.0.0.1:1" for part in parts}
    data_dir = str(tmp_path / "none")
    return Shell(tmp_path, {**addresses, "PICTOR_DATA_DIR": data_dir, "PICTOR_API_KEY": ""})


@pytest.fixture
async def office(tmp_path: pathlib.Path) -> AsyncIterator[Shell]:
    """A shell beside a running accounts and catalog service, which need no device."""
    ports: dict[str, Any] = {
        "data_dir": tmp_path / "data",
        "accounts_address": "127.0.0.1:0",
        "catalog_address": "127.0.0.1:0",
    }
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        ports["accounts_address"] = await enter(accounts.running(accounts.Settings(**ports)))
        ports["catalog_address"] = await enter(catalog.running(catalog.Settings(**ports)))
        yield Shell(tmp_path, environ_of(ProcessSettings(**ports), ""))


@pytest.fixture
def shell(suite: Any, tmp_path: pathlib.Path) -> Shell:
    """A shell beside the whole suite, which can draw."""
    return Shell(tmp_path, environ_of(suite.settings, suite.api_key))


@pytest.fixture
def stand_in_shell(stand_in_suite: Any, tmp_path: pathlib.Path) -> Shell:
    """A shell beside a suite in which pictor/shapes answers for every model."""
    return Shell(tmp_path, environ_of(stand_in_suite.settings, stand_in_suite.api_key))
