"""
How a command reaches the suite, and how it ends: settings, key, channels, errors as one line.
"""

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import click
import grpc

from services.rpc.channels import open_channel
from services.rpc.errors import SuiteError
from services.rpc.process import ProcessSettings
from services.rpc.settings import SettingError, setting

T = TypeVar("T")

CONNECT_SECONDS = 5.0
KEY_FILE = "api-key"
_KEY = re.compile(r"[A-Za-z0-9_-]{1,500}")
ANYBODY = "anybody"
# What a shell says of a program that SIGINT or SIGTERM ended.
INTERRUPTED = 130
TERMINATED = 143


@dataclass(frozen=True)
class CliSettings(ProcessSettings):
    """What the `pictor` command reads."""

    api_key: str = setting(
        "PICTOR_API_KEY",
        "",
        str,
        "API key that the pictor command uses; empty: the file api-key in PICTOR_DATA_DIR.",
    )


class Failure(click.ClickException):
    """Ends the command with exit status 1 and one line on standard error."""

    def show(self, file: Any = None) -> None:
        """Print the line."""
        click.echo(f"error: {' '.join(self.format_message().split())}", file=file, err=True)


def run(work: Coroutine[Any, Any, T]) -> T:
    """
    Run a command's work to its end.

    Raises:
        Failure: With the server's own sentence, if it refuses.
    """
    try:
        return asyncio.run(_until_terminated(work))
    except SuiteError as error:
        raise Failure(error.message) from None
    except KeyboardInterrupt:
        raise click.exceptions.Exit(INTERRUPTED) from None
    except asyncio.CancelledError:
        raise click.exceptions.Exit(TERMINATED) from None


@contextlib.asynccontextmanager
async def connected(
    settings: CliSettings, part: str, *, public: bool = False
) -> AsyncIterator[grpc.aio.Channel]:
    """
    Open a channel to ``accounts``, ``catalog``, ``inference`` or ``storage``, signed with the key.

    Args:
        settings: Where the suite is.
        part: The service.
        public: Its methods ask for no key.

    Raises:
        Failure: If nothing listens there, or there is no key.
    """
    address: str = getattr(settings, f"{part}_address")
    await _knock(address, f"PICTOR_{part.upper()}_ADDRESS")
    try:
        tls = settings.tls
    except SettingError as error:
        raise Failure(str(error)) from None
    key = ANYBODY if public else api_key(settings)
    async with open_channel(address, key, tls=tls) as channel:
        yield channel


def api_key(settings: CliSettings) -> str:
    """
    Return the key: from the settings, or from the file that the first start of the suite writes.

    Raises:
        Failure: If there is none, or it is no key.
    """
    file = settings.data_dir / KEY_FILE
    if settings.api_key.strip():
        return _checked(settings.api_key.strip(), "PICTOR_API_KEY")
    try:
        return _checked(file.read_text(encoding="utf-8", errors="replace").strip(), str(file))
    except OSError as error:
        raise Failure(
            f"no API key: PICTOR_API_KEY is not set, and {file} cannot be read ({error.strerror});"
            " set PICTOR_API_KEY, or PICTOR_DATA_DIR to the suite's data folder"
        ) from None


def _checked(key: str, place: str) -> str:
    # gRPC's own error for such metadata repeats the key, and is none that a person understands.
    if not _KEY.fullmatch(key):
        raise Failure(
            f"what {place} holds is not an API key: a key is ASCII letters, digits, - and _"
        )
    return key


async def _until_terminated(work: Coroutine[Any, Any, T]) -> T:
    """Do the work; SIGTERM cancels it, as Ctrl-C does by itself."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


async def _knock(address: str, variable: str) -> None:
    """Insist that somebody listens: gRPC's own message names neither setting nor remedy."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError):
        raise Failure(
            f"nothing listens on {address}; start the suite with 'make serve', or set {variable}"
        ) from None
    writer.close()
