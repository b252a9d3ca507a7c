"""What the bearers of keys have chosen in public APIs that keep choices."""

import json
import re
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format, struct_pb2

from pictor.errors.v1 import error_reason_pb2
from services.accounts.store import Store
from services.rpc.errors import invalid

LONGEST = 64 * 1024
_OWNER = re.compile(r"accounts/[0-9a-f]{32}(/apiKeys/[0-9a-f]{32})?")
_DIALECT = re.compile(r"[a-z0-9_-]{1,40}")

Choices = dict[str, Any]


class Preferences:
    """
    Keeps choices.

    Args:
        store: Where.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, owner: str, dialect: str) -> Choices:
        """
        Read what was chosen.

        Raises:
            InvalidRequest: If the owner or the dialect is no name.
        """
        _check(owner, dialect)
        return _read(await self._store.preferences(owner, dialect))

    async def update(self, owner: str, dialect: str, changes: Mapping[str, Any]) -> Choices:
        """
        Lay changes over what was chosen; None forgets a choice.

        Raises:
            InvalidRequest: If the owner or the dialect is no name, or there would be too much.
        """
        _check(owner, dialect)

        def changed(before: str) -> str:
            merged = {**_read(before), **changes}
            kept = {name: value for name, value in merged.items() if value is not None}
            text = json.dumps(kept)
            if len(text) > LONGEST:
                raise invalid(
                    "values",
                    f"values would have {len(text)} characters as JSON; at most {LONGEST} are kept",
                    error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE,
                )
            return text

        return _read(await self._store.change_preferences(owner, dialect, changed))


def to_struct(choices: Mapping[str, Any]) -> struct_pb2.Struct:
    """Write choices as a message."""
    struct = struct_pb2.Struct()
    struct.update(choices)
    return struct


def from_struct(struct: struct_pb2.Struct) -> Choices:
    """Read choices from a message."""
    return json_format.MessageToDict(struct)


def _check(owner: str, dialect: str) -> None:
    if not _OWNER.fullmatch(owner):
        raise invalid("owner", f"owner {owner[:100]!r} names neither an account nor an API key")
    if not _DIALECT.fullmatch(dialect):
        raise invalid("dialect", f"dialect {dialect[:100]!r} is not 1 to 40 of a-z, 0-9, _ and -")


def _read(text: str) -> Choices:
    return dict(json.loads(text)) if text else {}
