"""
What happens around every call on the server's side: a request id, the caller's principal, one log
line, and errors as google.rpc.Status. Servicers raise; nothing else.

Who may call a method is read from its ``pictor.accounts.v1.access`` option. A method without one is
closed to everybody but the suite itself.
"""

import asyncio
import contextlib
import hmac
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf import descriptor_pool
from grpc_status import rpc_status

from pictor.accounts.v1 import access_pb2
from pictor.errors.v1 import error_reason_pb2
from services.rpc.errors import (
    DeadlineExceeded,
    Internal,
    SuiteError,
    Unauthenticated,
    Unavailable,
    reason_name,
    to_status,
)
from services.rpc.principals import (
    ACCOUNT_KEY,
    API_KEY_KEY,
    SCOPES_KEY,
    SUITE,
    Authenticator,
    Principal,
    become,
)
from services.rpc.revocation import vigil

REQUEST_ID_KEY = "x-request-id"
# Another process may be there by then.
STOPPED_SECONDS = 1.0
# Health and reflection tell nothing that the open source does not.
OPEN_PACKAGES = ("grpc.health.", "grpc.reflection.")

log = structlog.get_logger()
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


class CallInterceptor(grpc.aio.ServerInterceptor):
    """
    Wraps every method of a server.

    Args:
        authenticator: Turns API keys into principals.
        token: The suite's service token.
    """

    def __init__(self, authenticator: Authenticator, token: str) -> None:
        self._authenticator = authenticator
        self._token = token
        self._calls: set[asyncio.Task[Any]] = set()
        self._aborting = False

    def abort(self) -> None:
        """End the calls that are being answered with UNAVAILABLE: the process stops."""
        self._aborting = True
        for task in self._calls:
            task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the method's handler, wrapped."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.lstrip("/").startswith(OPEN_PACKAGES):
            return handler
        return self._wrap(handler, handler_call_details.method)

    def _wrap(self, handler: "grpc.RpcMethodHandler[Any, Any]", method: str) -> Handler:
        access = access_of(method)
        inner: Any = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )

        async def unary(request: Any, context: Any) -> Any:
            async with self._call(method, access, context):
                return await inner(request, context)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            async with (
                self._call(method, access, context) as principal,
                contextlib.aclosing(inner(request, context)) as responses,
                vigil(principal, self._authenticator) as watch,
            ):
                async for response in watch.read(responses):
                    yield response

        kinds = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        make = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
        return make(
            stream if handler.response_streaming else unary,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    @contextlib.asynccontextmanager
    async def _call(
        self,
        method: str,
        access: access_pb2.Access,
        context: Any,
    ) -> AsyncIterator[Principal]:
        metadata = dict(context.invocation_metadata() or ())
        request_id = _request_id(str(metadata.get(REQUEST_ID_KEY, "")))
        structlog.contextvars.bind_contextvars(request_id=request_id, rpc=method)
        started = time.monotonic()
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            principal = await self._principal(access, metadata)
            become(principal)
            yield principal
            log.debug("rpc.ok", seconds=round(time.monotonic() - started, 4))
        except SuiteError as error:
            log.debug("rpc.refused", code=error.code.name, reason=reason_name(error.reason))
            await context.abort_with_status(rpc_status.to_status(to_status(error, request_id)))
        except TimeoutError:
            late = DeadlineExceeded("the deadline passed before the answer was there")
            await context.abort_with_status(rpc_status.to_status(to_status(late, request_id)))
        except grpc.aio.AbortError:
            raise
        except asyncio.CancelledError:
            if not self._aborting:
                raise
            task.uncancel()
            stopping = Unavailable("the service is stopping", retry_after_seconds=STOPPED_SECONDS)
            await context.abort_with_status(rpc_status.to_status(to_status(stopping, request_id)))
        except Exception:
            log.exception("rpc.failed")
            hidden = Internal(f"internal error; the logs know it as request {request_id}")
            await context.abort_with_status(rpc_status.to_status(to_status(hidden, request_id)))
        finally:
            self._calls.discard(task)

    async def _principal(self, access: access_pb2.Access, metadata: dict[str, Any]) -> Principal:
        secret = secret_of(metadata)
        if secret and hmac.compare_digest(secret.encode(), self._token.encode()):
            principal = _acting(metadata)
        elif access.public:
            return Principal()
        elif not secret:
            raise key_missing()
        else:
            principal = await self._authenticator.authenticate(secret)
        if not access.public:
            principal.require(access.scope)
        return principal


def access_of(method: str) -> access_pb2.Access:
    """Return who may call a method, e.g. ``/pictor.catalog.v1.CatalogService/GetModel``."""
    full_name = method.lstrip("/").replace("/", ".")
    descriptor = descriptor_pool.Default().FindMethodByName(full_name)
    return descriptor.GetOptions().Extensions[access_pb2.access]


def secret_of(metadata: dict[str, Any]) -> str:
    """Return a call's credential, ``authorization: Bearer K`` or ``x-api-key: K``, or nothing."""
    scheme, _, secret = str(metadata.get("authorization", "")).partition(" ")
    if scheme.lower() == "bearer" and secret.strip():
        return secret.strip()
    return str(metadata.get("x-api-key", "")).strip()


def key_missing() -> Unauthenticated:
    """Make the error of a call without a credential."""
    return Unauthenticated(
        "no API key: send it as 'authorization: Bearer KEY' or 'x-api-key: KEY'",
        reason=error_reason_pb2.ERROR_REASON_API_KEY_MISSING,
    )


def _request_id(given: str) -> str:
    """Keep the caller's id, unless it is none that a log line can hold."""
    return given if re.fullmatch(r"[\w.:-]{1,100}", given) else str(uuid.uuid4())


def _acting(metadata: dict[str, Any]) -> Principal:
    account = str(metadata.get(ACCOUNT_KEY, ""))
    if not account:
        return SUITE
    if SCOPES_KEY not in metadata:
        return Principal(account=account, is_service=True)
    scopes = frozenset(str(metadata[SCOPES_KEY]).split())
    return Principal(account=account, scopes=scopes, api_key=str(metadata.get(API_KEY_KEY, "")))
