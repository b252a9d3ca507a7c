"""
How one process calls another: a channel that signs each call, bounds it in time, and raises
the SuiteError that the other side raised.

Each call carries the caller's credential, the principal it acts for, and the request id, so that
the called service sees who asked and both write the same id into their logs.
"""

from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import grpc
import structlog
from google.rpc import status_pb2

from pictor.errors.v1 import error_reason_pb2
from services.rpc.errors import (
    DeadlineExceeded,
    InvalidRequest,
    SuiteError,
    Unavailable,
    Unsupported,
    from_status,
)
from services.rpc.interceptors import REQUEST_ID_KEY
from services.rpc.limits import SETTINGS_HOLD
from services.rpc.principals import ACCOUNT_KEY, API_KEY_KEY, LIMITS_KEY, SCOPES_KEY, caller
from services.rpc.tls import PLAIN, Tls

# Unary calls between services are lookups and single transactions.
DEADLINE_SECONDS = 20.0
# An upload moves at the speed of its sender.
UPLOAD_SECONDS = 300.0
# Where gRPC puts a google.rpc.Status (grpc_status.rpc_status knows it under a private name too).
DETAILS_KEY = "grpc-status-details-bin"
log = structlog.get_logger()
OPTIONS = [
    # A line that is half open is noticed within 20 s, also by who only waits for news;
    # gRPC counts from the last answer, and waits a minute for the next unless told.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    # The suite's processes start together: a second's wait, gRPC's own, would show in each start.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),
    # A reader that stops holds up this much of a stream, and not the megabytes that gRPC would
    # offer a line as quick as this one.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 512 * 1024),
]


def open_channel(
    address: str,
    credential: str,
    *,
    tls: Tls = PLAIN,
    deadline_seconds: float | None = DEADLINE_SECONDS,
) -> grpc.aio.Channel:
    """
    Open a channel to a service of the suite.

    Args:
        address: ``host:port``.
        credential: The service token or an API key.
        tls: Whether the channel speaks TLS, and whom it trusts.
        deadline_seconds: Bounds calls with a single answer that bring no timeout of their own.
    """
    interceptor = _Caller(credential, deadline_seconds)
    secure = tls.channel_credentials()
    if secure:
        return grpc.aio.secure_channel(
            address, secure, options=OPTIONS, interceptors=interceptor.all()
        )
    return grpc.aio.insecure_channel(address, options=OPTIONS, interceptors=interceptor.all())


def from_rpc_error(error: grpc.aio.AioRpcError) -> SuiteError:
    """Return the error that the called service raised."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            return from_status(status_pb2.Status.FromString(value))
    log.info("rpc.transport_failed", code=error.code().name, detail=error.details())
    make = _TRANSPORT.get(error.code(), _away)
    return make()


def _away() -> SuiteError:
    return Unavailable("a part of the suite does not answer", retry_after_seconds=1.0)


def _late() -> SuiteError:
    return DeadlineExceeded("the deadline passed before the answer was there")


def _too_large() -> SuiteError:
    # Neither side has an answer to this but a smaller message.
    return InvalidRequest(
        "a message is larger than 4 MiB", reason=error_reason_pb2.ERROR_REASON_REQUEST_TOO_LARGE
    )


# What gRPC itself says, without a service having spoken: its texts hold addresses, and its codes
# mean other things than ours.
_TRANSPORT: dict[grpc.StatusCode, Callable[[], SuiteError]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: _late,
    grpc.StatusCode.RESOURCE_EXHAUSTED: _too_large,
    grpc.StatusCode.UNIMPLEMENTED: lambda: Unsupported("the service has no such method"),
}


class _Caller:
    def __init__(self, credential: str, deadline_seconds: float | None) -> None:
        self._credential = credential
        self.deadline_seconds = deadline_seconds

    def all(self) -> list[grpc.aio.ClientInterceptor]:
        return [_UnaryUnary(self), _UnaryStream(self), _StreamUnary(self), _StreamStream(self)]

    def sign(self, details: Any, deadline_seconds: float | None) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        principal = caller()
        # Who calls a public method without a key gains none by being passed on.
        if principal.is_service or principal.account:
            metadata.add("authorization", f"Bearer {self._credential}")
        if principal.account:
            metadata.add(ACCOUNT_KEY, principal.account)
            if not principal.is_service:
                metadata.add(SCOPES_KEY, " ".join(sorted(principal.scopes)))
                if principal.api_key:
                    metadata.add(API_KEY_KEY, principal.api_key)
                if principal.limits != SETTINGS_HOLD:
                    limits = principal.limits.to_message().SerializeToString()
                    metadata.add(LIMITS_KEY, limits)
        request_id = structlog.contextvars.get_contextvars().get("request_id")
        if request_id:
            metadata.add(REQUEST_ID_KEY, request_id)
        timeout = deadline_seconds if details.timeout is None else details.timeout
        return details._replace(metadata=metadata, timeout=timeout)


class _Interceptor:
    def __init__(self, caller_: _Caller) -> None:
        self._caller = caller_


class _UnaryUnary(_Interceptor, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        try:
            details = self._caller.sign(client_call_details, self._caller.deadline_seconds)
            return await (await continuation(details, request))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


class _UnaryStream(_Interceptor, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> AsyncIterator[Any]:
        details = self._caller.sign(client_call_details, None)
        return _responses(await continuation(details, request))


class _StreamUnary(_Interceptor, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        try:
            details = self._caller.sign(client_call_details, UPLOAD_SECONDS)
            return _Answer(await (await continuation(details, request_iterator)))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


class _StreamStream(_Interceptor, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> AsyncIterator[Any]:
        details = self._caller.sign(client_call_details, UPLOAD_SECONDS)
        return _responses(await continuation(details, request_iterator))


class _Answer:
    """
    Stands for a finished call: grpc.aio wraps a bare response only where the request is unary.
    """

    def __init__(self, response: Any) -> None:
        self._response = response

    def __await__(self) -> Generator[None, None, Any]:
        return self._response
        yield  # makes this a generator

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        return True


async def _responses(call: Any) -> AsyncIterator[Any]:
    try:
        async for response in call:
            yield response
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
    finally:
        # A reader that stops early ends the call; without this it would run on.
        call.cancel()
