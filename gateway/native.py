"""
The native REST API under /pictor/v1: the suite's own services, transcoded as grpc-gateway does.

Requests become messages by ``bindings``; messages go out as proto JSON, streams as server-sent
events, errors as ``{"error": google.rpc.Status}`` with the HTTP status for a code, as in AIP-193.
"""

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import structlog
from google.protobuf import descriptor_pb2, json_format, message_factory
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.answers import error_headers, internal_error
from gateway.auth import Door
from gateway.bindings import Binding, bindings_of, request_json
from gateway.bodies import read_body, too_large
from gateway.dialect import Body, Credential
from gateway.events import HEARTBEAT, event_response, event_text, with_heartbeats
from gateway.fields import check_names
from gateway.idempotency import key_of
from gateway.routes import method_not_allowed
from gateway.status import status_of
from gateway.suite import SERVICES
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.errors import InvalidRequest, NotFound, SuiteError, invalid, to_status

log = structlog.get_logger()

PREFIX = "/pictor"
# gRPC takes messages of 4 MiB; what is written as JSON is never shorter.
MESSAGE_BYTES = 4 * 1024 * 1024
# Requests that have it are remembered by it.
KEY_FIELD = "idempotency_key"
# Longer words of the caller are cut where a sentence repeats them.
_LONG_WORD = re.compile(r"\S{101,}")


class NativeApi:
    """
    The endpoint of everything below /pictor.

    Args:
        door: Decides who comes in.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self.bindings = bindings_of(SERVICES.values())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever its method."""
        response = await self._respond(Request(scope, receive, send))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        try:
            return await self._answer(request)
        except SuiteError as error:
            return error_response(error)
        except Exception:
            log.exception("http.failed", dialect="native")
            return error_response(internal_error())

    async def _answer(self, request: Request) -> Response:
        binding = _match(self.bindings, request)
        structlog.contextvars.bind_contextvars(rpc=binding.rpc)
        if not binding.access.public:
            await self._door.admit(request, Credential.BEARER, binding.access.scope)
        _check_repeatable(binding, request)
        message = await _read_message(binding, request)
        channel = request.state.suite.channels[binding.method.containing_service.full_name]
        if binding.method.server_streaming:
            return await _stream(channel, binding, message)
        answer = await _unary(channel, binding, message)
        return JSONResponse(_json(answer))


def error_response(error: SuiteError) -> Response:
    """Answer with an error as google.rpc.Status in JSON."""
    return JSONResponse(error_body(error), status_of(error, {}), headers=error_headers(error))


def error_body(error: SuiteError) -> dict[str, Any]:
    """Write an error as google.rpc.Status in JSON; ``code`` is the HTTP status."""
    request_id = structlog.contextvars.get_contextvars().get("request_id", "")
    status = to_status(error, request_id)
    return {
        "error": {
            "code": status_of(error, {}),
            "message": status.message,
            "status": error.code.name,
            "details": [json_format.MessageToDict(detail) for detail in status.details],
        }
    }


def _match(bindings: Sequence[Binding], request: Request) -> Binding:
    path = request.scope["path"]
    verb = "GET" if request.method == "HEAD" else request.method
    matches = [binding for binding in bindings if binding.pattern.fullmatch(path)]
    for binding in matches:
        if binding.verb == verb:
            return _with_short_names(binding, path)
    if matches:
        verbs = [binding.verb for binding in matches]
        allowed = [*verbs, *(["HEAD"] if "GET" in verbs else [])]
        raise method_not_allowed(request.method, path, allowed)
    raise NotFound(
        f"nothing is at {path[:100]}; the protos under protos/pictor list what is here",
        reason=reasons.ERROR_REASON_ROUTE_NOT_FOUND,
    )


def _with_short_names(binding: Binding, path: str) -> Binding:
    match = binding.pattern.fullmatch(path)
    check_names(match.groups() if match else ())
    return binding


