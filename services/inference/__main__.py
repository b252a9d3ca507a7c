"""The inference service as a process: ``python -m services.inference``."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from pictor.catalog.v1 import catalog_service_pb2_grpc
from pictor.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from pictor.storage.v1 import storage_service_pb2_grpc
from services.inference.dispatcher import Dispatcher
from services.inference.executor import Executor, ExecutorSettings, open_executor
from services.inference.hub import Hub
from services.inference.jobs import Jobs
from services.inference.servicer import InferenceServicer
from services.inference.store import JobStore
from services.inference.watching import Watching
from services.rpc.authentication import AccountsAuthenticator
from services.rpc.channels import open_channel
from services.rpc.principals import service_token
from services.rpc.process import ProcessSettings, run_process
from services.rpc.server import Served, running_server
from services.rpc.settings import count, seconds, setting


@dataclass(frozen=True)
class Settings(ProcessSettings):
    """What the inference service reads from the environment."""

    inference_database_url: str = setting(
        "PICTOR_INFERENCE_DATABASE_URL",
        "",
        str,
        "SQLAlchemy URL of the jobs; empty: inference.db in PICTOR_DATA_DIR.",
    )
    executor: str = setting(
        "PICTOR_EXECUTOR", "local", str, "Where jobs run: a file's name in executors/."
    )
    max_attempts: int = setting(
        "PICTOR_JOB_ATTEMPTS",
        "2",
        count,
        "How often a job is started before a lost device fails it.",
    )
    time_limit_seconds: float = setting(
        "PICTOR_JOB_TIME_LIMIT",
        "1800",
        seconds,
        "How long one attempt at a job may take, in seconds.",
    )


@contextlib.asynccontextmanager
async def running(settings: Settings, environ: Mapping[str, str]) -> AsyncIterator[str]:
    """
    Run the service within the block and yield its address.

    Args:
        settings: Where everything is.
        environ: What the device process finds in its environment, besides the suite's addresses.
    """
    token = service_token(settings.data_dir)
    given = ExecutorSettings(_device_environ(settings, environ), token)
    async with (
        open_executor(settings.executor, given) as executor,
        serving(settings, executor, token) as bound,
    ):
        yield bound


@contextlib.asynccontextmanager
async def serving(settings: Settings, executor: Executor, token: str) -> AsyncIterator[str]:
    """Run the service with an executor that is open, and yield its address."""
    async with contextlib.AsyncExitStack() as stack:
        url = settings.inference_database_url
        store = await JobStore.open(
            url or f"sqlite+aiosqlite:///{settings.data_dir / 'inference.db'}"
        )
        stack.push_async_callback(store.close)
        accounts, catalog, storage = [
            await stack.enter_async_context(open_channel(address, token))
            for address in (
                settings.accounts_address,
                settings.catalog_address,
                settings.storage_address,
            )
        ]
        catalog_stub = catalog_service_pb2_grpc.CatalogServiceStub(catalog)
        hub = Hub()
        jobs = Jobs(store, hub)
        dispatcher = Dispatcher(
            jobs,
            store,
            hub,
            executor,
            catalog_stub,
            max_attempts=settings.max_attempts,
            time_limit_seconds=settings.time_limit_seconds,
        )
        await stack.enter_async_context(dispatcher.running())
        servicer = InferenceServicer(
            jobs,
            Watching(jobs, store, hub),
            catalog_stub,
            storage_service_pb2_grpc.StorageServiceStub(storage),
        )
        served = Served(
            inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"],
            inference_service_pb2_grpc.add_InferenceServiceServicer_to_server,
            servicer,
        )
        yield await stack.enter_async_context(
            running_server(
                settings.inference_address, [served], AccountsAuthenticator(accounts), token
            )
        )


def _device_environ(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Give the device process this process's settings, whatever they were read from."""
    variables = {
        field.metadata["variable"]: str(getattr(settings, field.name))
        for field in dataclasses.fields(ProcessSettings)
    }
    return {**environ, **variables}


def main(arguments: Sequence[str] = ()) -> None:
    """Run until SIGINT or SIGTERM."""
    run_process(
        Settings, lambda settings: running(settings, os.environ), os.environ, arguments=arguments
    )


if __name__ == "__main__":
    main(sys.argv[1:])
