"""
The order in which rows take their steps.

Higher priority first; a row that was passed over for long rises, so none starves; then those whose
deadline is near; then those with the least left to do, so that a picture of four steps is not held
up by one of fifty. Rows that share the first one's forward go along.
"""

import time
from collections.abc import Callable, Sequence

from services.inference.worker.rows import Row

# A row that was passed over this often counts as of the next higher priority: under a stream of
# more urgent ones it still takes one step in so many and one.
RISE_AFTER = 4
# A deadline is near when less than this many times the remaining work is left until then.
NEAR = 2.0
# Until a shape's first forward was timed.
UNKNOWN_SECONDS = 1e-3


def choose(
    rows: Sequence[Row],
    most: Callable[[object], int],
    step_seconds: Callable[[object], float],
    now: Callable[[], float] = time.monotonic,
) -> list[Row]:
    """
    Choose the rows of the next forward, and count the others as passed over.

    Args:
        rows: All that wait; at least one.
        most: How many rows of a key may share a forward.
        step_seconds: How long a forward of a key takes, in seconds; 0 where nobody knows.
        now: The monotonic clock.

    Returns:
        Rows of one key, the most urgent first.
    """
    moment = now()

    def urgency(row: Row) -> tuple[int, bool, float]:
        standing = row.standing
        left = standing.remaining_steps * (step_seconds(row.key) or UNKNOWN_SECONDS)
        return (
            -(standing.priority + standing.passed_over // RISE_AFTER),
            standing.deadline - moment > NEAR * left,
            left,
        )

    ordered = sorted(rows, key=urgency)
    key = ordered[0].key
    chosen = [row for row in ordered if row.key == key][: most(key)]
    for row in rows:
        row.standing.passed_over += 1
    for row in chosen:
        row.standing.passed_over = 0
    return chosen