def _check_repeatable(binding: Binding, request: Request) -> None:
    """
    Insist that a request with a key does no more when it is sent twice than when it is sent once.

    Raises:
        InvalidRequest: If the key is empty or too long, or could not keep its promise.
    """
    if not key_of(request) or binding.verb != "POST":
        return
    remembers = KEY_FIELD in binding.method.input_type.fields_by_name
    level = binding.method.GetOptions().idempotency_level
    if not remembers and level != descriptor_pb2.MethodOptions.IDEMPOTENT:
        raise invalid(
            "Idempotency-Key",
            f"Idempotency-Key has no effect on {binding.method.name}, which does its work anew each"
            " time it is asked; send the request without it, and look before you repeat it",
            reasons.ERROR_REASON_FIELD_UNSUPPORTED,
        )


async def _read_message(binding: Binding, request: Request) -> Message:
    kind = Body.OPTIONAL_JSON if binding.body else Body.NONE
    body = await read_body(request, kind, MESSAGE_BYTES)
    query = [(k, v) for k, v in request.query_params.multi_items() if k != "key"]
    values = request_json(binding, request.scope["path"], body, query)
    message = message_factory.GetMessageClass(binding.method.input_type)()
    try:
        json_format.ParseDict(values, message)
    except (json_format.ParseError, ValueError, TypeError, ArithmeticError) as error:
        text = _LONG_WORD.sub(lambda word: f"{word[0][:97]}...", str(error))[:400]
        raise InvalidRequest(
            f"the request does not fit {message.DESCRIPTOR.name}: {text}"
        ) from None
    if message.ByteSize() > MESSAGE_BYTES:
        raise too_large(MESSAGE_BYTES)
    _resume(message, request)
    if KEY_FIELD in message.DESCRIPTOR.fields_by_name:
        message.idempotency_key = key_of(request) or message.idempotency_key  # type: ignore[attr-defined]  # it has one
    return message


def _resume(message: Any, request: Request) -> None:
    """Let a stream that was lost go on: EventSource sends the last id that it saw."""
    last = request.headers.get("last-event-id", "")
    fields = message.DESCRIPTOR.fields_by_name
    if (
        "after_revision" in fields
        and last.isdigit()
        and len(last) < 19
        and not message.after_revision
    ):
        message.after_revision = int(last)


async def _unary(channel: grpc.aio.Channel, binding: Binding, message: Message) -> Message:
    call = channel.unary_unary(
        binding.rpc,
        request_serializer=type(message).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(
            binding.method.output_type
        ).FromString,
    )
    answer: Message = await call(message)
    return answer


async def _stream(channel: grpc.aio.Channel, binding: Binding, message: Message) -> Response:
    call = channel.unary_stream(
        binding.rpc,
        request_serializer=type(message).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(
            binding.method.output_type
        ).FromString,
    )
    messages = _messages(call(message))
    # An error before the first message is an answer with a status, not an event.
    first = await anext(messages, None)
    return event_response(_event_texts(first, messages), {})


async def _messages(call: Any) -> AsyncIterator[Message]:
    try:
        async for message in call:
            yield message
    finally:
        call.cancel()


async def _event_texts(first: Message | None, rest: AsyncIterator[Message]) -> AsyncIterator[str]:
    if first is not None:
        yield _event(first)
    try:
        async for message in with_heartbeats(rest):
            yield HEARTBEAT if message is None else _event(message)
    except SuiteError as error:
        yield event_text(error_body(error), name="error")
        return
    # A browser's EventSource connects again when a stream ends; this tells it not to.
    yield event_text({}, name="end")


def _event(message: Any) -> str:
    has_revision = "revision" in message.DESCRIPTOR.fields_by_name
    event_id = str(message.revision) if has_revision else ""
    return event_text(_json(message), name="message", event_id=event_id)


def _json(message: Message) -> dict[str, Any]:
    # As grpc-gateway does: a client should not have to guess what an absent field means.
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
