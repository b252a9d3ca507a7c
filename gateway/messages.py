"""
What the protos' messages look like as JSON, in JSON Schema.

Names are those of proto JSON; 64-bit numbers, durations and bytes are texts there. What a request
may spell in another way too (numbers as texts, say) is not described.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from gateway.bindings import Binding
from gateway.schemas import Schema

_OPTIONS = field_behavior_pb2.FieldBehavior
_SCALARS: dict[int, Schema] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_FLOAT: {"type": ["number", "string"]},
    FieldDescriptor.TYPE_DOUBLE: {"type": ["number", "string"]},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.TYPE_INT64: {"type": "string", "pattern": "^-?[0-9]{1,19}$"},
    FieldDescriptor.TYPE_UINT64: {"type": "string", "pattern": "^[0-9]{1,20}$"},
}
_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?s$"},
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
    },
}


def reference(message: Descriptor) -> Schema:
    """Return the schema of a message as others refer to it."""
    known = _WELL_KNOWN.get(message.full_name)
    return known or {"$ref": f"#/components/schemas/{message.full_name}"}


def schemas_of(messages: Sequence[Descriptor]) -> dict[str, Schema]:
    """Return the schemas of messages, and of all that they consist of, by full name."""
    found: dict[str, Descriptor] = {}
    left = list(messages)
    while left:
        message = left.pop()
        if message.full_name in found or message.full_name in _WELL_KNOWN:
            continue
        if not message.GetOptions().map_entry:
            found[message.full_name] = message
        left += [field.message_type for field in message.fields if field.message_type]
    return {name: _message(found[name]) for name in sorted(found)}


def request_body(binding: Binding) -> Schema | None:
    """Return the schema of a route's body; None where it has none."""
    message = binding.method.input_type
    if binding.body == "*":
        in_path = {variable.partition(".")[0] for variable in binding.variables}
        fields = [field for field in message.fields if field.name not in in_path]
        return _object(fields)
    if binding.body:
        return _field(message.fields_by_name[binding.body])
    return None


def query_fields(binding: Binding) -> Iterator[tuple[str, Schema]]:
    """Yield what the query of a route may hold: the fields that path and body leave."""
    taken = {binding.body, *binding.variables}
    for field in binding.method.input_type.fields:
        is_text = field.message_type is None or field.message_type.full_name in _WELL_KNOWN
        if binding.body != "*" and field.name not in taken and is_text:
            yield field.json_name, _field(field)


def path_of(template: str) -> tuple[str, list[str]]:
    """
    Return a route's path with a name for each wildcard, and the names.

    ``/pictor/v1/{name=jobs/*}:cancel`` is ``/pictor/v1/jobs/{job}:cancel``.
    """
    names: list[str] = []

    def named(match: re.Match[str]) -> str:
        names.append(match[1].removesuffix("s"))
        return f"{match[1]}/{{{names[-1]}}}"

    bare = re.sub(r"\{[a-z0-9_.]+=([^}]*)\}", r"\1", template)
    return re.sub(r"(\w+)/\*\*?", named, bare), names


def _message(message: Descriptor) -> Schema:
    return {**_object(message.fields), "title": message.name}


def _object(fields: Sequence[FieldDescriptor]) -> Schema:
    required = [field.json_name for field in fields if _is(field, _OPTIONS.REQUIRED)]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {field.json_name: _field(field) for field in fields},
        "additionalProperties": False,
    }
    return {**schema, "required": required} if required else schema


def _field(field: FieldDescriptor) -> Schema:
    schema = _of_type(field)
    if _is(field, _OPTIONS.OUTPUT_ONLY):
        schema = {**schema, "readOnly": True}
    return schema


def _of_type(field: FieldDescriptor) -> Schema:
    if field.message_type and field.message_type.GetOptions().map_entry:
        return {
            "type": "object",
            "additionalProperties": _single(field.message_type.fields_by_name["value"]),
        }
    return {"type": "array", "items": _single(field)} if field.is_repeated else _single(field)


def _single(field: FieldDescriptor) -> Schema:
    if field.message_type:
        return reference(field.message_type)
    return _enum(field.enum_type) if field.enum_type else _SCALARS[field.type]


def _enum(enum: EnumDescriptor) -> Schema:
    return {"type": "string", "enum": [value.name for value in enum.values]}


def _is(field: FieldDescriptor, behavior: field_behavior_pb2.FieldBehavior.ValueType) -> bool:
    return behavior in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
