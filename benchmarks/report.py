"""How a benchmark states what it found: medians, spread, and a ratio against a named baseline."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """
    One claim.

    Attributes:
        claim: What was measured.
        ours: Seconds of each repeat, or MB.
        baseline: The same of what it is compared with; empty where there is a limit instead.
        goal: The greatest permitted ratio, or the limit itself. None where there is none.
        unit: Of ``ours`` and ``baseline``.
    """

    claim: str
    ours: Sequence[float]
    baseline: Sequence[float] = ()
    goal: float | None = None
    unit: str = "s"

    @property
    def value(self) -> float:
        """The ratio of the medians, or the median itself where there is no baseline."""
        if not self.baseline:
            return statistics.median(self.ours)
        return statistics.median(self.ours) / statistics.median(self.baseline)

    @property
    def verdict(self) -> str:
        """Whether the goal is reached."""
        if self.goal is None:
            return ""
        return "reached" if self.value <= self.goal else "missed"


def table(rows: Sequence[Row]) -> str:
    """Write rows as a Markdown table."""
    lines = ["| claim | ours | baseline | value | goal | |", "|---|---|---|---|---|---|"]
    for row in rows:
        goal = "" if row.goal is None else f"{row.goal:g}"
        lines.append(
            f"| {row.claim} | {_spread(row.ours, row.unit)} | {_spread(row.baseline, row.unit)}"
            f" | {row.value:.3g} | {goal} | {row.verdict} |"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float], unit: str) -> str:
    if not values:
        return ""
    median = statistics.median(values)
    return f"{median:.3g} {unit} ({min(values):.3g} to {max(values):.3g}, n={len(values)})"
