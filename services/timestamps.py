"""Moments as the stores keep them: integer microseconds since the epoch, UTC."""

import time

from google.protobuf import timestamp_pb2

from services.rpc.errors import invalid

# The years 1 to 9999, which is what google.protobuf.Timestamp permits.
EARLIEST_SECONDS = -62_135_596_800
LATEST_SECONDS = 253_402_300_799

# In a second: the stores' unit.
MICROSECONDS = 1_000_000


def now() -> int:
    """Return the present moment, in microseconds since the epoch."""
    return time.time_ns() // 1000


def to_timestamp(moment: int | None) -> timestamp_pb2.Timestamp | None:
    """Write a moment as a message; None, which leaves a field unset, stays None."""
    if moment is None:
        return None
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromMicroseconds(moment)
    return timestamp


def future(timestamp: timestamp_pb2.Timestamp, field: str) -> int:
    """
    Read a moment that must lie in the future.

    Raises:
        InvalidRequest: If it does not, or is no moment of the years 1 to 9999.
    """
    if not EARLIEST_SECONDS <= timestamp.seconds <= LATEST_SECONDS:
        raise invalid(field, f"{field} of {timestamp.seconds} s is not in the years 1 to 9999")
    if not 0 <= timestamp.nanos < 1_000_000_000:
        raise invalid(field, f"{field}: nanos {timestamp.nanos} is outside 0 to 999999999")
    if timestamp.ToMicroseconds() <= now():
        raise invalid(
            field,
            f"{field} {timestamp.ToJsonString()} has passed; "
            "give a moment in the future, or none for no end",
        )
    return timestamp.ToMicroseconds()
