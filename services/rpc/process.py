"""What every process of the suite does: read its settings, run, and stop when it is told to."""

import asyncio
import contextlib
import pathlib
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from services.rpc import crash, logs
from services.rpc.settings import (
    SettingError,
    address,
    choice,
    describe,
    directory,
    duration,
    natural,
    read,
    setting,
    url,
)
from services.rpc.tls import Tls, read_tls

log = structlog.get_logger()


@dataclass(frozen=True)
class ProcessSettings:
    """
    Where the parts of the suite find each other, and how they log.

    Raises:
        SettingError: From ``settings.read``, if a value breaks its rule.
    """

    data_dir: pathlib.Path = setting(
        "PICTOR_DATA_DIR",
        "./data",
        directory,
        "Folder of databases, assets, keys and the service token.",
    )
    http_address: str = setting(
        "PICTOR_HTTP_ADDRESS",
        "127.0.0.1:8000",
        address,
        "Where the REST gateway listens; port 0 for any.",
    )
    accounts_address: str = setting(
        "PICTOR_ACCOUNTS_ADDRESS", "127.0.0.1:50051", address, "Where the accounts service listens."
    )
    catalog_address: str = setting(
        "PICTOR_CATALOG_ADDRESS", "127.0.0.1:50052", address, "Where the catalog service listens."
    )
    inference_address: str = setting(
        "PICTOR_INFERENCE_ADDRESS",
        "127.0.0.1:50053",
        address,
        "Where the inference service listens.",
    )
    storage_address: str = setting(
        "PICTOR_STORAGE_ADDRESS", "127.0.0.1:50054", address, "Where the storage service listens."
    )
    public_url: str = setting(
        "PICTOR_PUBLIC_URL",
        "",
        url,
        "URL under which clients reach the gateway; empty: http:// and PICTOR_HTTP_ADDRESS.",
    )
    grace_seconds: float = setting(
        "PICTOR_GRACE_SECONDS",
        "0",
        duration,
        "How long a process that stops still takes requests, so that others learn of it first.",
    )
    drain_seconds: float = setting(
        "PICTOR_DRAIN_SECONDS",
        "5",
        duration,
        "How long requests and jobs may go on after that; then jobs are queued again.",
    )
    tls_certificate: str = setting(
        "PICTOR_TLS_CERTIFICATE",
        "",
        str,
        "PEM file of this process's certificate, for gRPC over TLS; empty: plain text.",
    )
    tls_key: str = setting(
        "PICTOR_TLS_KEY", "", str, "PEM file of the private key that belongs to the certificate."
    )
    tls_ca: str = setting(
        "PICTOR_TLS_CA",
        "",
        str,
        "PEM file of the authority that servers are trusted by, or system; empty: plain text.",
    )
    tls_client_ca: str = setting(
        "PICTOR_TLS_CLIENT_CA",
        "",
        str,
        "PEM file of the authority that callers need a certificate of; empty: they need none.",
    )
    rate_limit: int = setting(
        "PICTOR_RATE_LIMIT",
        "0",
        natural,
        "Requests that an API key may send in any 60 s; 0: any number.",
    )
    rate_storage: str = setting(
        "PICTOR_RATE_STORAGE",
        "async+memory://",
        str,
        "Where they are counted, e.g. async+redis://host:6379; by default in each process.",
    )
    log_level: str = setting(
        "PICTOR_LOG_LEVEL",
        "info",
        choice("debug", "info", "warning", "error"),
        "Least level that is logged.",
    )
    log_form: str = setting(
        "PICTOR_LOG_FORM",
        "console",
        choice("console", "json"),
        "Log lines for people or for machines.",
    )
    crash_file: str = setting(
        "PICTOR_CRASH_FILE",
        "",
        str,
        "For tests: a file that names the point where a process ends as if killed; empty: none.",
    )

    @property
    def base_url(self) -> str:
        """The URL under which clients reach the gateway, without a slash at its end."""
        return self.public_url or f"http://{self.http_address}"

    @property
    def tls(self) -> Tls:
        """
        What channels and servers speak.

        Raises:
            SettingError: If one of the four files cannot be read, or they do not fit together.
        """
        return read_tls(self.tls_certificate, self.tls_key, self.tls_ca, self.tls_client_ca)


S = TypeVar("S", bound=ProcessSettings)


def run_process(
    cls: type[S],
    running: Callable[[S], contextlib.AbstractAsyncContextManager[Any]],
    environ: Mapping[str, str],
    announce: Callable[[Any], Coroutine[Any, Any, None]] | None = None,
    *,
    arguments: Sequence[str] = (),
) -> None:
    """
    Read the settings, set up the logs, and run until SIGINT or SIGTERM.

    A setting or an address that is wrong ends the process with one line, and status 1.

    Args:
        cls: The process's settings.
        running: Runs the process within a block.
        environ: The environment.
        announce: Called with what *running* yields.
        arguments: Of the command line; there are none, and any shows the settings.
    """
    if arguments:
        sys.exit(_usage(cls))
    try:
        settings = read(cls, environ)
        logs.configure(settings.log_level, settings.log_form)
        crash.arm(settings.crash_file)
        asyncio.run(run_until_stopped(running(settings), announce))
    except (SettingError, OSError) as error:
        sys.exit(f"pictor: {error}")


def _usage(cls: type[object]) -> str:
    lines = [f"  {s.variable:<30} {s.meaning} [{s.default}]" for s in describe(cls)]
    return "\n".join(["There are no arguments; the settings are environment variables:", *lines])


async def run_until_stopped(
    running: contextlib.AbstractAsyncContextManager[Any],
    announce: Callable[[Any], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Enter *running*, call *announce* with what it yields, and leave on SIGINT or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with running as value, asyncio.TaskGroup() as tasks:
        announcing = tasks.create_task(announce(value)) if announce else None
        await stop.wait()
        log.info("process.stopping")
        if announcing:
            announcing.cancel()
