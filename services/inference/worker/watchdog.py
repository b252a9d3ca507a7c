"""Notices when the device's thread hangs: from within it, nobody could."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator

LOOKS_A_LIMIT = 10
LONGEST_PAUSE_SECONDS = 5.0


class Watchdog:
    """
    Calls for help when something takes longer than it may.

    Args:
        limit_seconds: How long one thing may take; ``math.inf`` watches nothing.
        bark: Called once, in a thread of the watchdog's, when one takes longer.
    """

    def __init__(self, limit_seconds: float, bark: Callable[[], None]) -> None:
        self._limit_seconds = limit_seconds
        self._bark = bark
        self._until = math.inf
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin to watch."""
        if self._limit_seconds < math.inf:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Expect the block to end in time."""
        self._until = time.monotonic() + self._limit_seconds
        try:
            yield
        finally:
            self._until = math.inf

    def _watch(self) -> None:
        pause = min(LONGEST_PAUSE_SECONDS, self._limit_seconds / LOOKS_A_LIMIT)
        while not self._closed.wait(pause):
            if time.monotonic() > self._until:
                self._bark()
                return
