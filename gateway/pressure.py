"""
What the gateway remembers of a full queue: who would be refused is told so before its body is read.

The inference service decides whether there is room. For a moment after it has said no, requests of
those it said it to are answered with the same words, at no cost: under ten times the load that can
be drawn, refusals would otherwise take the time that admissions need. After that moment one request
at a time asks again, and the others are refused until it is answered; that goes on until nobody has
been refused for a while.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.errors import Exhausted

# Shorter than what callers are told to wait, and than they notice.
REMEMBERED_SECONDS = 0.25
# Who asks for the others may have a large body to send first; then somebody else asks.
ASKING_SECONDS = 1.0
FORGOTTEN_SECONDS = 1.0
REMEMBERED_ACCOUNTS = 10_000
EVERYBODY = ""


@dataclass
class _Refusal:
    """What was said last, when, and until when it is said to all others."""

    error: Exhausted
    since: float
    until: float


class Pressure:
    """
    Remembers refusals.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refusals: dict[str, _Refusal] = {}

    def require_room(self, account: str) -> None:
        """
        Insist that the account was not refused a moment ago, or asks again for all its requests.

        Raises:
            Exhausted: As it was refused then.
        """
        known = [one for one in map(self._refusals.get, (EVERYBODY, account)) if one]
        now = self._clock()
        for refusal in known:
            if now < refusal.until:
                raise refusal.error.with_traceback(None)
        for refusal in known:
            refusal.until = now + ASKING_SECONDS

    @contextmanager
    def noted(self, account: str) -> Iterator[None]:
        """Remember what came of asking for a job within the block, or for what it needs."""
        try:
            yield
        except Exhausted as refused:
            if refused.reason == reasons.ERROR_REASON_QUEUE_FULL:
                self._remember(account, refused)
            raise

    def admitted(self, account: str) -> None:
        """Let the next one ask: there was room."""
        now = self._clock()
        for whose in (EVERYBODY, account):
            refusal = self._refusals.get(whose)
            if refusal and now - refusal.since > FORGOTTEN_SECONDS:
                del self._refusals[whose]
            elif refusal:
                refusal.until = now

    def _remember(self, account: str, refused: Exhausted) -> None:
        whose = EVERYBODY if refused.metadata.get("of") == "everybody" else account
        if len(self._refusals) >= REMEMBERED_ACCOUNTS:
            self._refusals.clear()
        now = self._clock()
        self._refusals[whose] = _Refusal(refused, now, now + REMEMBERED_SECONDS)
