"""
Who holds what, and until when: leases that no wall clock decides.

A process of the service holds its jobs as long as its heartbeat counts up in the database. Whoever
sees a heartbeat stand still for the length of a lease, by a monotonic clock of its own, knows that
the process is gone; a process whose own heartbeat was not acknowledged for as long knows it of
itself, and sooner, because it counts from before it was sent.
"""

import time
from collections.abc import Callable, Mapping

Clock = Callable[[], float]
LOOKS = 12


class Leases:
    """
    Watches heartbeats.

    Args:
        lease_seconds: How long a heartbeat counts.
        clock: Monotonic, in seconds.
    """

    def __init__(self, lease_seconds: float, clock: Clock = time.monotonic) -> None:
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}
        self._acknowledged = clock()

    def now(self) -> float:
        """Read the clock."""
        return self._clock()

    def acknowledge(self, sent: float) -> None:
        """Note that the heartbeat which was sent at this moment is written."""
        self._acknowledged = max(self._acknowledged, sent)

    @property
    def left_seconds(self) -> float:
        """How long this process still holds what it has; not above 0 when it has lost it."""
        return self._acknowledged + self._lease_seconds - self._clock()

    @property
    def look_seconds(self) -> float:
        """
        How often the heartbeats of others are to be looked at.

        One is seen up to one look late, and its end up to another: a sixth of a lease in all.
        """
        return self._lease_seconds / LOOKS

    def gone(self, beats: Mapping[str, int]) -> set[str]:
        """
        Name the processes whose heartbeats have stood still for the length of a lease.

        Args:
            beats: How often each process has beaten, as just read.
        """
        now = self._clock()
        self._seen = {
            process: seen if (seen := self._seen.get(process)) and seen[0] == beat else (beat, now)
            for process, beat in beats.items()
        }
        return {
            process
            for process, (_, since) in self._seen.items()
            if now - since >= self._lease_seconds
        }
