"""How a benchmark states what it found: medians, spread, and a ratio against a named baseline."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


class NotMeasurable(Exception):
    """Raised where the machine lacks what a benchmark needs; the message says what."""


@dataclass(frozen=True)
class Row:
    """
    One claim.

    Attributes:
        claim: What was measured.
        ours: Seconds, images a second or megabytes of each repeat, see ``unit``.
        baseline: The same of what it is compared with, repeat by repeat; empty where there is a
            limit instead.
        goal: The greatest permitted ratio, or the limit itself. None where there is none.
        unit: Of ``ours`` and ``baseline``.
        at_least: The goal is the least permitted ratio instead.
        note: Where the time goes, or what else belongs to the claim.
    """

    claim: str
    ours: Sequence[float]
    baseline: Sequence[float] = ()
    goal: float | None = None
    unit: str = "s"
    at_least: bool = False
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Each repeat's own ratio: what else the machine did then befell both sides of it."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.baseline, strict=True)]

    @property
    def value(self) -> float:
        """The median of the ratios, or of our own values where there is no baseline."""
        return statistics.median(self.ratios if self.baseline else self.ours)

    @property
    def verdict(self) -> str:
        """Whether the goal is reached."""
        if self.goal is None:
            return ""
        reached = self.value >= self.goal if self.at_least else self.value <= self.goal
        return "reached" if reached else "missed"


def table(rows: Sequence[Row]) -> str:
    """Write rows as a Markdown table, and their notes below it."""
    lines = ["| claim | ours | baseline | value | goal | |", "|---|---|---|---|---|---|"]
    for row in rows:
        sign = "≥" if row.at_least else "≤"
        goal = "" if row.goal is None else f"{sign} {row.goal:g}"
        lines.append(
            f"| {row.claim} | {_spread(row.ours, row.unit)} | {_spread(row.baseline, row.unit)}"
            f" | {_value(row)} | {goal} | {row.verdict} |"
        )
    notes = [f"- {row.claim}: {row.note}" for row in rows if row.note]
    return "\n".join([*lines, "", *notes] if notes else lines)


def _value(row: Row) -> str:
    if not row.baseline:
        return f"{row.value:.3g}"
    return f"{row.value:.3g} ({min(row.ratios):.3g} to {max(row.ratios):.3g})"


def _spread(values: Sequence[float], unit: str) -> str:
    if not values:
        return ""
    median = statistics.median(values)
    return f"{median:.3g} {unit} ({min(values):.3g} to {max(values):.3g}, n={len(values)})"
