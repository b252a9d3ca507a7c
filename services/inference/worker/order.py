"""
The order in which rows take their steps.

Higher priority first; a row that was passed over for long rises, so none starves; then those whose
deadline is near; then those with the least left to do, so that a picture of four steps is not held
up by one of fifty. Rows that share the first one's forward go along, but those with far more to do
only where that costs it little.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from services.inference.worker.rows import Row

# A row that was passed over this often counts as of the next higher priority: under a stream of
# more urgent ones it still takes one step in so many and one.
RISE_AFTER = 4
# A deadline is near when less than this many times the remaining work is left until then.
NEAR = 2.0
# Until a shape's first forward was timed.
UNKNOWN_SECONDS = 1e-3
# Rows with over so many times the steps of the most urgent one have far more to do.
FAR_MORE = 4
# They go along where the forward takes less than so many times as long with them.
LITTLE = 2.0
# How much the last forward counts in the estimate of the next one's time.
NEWEST = 0.3
# Of so many keys; those that were timed longest ago are forgotten.
KEPT = 1000


class Timings:
    """How long forwards take, by the key of their rows and by their number, in seconds."""

    def __init__(self) -> None:
        self._seconds: dict[Any, float] = {}
        self._latest: dict[Any, float] = {}

    def note(self, key: object, count: int, seconds: float) -> None:
        """Take a forward of so many rows into account."""
        before = self._seconds.pop((key, count), seconds)
        self._seconds[key, count] = before + NEWEST * (seconds - before)
        self._latest.pop(key, None)
        self._latest[key] = self._seconds[key, count]
        for kept in (self._seconds, self._latest):
            if len(kept) > KEPT:
                del kept[next(iter(kept))]

    def of(self, key: object, count: int) -> float:
        """Return how long a forward of so many rows takes; 0 where there was none yet."""
        return self._seconds.get((key, count), 0.0)

    def latest(self, key: object) -> float:
        """Return how long a forward takes with as many rows as there were last."""
        return self._latest.get(key, UNKNOWN_SECONDS)


def choose(
    rows: Sequence[Row],
    most: Callable[[object], int],
    timings: Timings,
    now: Callable[[], float] = time.monotonic,
) -> list[Row]:
    """
    Choose the rows of the next forward, and count the others as passed over.

    Args:
        rows: All that wait; at least one.
        most: How many rows of a key may share a forward.
        timings: How long forwards took.
        now: The monotonic clock.

    Returns:
        Rows of one key, the most urgent first.
    """
    moment = now()

    def urgency(row: Row) -> tuple[int, bool, float]:
        standing = row.standing
        left = standing.remaining_steps * timings.latest(row.key)
        return (
            -(standing.priority + standing.passed_over // RISE_AFTER),
            standing.deadline - moment > NEAR * left,
            left,
        )

    ordered = sorted(rows, key=urgency)
    key = ordered[0].key
    chosen = _welcome([row for row in ordered if row.key == key][: most(key)], timings)
    for row in rows:
        row.standing.passed_over += 1
    for row in chosen:
        row.standing.passed_over = 0
    return chosen


def _welcome(rows: list[Row], timings: Timings) -> list[Row]:
    """Leave out those with far more to do, where they would slow the most urgent one down."""
    key, few = rows[0].key, FAR_MORE * rows[0].standing.remaining_steps
    near = [row for row in rows if row.standing.remaining_steps <= few]
    slowed = timings.of(key, len(rows)) > LITTLE * timings.of(key, len(near))
    return near if slowed else rows
