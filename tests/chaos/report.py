"""What a run has shown, for people."""

import platform
import sqlite3
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import grpc

from services.rpc.crash import POINTS
from tests.chaos.checker import NAMES, Violation
from tests.chaos.faults import CRASH
from tests.chaos.processes import LEASE_SECONDS
from tests.chaos.rounds import Outcome


@dataclass(frozen=True)
class Run:
    """
    A whole run.

    Attributes:
        real_rounds: How many of the rounds had the device process with torch.
        late: Violations that were found when all rounds were over.
    """

    seed: int
    database: str
    real_rounds: int
    outcomes: Sequence[Outcome]
    late: Sequence[Violation]

    @property
    def violations(self) -> list[Violation]:
        """All of them."""
        return [*(v for outcome in self.outcomes for v in outcome.violations), *self.late]

    @property
    def reached(self) -> set[str]:
        """The crash points at which a process has ended."""
        return {
            fault.target
            for outcome in self.outcomes
            for fault in outcome.faults
            if fault.kind == CRASH and fault.target not in outcome.missed
        }

    def recovered(self, kind: str) -> list[float]:
        """How long jobs waited to run again after a process of this kind had died, in seconds."""
        return sorted(
            seconds
            for outcome in self.outcomes
            for one, seconds in outcome.recovered
            if one == kind
        )


def summary(run: Run) -> Iterator[str]:
    """Write a run as a section of Markdown, line by line."""
    seconds = sum(outcome.seconds for outcome in run.outcomes)
    yield f"## {len(run.outcomes)} rounds on {run.database}, seed {run.seed}"
    yield ""
    states = sum((outcome.states for outcome in run.outcomes), Counter[str]())
    shown = ", ".join(f"{count} {state}" for state, count in states.most_common())
    yield (
        f"{seconds:.0f} s, {run.real_rounds} rounds with the real device process."
        f" {states.total()} jobs: {shown}."
    )
    yield ""
    yield from _faults(run)
    yield ""
    yield from _recoveries(run)
    yield ""
    yield from _violations(run)
    orphans = run.outcomes[-1].orphans if run.outcomes else 0
    yield ""
    yield f"Files without an asset at the end, not yet due for collection: {orphans}."


def _faults(run: Run) -> Iterator[str]:
    counts = Counter(
        fault.target.partition(".")[0].partition("-")[0] + f" {fault.kind}"
        for outcome in run.outcomes
        for fault in outcome.faults
        if fault.target not in outcome.missed
    )
    yield "| fault | times |"
    yield "|---|---|"
    yield from (f"| {name} | {count} |" for name, count in sorted(counts.items()))
    missing = sorted(set(POINTS) - run.reached)
    yield ""
    yield f"Crash points at which a process has died: {len(run.reached)} of {len(POINTS)}."
    if missing:
        yield f"Not: {', '.join(missing)}."


def _recoveries(run: Run) -> Iterator[str]:
    yield f"From the end of a process to its jobs running again (lease {LEASE_SECONDS:g} s):"
    yield ""
    yield "| process | jobs | p50 | p99 | most |"
    yield "|---|---|---|---|---|"
    for kind in ("inference", "device"):
        times = run.recovered(kind)
        if times:
            p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
            p50 = statistics.median(times)
            yield f"| {kind} | {len(times)} | {p50:.2f} s | {p99:.2f} s | {times[-1]:.2f} s |"


def _violations(run: Run) -> Iterator[str]:
    counts = Counter(violation.invariant for violation in run.violations)
    yield "| invariant | violations |"
    yield "|---|---|"
    yield from (f"| {name} | {counts[name]} |" for name in sorted(NAMES))


def versions() -> str:
    """Tell what it ran on."""
    parts = {
        "Python": platform.python_version(),
        "grpcio": grpc.__version__,
        "SQLite": sqlite3.sqlite_version,
        "SQLAlchemy": version("sqlalchemy"),
        platform.system(): platform.release(),
    }
    return ", ".join(f"{name} {number}" for name, number in parts.items())
