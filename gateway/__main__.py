"""
The gateway's process: HTTP in front, channels to the four services behind.

    python -m gateway
"""

import asyncio
import contextlib
import ctypes
import functools
import logging
import math
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog
import uvicorn

from gateway.app import build_app
from gateway.connections import BoundedProtocol
from gateway.dialect import Dialect, Preferences
from gateway.routes import discover
from gateway.stopping import Stopping
from gateway.suite import open_suite
from services.rpc.principals import service_token
from services.rpc.process import ProcessSettings, run_process
from services.rpc.rates import Rates
from services.rpc.settings import duration, setting, switch

BACKLOG = 512
# More are answered 503: each takes a file, and a process has some thousand of them.
MOST_CONNECTIONS = 1000
# Of glibc's mallopt; a block that is larger is the system's, and goes back to it at once.
_M_MMAP_THRESHOLD = -3
LARGE_BYTES = 1024 * 1024
# To write what is said to those that waited in vain.
ANSWER_SECONDS = 2

log = structlog.get_logger()


def lifetimes(text: str) -> Mapping[str, float]:
    """Parse seconds by dialect, separated by commas: ``openai=3600,relay/qwen=604800``."""
    found = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, separator, seconds = part.partition("=")
        if not separator or not name:
            raise ValueError(f"{part!r} must be a dialect and seconds, e.g. openai=3600")
        found[name.strip()] = duration(seconds)
    return found


@dataclass(frozen=True)
class Settings(ProcessSettings):
    """
    What the gateway's operator chooses.

    Raises:
        SettingError: From ``settings.read``, if a value breaks its rule.
    """

    result_seconds: Mapping[str, float] = setting(
        "PICTOR_RESULT_SECONDS",
        "",
        lifetimes,
        "How long APIs keep results, e.g. openai=3600,relay/qwen=604800; 0: until deleted.",
    )
    default_model: str = setting(
        "PICTOR_DEFAULT_MODEL",
        "",
        str,
        "Model id for OpenAI requests that name none; empty: they are refused.",
    )
    openai_b64_only: bool = setting(
        "PICTOR_OPENAI_B64_ONLY",
        "false",
        switch,
        "Leave url out of OpenAI answers with base64, as Open WebUI needs it.",
    )
    require_key: bool = setting(
        "PICTOR_REQUIRE_KEY",
        "true",
        switch,
        "Whether callers need an API key; without, all who send none share one account.",
    )


@contextlib.asynccontextmanager
async def running(
    settings: Settings, dialects: Sequence[Dialect] | None = None
) -> AsyncIterator[str]:
    """
    Serve within the block, and yield the address that was bound, with the real port.

    Args:
        settings: What the operator chose.
        dialects: The public APIs to serve; None for those in ``gateway/dialects``.

    Raises:
        OSError: If the address is taken or does not exist here.
    """
    # Where somebody has set up the standard library's logs already, this does nothing.
    logging.basicConfig(handlers=[_ToStructlog()], level=logging.WARNING)
    listener, bound = _listen(settings.http_address)
    _return_large_blocks()
    stopping = Stopping()
    served = discover() if dialects is None else dialects
    server = _Server(_config(settings, bound, served, stopping))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        await server.ready.wait()
        log.info("gateway.started", address=bound)
        yield bound
    finally:
        stopping.begun = True
        await asyncio.sleep(settings.grace_seconds)
        server.should_exit = True
        await asyncio.wait([serving], timeout=settings.drain_seconds)
        stopping.abort()
        await serving


def main(arguments: Sequence[str] = ()) -> None:
    """Run until SIGINT or SIGTERM."""
    run_process(Settings, running, os.environ, arguments=arguments)


def _return_large_blocks() -> None:
    """Let glibc give the memory of large bodies back; by default it learns to keep such blocks."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Signals belong to the process, which may run more than this server.
        yield


class _ToStructlog(logging.Handler):
    """Writes what uvicorn and other libraries log in the form of all other lines."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info or None
        log.log(record.levelno, record.name, message=record.getMessage(), exc_info=error)


def _config(
    settings: Settings, bound: str, dialects: Sequence[Dialect], stopping: Stopping
) -> uvicorn.Config:
    addresses = {
        "pictor.accounts.v1.AccountsService": settings.accounts_address,
        "pictor.catalog.v1.CatalogService": settings.catalog_address,
        "pictor.inference.v1.InferenceService": settings.inference_address,
        "pictor.storage.v1.StorageService": settings.storage_address,
    }
    token = service_token(settings.data_dir)
    preferences = Preferences(
        base_url=settings.public_url or f"http://{bound}",
        default_model=settings.default_model,
        result_seconds=settings.result_seconds,
        base64_only=settings.openai_b64_only,
    )
    app = build_app(
        functools.partial(open_suite, addresses, token, stopping, settings.tls),
        preferences,
        dialects,
        require_key=settings.require_key,
        rates=Rates(settings.rate_limit, settings.rate_storage),
    )
    return uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="on",
        server_header=False,
        http=BoundedProtocol,
        limit_concurrency=MOST_CONNECTIONS,
        ws="none",
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds) + ANSWER_SECONDS,
    )


def _listen(address: str) -> tuple[socket.socket, str]:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only for sockets that name their protocol. With it, each
    # answer on a connection kept open waits 40 ms for the acknowledgement of its head.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), int(port)))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {address}: {error.strerror}") from error
    listener.listen(BACKLOG)
    return listener, f"{host}:{listener.getsockname()[1]}"


if __name__ == "__main__":
    main(sys.argv[1:])
