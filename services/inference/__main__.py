"""The inference service as a process: ``python -m services.inference``."""

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence

from pictor.accounts.v1 import accounts_service_pb2_grpc
from pictor.catalog.v1 import catalog_service_pb2_grpc
from pictor.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from pictor.storage.v1 import storage_service_pb2_grpc
from services.inference.charging import Charging
from services.inference.dispatcher import Dispatcher
from services.inference.executor import Executor, open_executor
from services.inference.history import History
from services.inference.housekeeping import keeping_house
from services.inference.hub import Hub
from services.inference.jobs import Jobs
from services.inference.leases import Leases
from services.inference.news import News
from services.inference.outbox import Outbox, Topic
from services.inference.servicer import InferenceServicer
from services.inference.settings import Settings
from services.inference.store import CAPTURE, RELEASE, WEBHOOK, Bounds, JobStore
from services.inference.watching import Watching
from services.inference.webhooks import GIVE_UP_SECONDS, LONGEST_PAUSE_SECONDS, Webhooks
from services.rpc.channels import open_channel
from services.rpc.principals import service_token
from services.rpc.process import run_process
from services.rpc.rates import RatedAuthenticator, Rates
from services.rpc.server import Served, running_server, stop_of


@contextlib.asynccontextmanager
async def running(settings: Settings, environ: Mapping[str, str]) -> AsyncIterator[str]:
    """
    Run the service within the block and yield its address.

    Args:
        settings: Where everything is.
        environ: What the device process finds in its environment, besides the suite's addresses.
    """
    async with (
        open_executor(settings, environ) as executor,
        serving(settings, executor) as bound,
    ):
        yield bound


@contextlib.asynccontextmanager
async def serving(settings: Settings, executor: Executor) -> AsyncIterator[str]:
    """Run the service with an executor that is open, and yield its address."""
    token = service_token(settings.data_dir)
    async with contextlib.AsyncExitStack() as stack:
        url = settings.inference_database_url
        store = await JobStore.open(
            url or f"sqlite+aiosqlite:///{settings.data_dir / 'inference.db'}"
        )
        stack.push_async_callback(store.close)
        accounts, catalog, storage = [
            await stack.enter_async_context(open_channel(address, token, tls=settings.tls))
            for address in (
                settings.accounts_address,
                settings.catalog_address,
                settings.storage_address,
            )
        ]
        catalog_stub = catalog_service_pb2_grpc.CatalogServiceStub(catalog)
        hub = Hub()
        news = News(store, hub)
        jobs = Jobs(store, hub)
        jobs.paces.slot_count = lambda: executor.slot_count
        dispatcher = Dispatcher(
            jobs,
            store,
            hub,
            news,
            executor,
            catalog=catalog_stub,
            max_attempts=settings.max_attempts,
            time_limit_seconds=settings.time_limit_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
            leases=Leases(settings.lease_seconds),
            drain_seconds=settings.drain_seconds,
        )
        await stack.enter_async_context(dispatcher.running())
        accounts_stub = accounts_service_pb2_grpc.AccountsServiceStub(accounts)
        charging = Charging(accounts_stub, store, settings.reconcile_seconds)
        webhooks = Webhooks(accounts_stub, store, settings.webhook_networks)
        telling = Topic(webhooks.deliver, LONGEST_PAUSE_SECONDS, GIVE_UP_SECONDS)
        # Two, so that nobody waits for his credits behind a webhook that answers slowly.
        outboxes = [
            Outbox(
                store,
                {topic: Topic(charging.settle) for topic in (CAPTURE, RELEASE)},
                settings.reconcile_seconds,
            ),
            Outbox(store, {WEBHOOK: telling}),
        ]
        for outbox in outboxes:
            await stack.enter_async_context(outbox.running())
            jobs.on_end(outbox.wake)
        await stack.enter_async_context(charging.reconciling())
        storage_stub = storage_service_pb2_grpc.StorageServiceStub(storage)
        history = History(store, jobs, storage_stub)
        await stack.enter_async_context(
            keeping_house(
                store,
                history,
                idempotency_hours=settings.idempotency_hours,
                retention_days=settings.retention_days,
            )
        )
        servicer = InferenceServicer(
            jobs,
            history,
            Watching(jobs, store, hub),
            catalog_stub,
            storage_stub,
            charging=charging,
            webhooks=webhooks,
            bounds=Bounds(settings.account_jobs, settings.account_queue, settings.queue),
        )
        served = Served(
            inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"],
            inference_service_pb2_grpc.add_InferenceServiceServicer_to_server,
            servicer,
        )
        yield await stack.enter_async_context(
            running_server(
                settings.inference_address,
                [served],
                RatedAuthenticator(accounts, Rates(settings.rate_limit, settings.rate_storage)),
                token,
                settings.tls,
                stop=stop_of(settings, dispatcher.drain),
            )
        )


def main(arguments: Sequence[str] = ()) -> None:
    """Run until SIGINT or SIGTERM."""
    run_process(
        Settings, lambda settings: running(settings, os.environ), os.environ, arguments=arguments
    )


if __name__ == "__main__":
    main(sys.argv[1:])
