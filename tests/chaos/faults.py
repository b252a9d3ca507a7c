"""What is done to the suite in a round, chosen by a seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from services.rpc.crash import POINTS
from tests.chaos.processes import LEASE_SECONDS

# A round's clients are at work for about so long.
BUSY_SECONDS = 0.8
KILL, CRASH, PAUSE = "kill", "crash", "pause"


@dataclass(frozen=True)
class Fault:
    """
    One thing that goes wrong.

    Attributes:
        kind: A process is killed, dies at a crash point, or stands still for a while.
        target: The process, or the point.
        delay_seconds: When, from the start of the round.
        seconds: How long it stands still.
    """

    kind: str
    target: str
    delay_seconds: float
    seconds: float = 0.0

    def __str__(self) -> str:
        pause = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.kind} {self.target}{pause} at {self.delay_seconds:.2f} s"


class Plan:
    """
    Chooses the faults of each round.

    Half of the rounds have two crash points, one after the other: each one in turn, in an order of
    chance, and again those that were not reached. The others kill one or two processes, or let one
    stand still for longer than its lease.

    Args:
        rng: Decides.
        names: The processes that can be killed.
        points: The crash points.
    """

    def __init__(
        self, rng: random.Random, names: Sequence[str], points: Sequence[str] = tuple(POINTS)
    ) -> None:
        self._rng = rng
        self._names = names
        self._points = list(points)
        self._round = 0
        self.left: list[str] = []

    def next(self, *, only_crashes: bool = False) -> list[Fault]:
        """Choose the faults of the next round."""
        self._round += 1
        if self._round % 2 or only_crashes:
            return [self._crash(), self._crash()]
        if self._rng.random() < 0.2:
            return [self._pause()]
        return [self._kill() for _ in range(self._rng.choice([1, 1, 2]))]

    def missed(self, point: str) -> None:
        """Try a point once more that no process has come to."""
        self.left.append(point)

    def _crash(self) -> Fault:
        if not self.left:
            self.left = self._rng.sample(self._points, len(self._points))
        return Fault(CRASH, self.left.pop(0), self._rng.uniform(0, BUSY_SECONDS / 4))

    def _kill(self) -> Fault:
        return Fault(KILL, self._rng.choice(self._names), self._rng.uniform(0, BUSY_SECONDS))

    def _pause(self) -> Fault:
        stopped = [n for n in self._names if n.startswith(("inference", "device"))]
        seconds = LEASE_SECONDS * self._rng.uniform(1.1, 1.8)
        delay = self._rng.uniform(0.1, BUSY_SECONDS / 2)
        return Fault(PAUSE, self._rng.choice(stopped), delay, seconds)
