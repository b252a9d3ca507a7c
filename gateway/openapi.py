"""
The description of every route, in OpenAPI 3.1: made of the dialects' tables and the protos.

Nothing here knows a dialect. Paths, bodies and answers are what the operations say; the statuses of
errors follow from what may go wrong with the operation's class and from the dialect's departures.
"""

import importlib.metadata
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway import causes
from gateway.bindings import Binding
from gateway.dialect import Body, Credential, Dialect, Generate, Operation
from gateway.idempotency import MAX_CHARACTERS
from gateway.messages import path_of, query_fields, reference, request_body, schemas_of
from gateway.prefer import EARLY_HINTS, HANDLING_STRICT
from gateway.schemas import Schema, answered, integer, listed, record, switch, text
from gateway.status import status_of
from pictor.errors.v1.error_reason_pb2 import ErrorReason

JSON = "application/json"
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
EVENTS = "text/event-stream"
NATIVE = "Pictor"
UUID4 = "^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
_PARAMETER = re.compile(r"\{(\w+)(?::path)?\}")
_NOT_A_WORD = re.compile(r"[^a-zA-Z0-9]+")

HEADERS: Mapping[str, Mapping[str, Any]] = {
    "x-request-id": {"description": "Under which the logs know the request."},
    "x-pictor-job": {"description": "The job's id, the same in every API."},
    "x-pictor-receipt": {
        "description": "What became of the parameters, e.g. `n=clamped; size=honoured`."
    },
    "x-pictor-served-by": {"description": "The model that really drew: a stand-in."},
    "idempotent-replayed": {
        "description": "`true` if an earlier request with the same Idempotency-Key was answered."
    },
    "preference-applied": {"description": "The preferences that were followed."},
}
# What a drawing's request may say in headers.
JOB_PARAMETERS = [
    {
        "name": "x-pictor-job",
        "in": "header",
        "description": "The id that the job shall have, so that it can be watched and canceled"
        " before the answer comes: a new UUID of version 4.",
        "schema": text(pattern=UUID4),
    },
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Makes the request safe to repeat: the same key gives the same answer,"
        " for a day at least.",
        "schema": text(maxLength=MAX_CHARACTERS),
    },
    {
        "name": "Prefer",
        "in": "header",
        "description": f"`{HANDLING_STRICT}` refuses what would be clamped or ignored;"
        f" `{EARLY_HINTS}` tells the job's id in a first response with status 103.",
        # Not the other one: http.client, in which many try examples, takes a 103 for the answer.
        "schema": text(examples=[HANDLING_STRICT]),
    },
]
# OpenAPI 3.1 cannot say what is in `data`; `x-events` does, by the event's name.
EVENT = record({"event": text(), "data": text(), "id": text()}, ["data"], "One event of many.")
_HEALTH = answered({"ready": switch(), "missing": listed(text())})
PAGES: Sequence[tuple[str, str, Mapping[int, Schema]]] = (
    ("/", "List what is here", {200: record({"apis": listed(record({}))}, ["apis"])}),
    ("/livez", "Say that the gateway answers", {200: answered({"alive": switch()})}),
    ("/readyz", "Say whether a picture can be drawn now", {200: _HEALTH, 503: _HEALTH}),
)
_NATIVE_ERROR = record(
    {
        "error": answered(
            {
                "code": integer(400, 599),
                "message": text(),
                "status": text("The gRPC code's name."),
                "details": listed({"type": "object"}),
            }
        )
    },
    ["error"],
    "google.rpc.Status as JSON; its details hold one ErrorInfo.",
)


def describe(
    dialects: Sequence[Dialect], bindings: Sequence[Binding], base_url: str
) -> dict[str, Any]:
    """
    Describe the gateway.

    Args:
        dialects: The public APIs.
        bindings: The native API.
        base_url: Under which clients reach the gateway.
    """
    paths: dict[str, dict[str, Any]] = {}
    for dialect in dialects:
        for operation in dialect.operations:
            path = _PARAMETER.sub(r"{\1}", operation.path)
            paths.setdefault(path, {})[operation.method.lower()] = _operation(dialect, operation)
    for binding in bindings:
        path, names = path_of(binding.template)
        paths.setdefault(path, {})[binding.verb.lower()] = _native(binding, names)
    for path, summary, bodies in PAGES:
        paths[path] = {"get": _page(path, summary, bodies)}
    errors = {f"{one.name}.Error": one.error for one in dialects}
    messages = [message for one in bindings for message in _messages(one)]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": NATIVE,
            "version": importlib.metadata.version("pictor"),
            "summary": "A self-hosted image-generation platform with five public image APIs.",
        },
        "servers": [{"url": base_url}],
        "tags": [{"name": one.title} for one in dialects] + [{"name": NATIVE}],
        "paths": paths,
        "components": {
            "schemas": {**errors, "pictor.Error": _NATIVE_ERROR, **schemas_of(messages)},
            "headers": {
                name: {**header, "schema": {"type": "string"}} for name, header in HEADERS.items()
            },
            "securitySchemes": {one.name: _security_scheme(one) for one in Credential},
        },
    }


def statuses_of(dialect: Dialect, operation: Operation) -> dict[int, str]:
    """Return the statuses of an operation's errors, each with what it means."""
    found = list(operation.causes + causes.ANYWHERE)
    found += causes.KEY if not operation.public else ()
    found += causes.BODY if operation.body is not Body.NONE else ()
    found += causes.NAMES if "{" in operation.path else ()
    return _merged(found, dialect.statuses, operation.refusals)


