"""The four services as the gateway calls them: one channel each, open while the gateway runs."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from gateway.stopping import Stopping
from pictor.accounts.v1 import accounts_service_pb2, accounts_service_pb2_grpc
from pictor.catalog.v1 import catalog_service_pb2, catalog_service_pb2_grpc
from pictor.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from pictor.storage.v1 import storage_service_pb2, storage_service_pb2_grpc
from services.rpc.channels import open_channel
from services.rpc.tls import PLAIN, Tls

if TYPE_CHECKING:
    from pictor.accounts.v1.accounts_service_pb2_grpc import AccountsServiceAsyncStub
    from pictor.catalog.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from pictor.inference.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub
    from pictor.storage.v1.storage_service_pb2_grpc import StorageServiceAsyncStub

# By full name, as the native API and the health checks walk through them.
SERVICES = {
    service.full_name: service
    for file in (
        accounts_service_pb2.DESCRIPTOR,
        catalog_service_pb2.DESCRIPTOR,
        inference_service_pb2.DESCRIPTOR,
        storage_service_pb2.DESCRIPTOR,
    )
    for service in file.services_by_name.values()
}


@dataclass(frozen=True)
class Suite:
    """
    The services.

    Attributes:
        channels: By the service's full name, e.g. ``pictor.catalog.v1.CatalogService``.
        accounts: Keeps what callers have chosen.
        catalog: Which models there are.
        inference: Draws.
        storage: Keeps images.
        stopping: Ends what is waited for when the gateway ends.
    """

    channels: Mapping[str, grpc.aio.Channel]
    accounts: "AccountsServiceAsyncStub"
    catalog: "CatalogServiceAsyncStub"
    inference: "InferenceServiceAsyncStub"
    storage: "StorageServiceAsyncStub"
    stopping: Stopping


@contextlib.asynccontextmanager
async def open_suite(
    addresses: Mapping[str, str], token: str, stopping: Stopping, tls: Tls = PLAIN
) -> AsyncIterator[Suite]:
    """
    Open the channels within the block. Nothing is asked yet: services may start later.

    Args:
        addresses: ``host:port`` by the service's full name.
        token: The service token.
        stopping: As in Suite.
        tls: What the channels speak.
    """
    async with contextlib.AsyncExitStack() as stack:
        channels = {
            name: await stack.enter_async_context(open_channel(address, token, tls=tls))
            for name, address in addresses.items()
        }
        by_domain = {name.split(".")[1]: channel for name, channel in channels.items()}
        yield Suite(
            channels=channels,
            accounts=accounts_service_pb2_grpc.AccountsServiceStub(by_domain["accounts"]),
            catalog=catalog_service_pb2_grpc.CatalogServiceStub(by_domain["catalog"]),
            inference=inference_service_pb2_grpc.InferenceServiceStub(by_domain["inference"]),
            storage=storage_service_pb2_grpc.StorageServiceStub(by_domain["storage"]),
            stopping=stopping,
        )
