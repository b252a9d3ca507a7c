"""
A gRPC server as every process of the suite runs one: interceptors, health checking, reflection, an
address whose port may be 0, and a stop that lets running calls end.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.rpc.interceptors import CallInterceptor
from services.rpc.principals import Authenticator
from services.rpc.process import ProcessSettings
from services.rpc.tls import PLAIN, Tls

# The largest single message is one upload chunk of 1 MiB.
MESSAGE_BYTES = 4 * 1024 * 1024
# To tell those who wait how what they waited for ended.
TELL_SECONDS = 0.5
# To write what is said to those whose calls are ended.
ABORT_SECONDS = 2.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Stop:
    """
    How a server ends: health says no, new calls are still taken for a while, then none, and those
    that are being answered may end; the rest get UNAVAILABLE.

    Attributes:
        grace_seconds: How long new calls are still taken.
        drain_seconds: How long calls may then go on.
        drain: Ends what the calls wait for, in about that time.
    """

    grace_seconds: float = 0.0
    drain_seconds: float = 5.0
    drain: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True)
class Served:
    """
    One gRPC service and what implements it.

    Attributes:
        descriptor: The service's descriptor, from its ``_pb2`` module.
        register: ``add_..._to_server`` of its ``_pb2_grpc`` module.
        servicer: The implementation.
    """

    descriptor: ServiceDescriptor
    register: Callable[[Any, Any], None]
    servicer: Any


STOP = Stop()


def stop_of(settings: ProcessSettings, drain: Callable[[], Awaitable[None]] | None = None) -> Stop:
    """Return how a process's settings want its server to end."""
    return Stop(settings.grace_seconds, settings.drain_seconds, drain)


@contextlib.asynccontextmanager
async def running_server(
    address: str,
    served: Sequence[Served],
    authenticator: Authenticator,
    token: str,
    tls: Tls = PLAIN,
    *,
    stop: Stop = STOP,
) -> AsyncIterator[str]:
    """
    Serve within the block, and yield the address that was bound, with the real port.

    Raises:
        OSError: If the address is taken or does not exist here.
    """
    interceptor = CallInterceptor(authenticator, token)
    server = grpc.aio.server(
        interceptors=[interceptor],
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            # Channels of the suite ping idle streams every 10 s, to learn of a lost peer; gRPC's
            # own default takes three of these for an attack and hangs up.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            # Two servers on one port would each answer half of the calls.
            ("grpc.so_reuseport", 0),
        ],
    )
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    for one in served:
        one.register(one.servicer, server)
    names = [one.descriptor.full_name for one in served]
    reflection.enable_server_reflection(
        [*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server
    )
    bound = _bind(server, address, tls)
    await server.start()
    for name in ["", *names]:
        await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    log.info("server.started", address=bound, services=names)
    try:
        yield bound
    finally:
        await health_servicer.enter_graceful_shutdown()
        await asyncio.sleep(stop.grace_seconds)
        await _ended(server, interceptor, stop)


async def _ended(server: grpc.aio.Server, interceptor: CallInterceptor, stop: Stop) -> None:
    closing = asyncio.create_task(server.stop(stop.drain_seconds + TELL_SECONDS + ABORT_SECONDS))
    if stop.drain:
        await stop.drain()
    await asyncio.wait([closing], timeout=TELL_SECONDS if stop.drain else stop.drain_seconds)
    interceptor.abort()
    await closing


def _bind(server: grpc.aio.Server, address: str, tls: Tls) -> str:
    host = address.rpartition(":")[0]
    try:
        secure = tls.server_credentials()
        if secure:
            port = server.add_secure_port(address, secure)
        else:
            port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: is it taken by another process?") from error
    return f"{host}:{port}"
