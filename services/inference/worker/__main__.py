"""
The device process: ``python -m services.inference.worker``.

It prints one line of JSON on standard output as soon as it can be called, before torch is imported:

    {"address": "127.0.0.1:41231", "replica_id": "worker-5f0c9d1e7a3b"}

and ends when its standard input does, so that it does not outlive the process that started it.
"""

import asyncio
import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, TypeAlias

import structlog

from pictor.catalog.v1 import catalog_service_pb2_grpc
from pictor.storage.v1 import storage_service_pb2_grpc
from pictor.worker.v1 import worker_service_pb2, worker_service_pb2_grpc
from services.inference.worker.attempts import Attempts
from services.inference.worker.device import Device
from services.inference.worker.replica import Replica
from services.inference.worker.servicer import WorkerServicer
from services.inference.worker.settings import WorkerSettings
from services.rpc import crash, logs
from services.rpc.authentication import AccountsAuthenticator
from services.rpc.channels import open_channel
from services.rpc.principals import service_token
from services.rpc.process import run_until_stopped
from services.rpc.server import Served, running_server
from services.rpc.settings import SettingError, read

if TYPE_CHECKING:
    from services.inference.worker.engine import Engine

MakeEngine: TypeAlias = "Callable[[WorkerSettings], Engine]"

# The libraries read these when they are imported: weights come from this machine, nothing is
# asked of a hub, nothing is told to anybody, and no checkpoint brings code.
OFFLINE: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DIFFUSERS_DISABLE_CUSTOM_CODE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DISABLE_TELEMETRY": "YES",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
}

# EX_SOFTWARE of sysexits.h.
BROKEN_STATUS = 70

log = structlog.get_logger()


def new_engine(settings: WorkerSettings) -> "Engine":
    """Import torch, and make what draws with it."""
    # The import makes a third of a million objects, and all stay: looking through them once and
    # again would take a sixth of its time.
    gc.disable()
    try:
        module = importlib.import_module("services.inference.worker.engine")
    finally:
        gc.freeze()
        gc.enable()
    engine: Engine = module.Engine(
        settings.device,
        settings.model_folders,
        settings.batch_rows,
        settings.device_memory,
        settings.host_memory,
    )
    return engine


@contextlib.asynccontextmanager
async def running(
    settings: WorkerSettings, replica_id: str = "", make_engine: MakeEngine = new_engine
) -> AsyncIterator[str]:
    """
    Run a device process within the block, and yield the address that was bound.

    Args:
        settings: As read from the environment.
        replica_id: Names the process to the catalog; empty for a random name.
        make_engine: Makes what draws.

    Raises:
        OSError: If the address is taken.
    """
    token = service_token(settings.data_dir)
    torch_thread = Device(
        lambda: make_engine(settings), settings.device, leave, settings.step_limit_seconds
    )
    async with contextlib.AsyncExitStack() as stack:
        accounts, catalog, storage = [
            await stack.enter_async_context(open_channel(where, token, tls=settings.tls))
            for where in (
                settings.accounts_address,
                settings.catalog_address,
                settings.storage_address,
            )
        ]
        attempts = Attempts(torch_thread, storage_service_pb2_grpc.StorageServiceStub(storage))
        served = Served(
            worker_service_pb2.DESCRIPTOR.services_by_name["WorkerService"],
            worker_service_pb2_grpc.add_WorkerServiceServicer_to_server,
            WorkerServicer(attempts, torch_thread),
        )
        stack.callback(torch_thread.close)
        server = running_server(
            settings.worker_address,
            [served],
            AccountsAuthenticator(accounts),
            token,
            settings.tls,
        )
        bound = await stack.enter_async_context(server)
        # Before the server waits for the calls that are being answered.
        stack.callback(attempts.stop)
        replica = Replica(
            catalog_service_pb2_grpc.CatalogServiceStub(catalog),
            torch_thread,
            replica_id or new_replica_id(),
            settings.model_folders,
        )
        await stack.enter_async_context(_in_background(replica))
        # In the loop's next round: after whoever entered has told the address.
        asyncio.get_running_loop().call_soon(torch_thread.start)
        yield bound


def new_replica_id() -> str:
    """Make a name for this process."""
    return f"worker-{uuid.uuid4().hex[:12]}"


def leave(reason: str) -> None:
    """End this process at once; whoever waits for it has its work done elsewhere."""
    log.error("device.broken", reason=reason)
    sys.stderr.flush()
    os._exit(BROKEN_STATUS)


def announce(bound: str, replica_id: str) -> None:
    """
    Print where this process is called, and nothing else ever again.

    Standard output becomes standard error: whatever a library prints would fill a pipe that nobody
    reads any more.
    """
    sys.stdout.write(json.dumps({"address": bound, "replica_id": replica_id}) + "\n")
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def main(make_engine: MakeEngine = new_engine) -> None:
    """Run a device process until it is stopped or its standard input ends."""
    settings = _settings()
    go_offline(os.environ)
    logs.configure(settings.log_level, settings.log_form)
    crash.arm(settings.crash_file)
    if not settings.keep:
        threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    asyncio.run(_run(settings, make_engine))
    # The device's thread may be reading weights for minutes yet, and nobody waits for them.
    sys.stderr.flush()
    os._exit(0)


def _settings() -> WorkerSettings:
    """Read the settings of one process; one that is wrong ends it with a line, and status 1."""
    try:
        settings = read(WorkerSettings, os.environ)
    except SettingError as error:
        sys.exit(f"pictor: {error}")
    if len(settings.devices) > 1:
        shown = ",".join(settings.devices)
        sys.exit(f"pictor: PICTOR_DEVICE={shown!r}: one device process draws on one device")
    return settings


def go_offline(environ: MutableMapping[str, str]) -> None:
    """Keep the libraries off the network; must come before their import."""
    environ.update(OFFLINE)


async def _run(settings: WorkerSettings, make_engine: MakeEngine) -> None:
    replica_id = new_replica_id()

    async def tell(bound: str) -> None:
        announce(bound, replica_id)

    await run_until_stopped(running(settings, replica_id, make_engine), tell)


@contextlib.asynccontextmanager
async def _in_background(replica: Replica) -> AsyncIterator[None]:
    task = asyncio.create_task(replica.keep_reported())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _stop_at_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
