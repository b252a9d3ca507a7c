"""
How fast pictures have been drawn of late, and so how long the next one takes.

Kept in memory, as two moving averages: after a restart nothing is known, and nothing is said until
a job has ended.
"""

from collections.abc import Callable

from pictor.inference.v1 import job_pb2
from services.inference.prices import pixel_steps

# How much the newest job counts.
WEIGHT = 0.2
# Who is told to come back is told so within these.
LEAST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 60.0


class Paces:
    """
    Remembers how fast each model draws, and how long a job is on a device.

    Attributes:
        slot_count: Tells how many jobs are drawn at once.
    """

    def __init__(self) -> None:
        self.slot_count: Callable[[], int] = lambda: 1
        self._seconds_per_pixel_step: dict[str, float] = {}
        self._job_seconds: float | None = None

    def note(self, job: job_pb2.Job) -> None:
        """Learn from a job that has succeeded."""
        seconds = (job.finish_time.ToNanoseconds() - job.start_time.ToNanoseconds()) / 1e9
        work = pixel_steps(job.generation)
        if seconds <= 0 or work <= 0:
            return
        # Loading a model is not what the next job waits for.
        seconds = max(seconds - job.result.timings.load.ToNanoseconds() / 1e9, 0.0)
        model = job.served_by or job.generation.model
        before = self._seconds_per_pixel_step.get(model)
        self._seconds_per_pixel_step[model] = _mixed(before, seconds / work)
        self._job_seconds = _mixed(self._job_seconds, seconds)

    def next_end_seconds(self) -> float:
        """Tell how long it will be until one of the running jobs has ended, at a guess."""
        seconds = (self._job_seconds or LEAST_WAIT_SECONDS) / max(self.slot_count(), 1)
        return min(max(seconds, LEAST_WAIT_SECONDS), LONGEST_WAIT_SECONDS)

    def expected_seconds(self, job: job_pb2.Job, ahead: int) -> float | None:
        """
        Tell how long it will be until a queued job is drawn.

        Args:
            job: With its generation, and the model that draws.
            ahead: How many jobs go first.

        Returns:
            Seconds, or None if no job of this model has ended since the start.
        """
        pace = self._seconds_per_pixel_step.get(job.served_by or job.generation.model)
        if pace is None or self._job_seconds is None:
            return None
        rounds = ahead // max(self.slot_count(), 1)
        return rounds * self._job_seconds + pace * pixel_steps(job.generation)


def _mixed(before: float | None, newest: float) -> float:
    return newest if before is None else before + WEIGHT * (newest - before)
