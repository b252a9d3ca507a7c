"""
The native REST API's routes, read from the google.api.http rules in the descriptors.

A binding is one rule of one method. Its template is compiled into a regular expression: ``*`` takes
one segment without a colon, ``**`` takes one or more, and what follows the last colon is the verb,
so that ``jobs/5f0c`` and ``jobs/5f0c:cancel`` are never the same route. Methods that no API key may
call are not exposed, whatever rule they carry.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)

from pictor.accounts.v1 import access_pb2
from services.rpc.errors import InvalidRequest, Violation
from services.rpc.interceptors import access_of

_VARIABLE = re.compile(r"\{([a-z0-9_.]+)(?:=([^}]*))?\}")
_SWITCH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Binding:
    """
    One route of the native API.

    Attributes:
        verb: The HTTP method.
        template: The path as the rule has it.
        pattern: The template, compiled; group k holds variables[k].
        variables: Paths of request fields, e.g. ``name``.
        body: ``*``, the field that the body fills, or nothing.
        method: The gRPC method.
        access: Who may call it.
    """

    verb: str
    template: str
    pattern: re.Pattern[str]
    variables: tuple[str, ...]
    body: str
    method: MethodDescriptor
    access: access_pb2.Access

    @property
    def rpc(self) -> str:
        """The method as gRPC calls it, e.g. ``/pictor.catalog.v1.CatalogService/GetModel``."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"


def bindings_of(services: Iterable[ServiceDescriptor]) -> list[Binding]:
    """Return the routes of all methods that have an HTTP rule and are open to callers."""
    return [
        binding
        for service in services
        for method in service.methods
        for binding in _bindings(method)
    ]


def request_json(
    binding: Binding, path: str, body: Any, query: Iterable[tuple[str, str]]
) -> dict[str, Any]:
    """
    Put path, body and query together into the JSON of the request message.

    Raises:
        InvalidRequest: If the query names a field that is not there, gives one value twice, or
            contradicts itself or the body.
    """
    message: dict[str, Any] = {}
    if binding.body == "*" and body is not None:
        message = _object(body)
    elif binding.body and body is not None:
        message[binding.body] = body
    # Also beside a whole body: "?validate_only=true" must not be passed over in silence.
    for name, value in query:
        _set_from_query(message, binding.method.input_type, name, value)
    match = binding.pattern.fullmatch(path)
    for variable, value in zip(binding.variables, match.groups() if match else (), strict=True):
        _set(message, variable.split("."), value)
    return message


def _bindings(method: MethodDescriptor) -> Iterator[Binding]:
    access = access_of(f"{method.containing_service.full_name}/{method.name}")
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    if not access.public and not access.scope:
        return
    for one in (rule, *rule.additional_bindings):
        kind = one.WhichOneof("pattern")
        if kind and kind != "custom":
            yield _binding(method, access, one, kind)


def _binding(
    method: MethodDescriptor, access: access_pb2.Access, rule: http_pb2.HttpRule, kind: str
) -> Binding:
    template: str = getattr(rule, kind)
    variables = tuple(match[1] for match in _VARIABLE.finditer(template))
    return Binding(
        verb=kind.upper(),
        template=template,
        pattern=re.compile(_expression(template)),
        variables=variables,
        body=rule.body,
        method=method,
        access=access,
    )


def _expression(template: str) -> str:
    expression, end = "", 0
    for match in _VARIABLE.finditer(template):
        expression += re.escape(template[end : match.start()])
        segments = (match[2] or "*").split("/")
        expression += f"({'/'.join(_SEGMENTS.get(one, re.escape(one)) for one in segments)})"
        end = match.end()
    return expression + re.escape(template[end:])


_SEGMENTS = {"*": "[^/:]+", "**": ".+"}


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    return dict(body)


def _set_from_query(message: dict[str, Any], descriptor: Descriptor, name: str, value: str) -> None:
    *outer, last = _fields(descriptor, name)
    for field in outer:
        message = _inner(message, field.name, name)
    if last.is_repeated:
        values = message.setdefault(last.name, [])
        if not isinstance(values, list):
            raise _unfit(name, f"{name[:100]} stands in the body too, and not as a list")
        values.append(_scalar(last, value))
    elif last.name in message:
        raise _unfit(name, f"{name[:100]} is given twice; it takes one value")
    else:
        message[last.name] = _scalar(last, value)


def _fields(descriptor: Descriptor, name: str) -> list[FieldDescriptor]:
    """Walk from a message to a field of its fields; only a single message has something inside."""
    fields: list[FieldDescriptor] = []
    inside: Descriptor | None = descriptor
    for part in name.split("."):
        if inside is None or (fields and fields[-1].is_repeated):
            raise _no_field(name, descriptor)
        field = inside.fields_by_camelcase_name.get(part) or inside.fields_by_name.get(part)
        if field is None:
            raise _no_field(name, inside)
        fields.append(field)
        inside = field.message_type
    return fields


def _scalar(field: FieldDescriptor, value: str) -> Any:
    # The JSON parser reads numbers, enums and timestamps from text, but not true and false.
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _SWITCH.get(value.lower(), value)
    return value


def _set(message: dict[str, Any], names: list[str], value: Any) -> None:
    for name in names[:-1]:
        message = _inner(message, name, ".".join(names))
    message[names[-1]] = value


def _inner(message: dict[str, Any], name: str, path: str) -> dict[str, Any]:
    inner = message.setdefault(name, {})
    if not isinstance(inner, dict):
        raise _unfit(path, f"{path[:100]} leads into {name}, which is given as a value too")
    return inner


def _unfit(name: str, sentence: str) -> InvalidRequest:
    return InvalidRequest(
        sentence, violations=[Violation(name[:100], sentence, InvalidRequest.default_reason)]
    )


def _no_field(name: str, descriptor: Descriptor) -> InvalidRequest:
    known = ", ".join(field.camelcase_name for field in descriptor.fields) or "none"
    return _unfit(name, f"the query names {name[:100]!r}; the fields here are: {known}")
