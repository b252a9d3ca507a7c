"""
Settings: frozen dataclasses, read once from the environment by a process's composition root.

A field made by ``setting`` names its variable, its meaning and its unit; ``read`` fills the
dataclass and ``describe`` lists it for ``--help`` and the documentation. A value that breaks its
rule is a ``SettingError`` that names variable, value and rule.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

S = TypeVar("S")


class SettingError(Exception):
    """A variable whose value breaks its rule."""


class Description(NamedTuple):
    """One setting, as a person reads it."""

    variable: str
    default: str
    meaning: str


def setting(variable: str, default: str, parse: Callable[[str], Any], meaning: str) -> Any:
    """
    Declare a field of a settings dataclass.

    Args:
        variable: The environment variable, ``PICTOR_...``.
        default: What holds when the variable is absent or empty, in the variable's own notation.
        parse: Turns the text into the field's value; raises ValueError with the rule.
        meaning: One sentence, with the unit.
    """
    metadata = {"variable": variable, "default": default, "parse": parse, "meaning": meaning}
    return dataclasses.field(default_factory=lambda: parse(default), metadata=metadata)


def read(cls: type[S], environ: Mapping[str, str]) -> S:
    """
    Fill a settings dataclass from the environment.

    Raises:
        SettingError: If a value breaks its rule.
    """
    values = {}
    for field in _settings(cls):
        text = environ.get(field.metadata["variable"], "") or field.metadata["default"]
        try:
            values[field.name] = field.metadata["parse"](text)
        except ValueError as error:
            raise SettingError(f"{field.metadata['variable']}={text!r}: {error}") from None
    return cls(**values)


def describe(cls: type[object]) -> list[Description]:
    """List the settings of a dataclass in the order of its fields."""
    return [
        Description(f.metadata["variable"], f.metadata["default"], f.metadata["meaning"])
        for f in _settings(cls)
    ]


def address(text: str) -> str:
    """Parse ``host:port``; the port may be 0 for any free one."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be host:port, with a port from 0 to 65535")
    return text


def directory(text: str) -> pathlib.Path:
    """Parse a folder, which need not exist yet."""
    return pathlib.Path(text).expanduser().absolute()


def choice(*values: str) -> Callable[[str], str]:
    """Parse one of the given words."""

    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return text

    return parse


def url(text: str) -> str:
    """Parse an absolute http or https URL, without its last slash; empty stays empty."""
    if text and (urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).netloc):
        raise ValueError("must be an absolute URL such as https://pictor.example.com")
    return text.rstrip("/")


def seconds(text: str) -> float:
    """Parse a length of time in seconds, above 0."""
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError("must be a number of seconds above 0")
    return value


def duration(text: str) -> float:
    """Parse a length of time in seconds, which may be 0."""
    value = float(text)
    if not 0 <= value < 1e9:
        raise ValueError("must be a number of seconds, 0 or more")
    return value


def count(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise ValueError("must be a whole number from 1 to 1000000")
    return int(text)


def number(text: str) -> int:
    """Parse a whole number, which may be 0."""
    if not text.isdecimal() or int(text) > 1_000_000_000:
        raise ValueError("must be a whole number from 0 to 1000000000")
    return int(text)


def switch(text: str) -> bool:
    """Parse true or false."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise ValueError("must be true or false")
    return words[text.lower()]


def _settings(cls: type[object]) -> Iterator[dataclasses.Field[Any]]:
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # callers pass dataclasses
        if "variable" in field.metadata:
            yield field
