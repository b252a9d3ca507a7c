"""
What the gateway remembers of a full queue: who would be refused is told so before its body is read.

The inference service decides whether there is room. For a moment after it has said no, requests of
those it said it to are answered with the same words, at no cost: under ten times the load that can
be drawn, refusals would otherwise take the time that admissions need.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.errors import Exhausted

# Shorter than what callers are told to wait, and than they notice.
REMEMBERED_SECONDS = 0.25
REMEMBERED_ACCOUNTS = 10_000
EVERYBODY = ""


class Pressure:
    """
    Remembers refusals.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refusals: dict[str, tuple[float, Exhausted]] = {}

    def require_room(self, account: str) -> None:
        """
        Insist that the account was not refused a moment ago.

        Raises:
            Exhausted: As it was refused then.
        """
        for whose in (EVERYBODY, account):
            until, refused = self._refusals.get(whose, (0.0, None))
            if refused and self._clock() < until:
                raise refused.with_traceback(None)

    @contextmanager
    def noted(self, account: str) -> Iterator[None]:
        """Remember within the block that there is no room, if that is what comes of it."""
        try:
            yield
        except Exhausted as refused:
            if refused.reason == reasons.ERROR_REASON_QUEUE_FULL:
                whose = EVERYBODY if refused.metadata.get("of") == "everybody" else account
                if len(self._refusals) >= REMEMBERED_ACCOUNTS:
                    self._refusals.clear()
                self._refusals[whose] = (self._clock() + REMEMBERED_SECONDS, refused)
            raise