def _operation(dialect: Dialect, operation: Operation) -> dict[str, Any]:
    parameters = [_path_parameter(name) for name in _PARAMETER.findall(operation.path)]
    parameters += [_query_parameter(*one) for one in operation.query.items()]
    draws = isinstance(operation, Generate)
    headers = _headers(*HEADERS) if draws else _headers("x-request-id")
    described = {
        "tags": [dialect.title],
        "operationId": _words(dialect.name, operation.method, operation.path)
        + ("_slash" if operation.path.endswith("/") else ""),
        "summary": operation.summary,
        "parameters": parameters + (JOB_PARAMETERS if draws else []),
        "security": _security(dialect.credential, public=operation.public),
        "responses": {
            **_answers(operation, headers),
            **_errors(statuses_of(dialect, operation), f"{dialect.name}.Error", headers),
        },
    }
    if operation.body is not Body.NONE:
        described["requestBody"] = _request(operation)
    return described


def _request(operation: Operation) -> dict[str, Any]:
    form = operation.form or operation.request
    forms = {media_type: {"schema": form} for media_type in FORMS}
    as_json = {JSON: {"schema": operation.request}}
    contents = {Body.FORM: forms, Body.JSON_OR_FORM: {**as_json, **forms}}
    optional = operation.body is Body.OPTIONAL_JSON
    return {"content": contents.get(operation.body, as_json), "required": not optional}


def _answers(operation: Operation, headers: Mapping[str, Any]) -> dict[str, Any]:
    if operation.sends_images:
        picture = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
        return {
            "200": {"description": "The image.", "headers": headers, **picture},
            "206": {"description": "The range that was asked for.", "headers": headers, **picture},
            "304": {"description": "The caller has it already.", "headers": headers},
            "416": {"description": "There are no such bytes.", "headers": headers},
        }
    answers: dict[str, Any] = {
        str(status): {
            "description": "Done." if status == 200 else "Accepted; nothing is done yet.",
            "headers": headers,
            "content": {JSON: {"schema": body}},
        }
        for status, body in {200: operation.reply, **operation.replies}.items()
    }
    if operation.events:
        answers["200"]["content"][EVENTS] = {"schema": EVENT, "x-events": dict(operation.events)}
    return answers


def _native(binding: Binding, names: Sequence[str]) -> dict[str, Any]:
    method = binding.method
    found = [*causes.NATIVE, *(() if binding.access.public else causes.KEY)]
    found += causes.NAMES if names else ()
    found += [*causes.BODY, *causes.MAKING] if binding.body else []
    answer = reference(method.output_type)
    media_type = EVENTS if method.server_streaming else JSON
    content = {"schema": EVENT, "x-events": {"message": answer}}
    headers = _headers("x-request-id")
    described: dict[str, Any] = {
        "tags": [NATIVE],
        "operationId": f"{method.containing_service.name}_{method.name}",
        "summary": f"Call {method.containing_service.full_name}.{method.name}",
        "parameters": [_path_parameter(name) for name in names]
        + [_query_parameter(*one) for one in query_fields(binding)],
        "security": _security(Credential.BEARER, public=binding.access.public),
        "responses": {
            "200": {
                "description": "Done.",
                "headers": headers,
                "content": {media_type: content if method.server_streaming else {"schema": answer}},
            },
            **_errors(_merged(found, {}, {}), "pictor.Error", headers),
        },
    }
    body = request_body(binding)
    if body is not None:
        described["requestBody"] = {"content": {JSON: {"schema": body}}, "required": True}
    return described


def _messages(binding: Binding) -> list[Any]:
    return [binding.method.input_type, binding.method.output_type]


def _page(path: str, summary: str, bodies: Mapping[int, Schema]) -> dict[str, Any]:
    return {
        "tags": [NATIVE],
        "operationId": _words("get", path) if path != "/" else "get_index",
        "summary": summary,
        "security": [],
        "responses": {
            str(status): {
                "description": "Yes." if status == 200 else "No.",
                "headers": _headers("x-request-id"),
                "content": {JSON: {"schema": body}},
            }
            for status, body in bodies.items()
        },
    }


def _merged(
    found: Iterable[Any], departures: Mapping[ErrorReason.ValueType, int], own: Mapping[int, str]
) -> dict[int, str]:
    statuses: dict[int, list[str]] = {}
    for cause in found:
        statuses.setdefault(status_of(cause, departures), []).append(cause.message)
    for status, meaning in own.items():
        statuses.setdefault(status, []).append(meaning)
    return {
        status: "; ".join(dict.fromkeys(meanings)) for status, meanings in sorted(statuses.items())
    }


def _errors(statuses: Mapping[int, str], schema: str, headers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(status): {
            "description": f"{meaning[:1].upper()}{meaning[1:]}.",
            "headers": headers,
            "content": {JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
        }
        for status, meaning in statuses.items()
    }


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": text(minLength=1)}


def _query_parameter(name: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _security(own: Credential, *, public: bool) -> list[dict[str, list[str]]]:
    if public:
        return []
    others = [one for one in Credential if one is not own]
    return [{one.name: []} for one in (own, *others)]


def _security_scheme(credential: Credential) -> dict[str, str]:
    where, _, form = credential.value.partition(":")
    if where == "authorization":
        return {"type": "http", "scheme": form.split()[0].lower()}
    if where.startswith("?"):
        return {"type": "apiKey", "in": "query", "name": where[1:].partition("=")[0]}
    return {"type": "apiKey", "in": "header", "name": where}


def _words(*parts: str) -> str:
    return "_".join(_NOT_A_WORD.sub("_", part).strip("_").lower() for part in parts)
