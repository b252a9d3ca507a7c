"""
The whole suite in one command: ``python -m services``.

The four services and the gateway share this process and still talk through stubs only; the device
process is a child. Its imports take longest, so it starts before the others are imported. All
addresses are chosen before that, and each part finds them in the environment that it reads.
"""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import shlex
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pictor.catalog.v1 import catalog_service_pb2, catalog_service_pb2_grpc
from services.inference.executor import Executor, open_executor
from services.inference.settings import Settings as InferenceSettings
from services.rpc.channels import open_channel
from services.rpc.errors import SuiteError
from services.rpc.principals import service_token
from services.rpc.process import ProcessSettings, run_process
from services.rpc.settings import read

READY_POLL_SECONDS = 0.1
# A model of this repository is loaded by then; larger ones take longer.
PATIENCE_SECONDS = 60.0
PROMPT = "a red circle on a white background"


@dataclass(frozen=True)
class Suite:
    """
    A suite that runs.

    Attributes:
        settings: With the addresses that were bound.
        new_key: The first API key, if this start has made it; empty otherwise.
    """

    settings: ProcessSettings
    new_key: str

    @property
    def key_file(self) -> pathlib.Path:
        """Where the first API key lies."""
        return self.settings.data_dir / "api-key"


@contextlib.asynccontextmanager
async def running(environ: Mapping[str, str]) -> AsyncIterator[Suite]:
    """
    Run everything within the block.

    Args:
        environ: The settings of all parts, by variable.

    Raises:
        SettingError: If a variable's value breaks its rule.
        OSError: If an address is taken.
    """
    with _reserved(read(ProcessSettings, environ)) as addresses:
        bound = {**environ, **addresses}
        settings = read(InferenceSettings, bound)
        key_file = settings.data_dir / "api-key"
        old_key = key_file.read_text() if key_file.exists() else ""
        async with contextlib.AsyncExitStack() as device:
            executor = await device.enter_async_context(open_executor(settings, bound))
            async with _parts_running(bound, executor, device):
                key = key_file.read_text() if key_file.exists() else ""
                yield Suite(settings, key.strip() if key != old_key else "")


@contextlib.asynccontextmanager
async def _parts_running(
    environ: Mapping[str, str], executor: Executor, device: contextlib.AsyncExitStack
) -> AsyncIterator[None]:
    """Run the services and the gateway; close *device*, which holds the executor, among them."""
    # Half a second of imports, while the device process is at its own.
    from gateway import __main__ as gateway  # noqa: PLC0415 - see the line above
    from services.accounts import __main__ as accounts  # noqa: PLC0415
    from services.catalog import __main__ as catalog  # noqa: PLC0415
    from services.inference import __main__ as inference  # noqa: PLC0415
    from services.storage import __main__ as storage  # noqa: PLC0415

    async with (
        accounts.running(read(accounts.Settings, environ)),
        catalog.running(read(catalog.Settings, environ)),
        storage.running(read(storage.Settings, environ)),
        # It starts first, but calls these three until it ends.
        contextlib.aclosing(device),
        inference.serving(read(InferenceSettings, environ), executor),
        gateway.running(read(gateway.Settings, environ)),
    ):
        yield


async def until_ready(suite: Suite) -> str:
    """Wait until a picture can be drawn; return the id of a model that draws it."""
    token = service_token(suite.settings.data_dir)
    async with open_channel(
        suite.settings.catalog_address, token, tls=suite.settings.tls
    ) as channel:
        catalog = catalog_service_pb2_grpc.CatalogServiceStub(channel)
        while True:
            with contextlib.suppress(SuiteError):
                answer = await catalog.ListServingStatuses(
                    catalog_service_pb2.ListServingStatusesRequest()
                )
                for status in answer.serving_statuses:
                    if status.ready_replicas:
                        return status.served_by.removeprefix("models/")
            await asyncio.sleep(READY_POLL_SECONDS)


def paste(suite: Suite, model: str) -> str:
    """Return a command for a shell that draws a picture through the REST facade."""
    key = suite.new_key or f"$(cat {shlex.quote(str(suite.key_file))})"
    body = f'{{"model": "{model}", "prompt": "{PROMPT}"}}'
    show_url = """python3 -c 'import json, sys; print(json.load(sys.stdin)["data"][0]["url"])'"""
    return (
        f"curl -sS -o circle.png $(curl -sS {suite.settings.base_url}/v1/images/generations \\\n"
        f"      -H \"Authorization: Bearer {key}\" -H 'Content-Type: application/json' \\\n"
        f"      -d '{body}' \\\n"
        f"      | {show_url})"
    )


async def announce(suite: Suite) -> None:
    """Tell the person at the terminal how to draw, as soon as that is possible."""
    started = time.monotonic()
    url = suite.settings.base_url
    _say(f"Pictor listens at {url}; loading the model ...")
    waiting = asyncio.ensure_future(until_ready(suite))
    await asyncio.wait([waiting], timeout=PATIENCE_SECONDS)
    if not waiting.done():
        _say("Nothing can draw yet. `pictor models` shows why, and the log above says more.")
    model = await waiting
    _say(
        f"Ready after {time.monotonic() - started:.1f} s. Paste this into another terminal and open"
        f" circle.png:\n\n    {paste(suite, model)}\n"
    )
    _say(f'or, with a progress bar:  pictor generate "{PROMPT}" -o circle.png')
    if suite.new_key:
        _say(f"The API key in that command is new. It lies in {suite.key_file}, for you alone.")


def main(arguments: Sequence[str] = ()) -> None:
    """Run until SIGINT or SIGTERM."""
    run_process(
        ProcessSettings, lambda _: running(os.environ), os.environ, announce, arguments=arguments
    )


@contextlib.contextmanager
def _reserved(settings: ProcessSettings) -> Iterator[dict[str, str]]:
    """
    Yield the address of each part by its variable, with a free port in place of port 0.

    Within the block these ports are given to no other process that asks for any port.

    Raises:
        OSError: If one is taken, or does not exist here.
    """
    variables = {
        field.metadata["variable"]: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name.endswith("_address")
    }
    definite = {}
    with contextlib.ExitStack() as held:
        for variable, address in variables.items():
            place = held.enter_context(_bound(address))
            definite[variable] = f"{address.rpartition(':')[0]}:{place.getsockname()[1]}"
        if sys.platform != "linux":
            # Elsewhere the part itself could not bind it either.
            held.close()
        yield definite


def _bound(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    place = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    # With it, as with the parts' own sockets, only one that listens stands in the way.
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((host.strip("[]"), int(port)))
    except OSError as error:
        place.close()
        raise OSError(f"cannot listen on {address}: is it taken by another process?") from error
    return place


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is for the person who started the suite


if __name__ == "__main__":
    main(sys.argv[1:])
