"""
Pages of a list: how many entries one holds, and the token that continues after its last one.

A token holds the sort key of a page's last entry. It is opaque to clients: URL-safe base64, without
padding, of a JSON list of printable ASCII strings.
"""

import base64
import json
import re
from collections.abc import Sequence

from pictor.errors.v1 import error_reason_pb2
from services.rpc.errors import InvalidRequest, invalid

LARGEST_PAGE = 1000
_PART = re.compile(r"[\x20-\x7e]{1,200}")

# The sort key of most lists: when an entry was made, in microseconds since the epoch, and its id,
# which orders entries of the same microsecond.
Position = tuple[int, str]


def page_size(requested: int, default: int = 50) -> int:
    """
    Return how many entries a page may hold; 0 means *default*.

    Raises:
        InvalidRequest: If it is negative or above 1000.
    """
    if not 0 <= requested <= LARGEST_PAGE:
        raise invalid(
            "page_size",
            f"page_size {requested} is out of range; give 1 to {LARGEST_PAGE}, or 0 for {default}",
            error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE,
        )
    return requested or default


def encode_token(*parts: str) -> str:
    """Return the token of a page whose last entry has the sort key *parts*."""
    text = json.dumps(parts, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode("ascii").rstrip("=")


def decode_token(text: str, count: int) -> tuple[str, ...]:
    """
    Return the *count* parts of a token; nothing at all for the empty token of a first page.

    Raises:
        InvalidRequest: If this is no token that ``encode_token`` made of *count* parts.
    """
    if not text:
        return ()
    try:
        padded = text + "=" * (-len(text) % 4)
        parts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        parts = None
    if not _is_key(parts, count):
        raise _unknown_token()
    return tuple(parts)


def position(token: str) -> Position | None:
    """
    Return the position behind which a page begins; None for a first page.

    Raises:
        InvalidRequest: If this is no token of such a list.
    """
    parts = decode_token(token, 2)
    if not parts:
        return None
    moment, entry = parts
    if not re.fullmatch("[0-9]{1,18}", moment):
        raise _unknown_token()
    return int(moment), entry


def next_token(positions: Sequence[Position], limit: int) -> str:
    """
    Return the token of the page behind this one; empty if this is the last.

    Args:
        positions: Of the entries that were found, when one more than *limit* was asked for.
        limit: How many of them the page holds.
    """
    if len(positions) <= limit:
        return ""
    moment, entry = positions[limit - 1]
    return encode_token(str(moment), entry)


def _is_key(parts: object, count: int) -> bool:
    return (
        isinstance(parts, list)
        and len(parts) == count
        and all(isinstance(part, str) and _PART.fullmatch(part) for part in parts)
    )


def _unknown_token() -> InvalidRequest:
    return invalid(
        "page_token",
        "page_token is not one that this list gave; send next_page_token of the page before, "
        "or nothing for the first page",
    )


def sequence_of(page_token: str) -> int:
    """
    Read the token of a list that is ordered by numbers.

    Raises:
        InvalidRequest: If it is not one of ours.
    """
    (text,) = decode_token(page_token, 1)
    if not re.fullmatch("[0-9]{1,18}", text):
        raise invalid("page_token", "page_token is not one that this server has given out")
    return int(text)
