"""
Words for describing bodies: JSON Schema, as OpenAPI 3.1 has it, in a form that is quick to read.

    REQUEST = record(
        {"prompt": text("What to draw."), "steps": optional(integer(1, 1000))},
        required=["prompt"],
    )

A schema is data: it stands beside the ``decode`` and the ``encode`` that it describes,
``/openapi.json`` shows it, and the tests hold every reply against it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]


def text(about: str = "", **rules: Any) -> Schema:
    """Describe a text; *rules* are JSON Schema's own, e.g. ``examples=["a red circle"]``."""
    return _described({"type": "string", **rules}, about)


def integer(least: int | None = None, most: int | None = None, about: str = "") -> Schema:
    """Describe a whole number within bounds."""
    return _described({"type": "integer", **_bounds(least, most)}, about)


def number(least: float | None = None, most: float | None = None, about: str = "") -> Schema:
    """Describe a number within bounds."""
    return _described({"type": "number", **_bounds(least, most)}, about)


def switch(about: str = "") -> Schema:
    """Describe true or false."""
    return _described({"type": "boolean"}, about)


def choice(values: Sequence[Any], about: str = "") -> Schema:
    """Describe one of some values."""
    return _described({"enum": list(values)}, about)


def listed(items: Schema, about: str = "", **rules: Any) -> Schema:
    """Describe a list, all of whose items look alike."""
    return _described({"type": "array", "items": items, **rules}, about)


def record(
    properties: Mapping[str, Schema], required: Sequence[str] = (), about: str = "", **rules: Any
) -> Schema:
    """Describe an object; it may have more than these properties, unless *rules* say otherwise."""
    schema = {"type": "object", "properties": dict(properties), **rules}
    if required:
        schema["required"] = list(required)
    return _described(schema, about)


def answered(properties: Mapping[str, Schema], about: str = "") -> Schema:
    """Describe an object of ours: all of these properties are there, and no others."""
    return record(properties, list(properties), about, additionalProperties=False)


def optional(schema: Schema) -> Schema:
    """Describe what may also be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def refused(about: str) -> Schema:
    """Describe a property that must not be there."""
    return _described({"not": {}}, about)


def image(about: str = "An image in base64, plain or as a data URL.") -> Schema:
    """Describe an image inside of JSON."""
    return text(about, contentEncoding="base64")


def file(about: str = "An image: PNG, JPEG or WebP.") -> Schema:
    """Describe a file of a form."""
    return text(about, contentMediaType="application/octet-stream", format="binary")


def _bounds(least: float | None, most: float | None) -> dict[str, float]:
    bounds = {"minimum": least, "maximum": most}
    return {name: value for name, value in bounds.items() if value is not None}


def _described(schema: dict[str, Any], about: str) -> Schema:
    return {**schema, "description": about} if about else schema
