"""What the device thread tells about an attempt while it draws, and how it learns to stop."""

import math
import threading
import time
from collections.abc import Callable

from google.protobuf import duration_pb2

from pictor.inference.v1 import progress_pb2
from pictor.inference.v1.progress_pb2 import Progress
from pictor.worker.v1 import worker_pb2
from services.inference.worker.lease import Lease
from services.rpc.crash import crash_point
from services.rpc.errors import Canceled, DeadlineExceeded


class Reports:
    """
    Sends an attempt's reports. Called from the device thread, except for ``stop`` and ``finish``.

    Args:
        emit: Takes a report; called in whatever thread reports.
        deadline: When the attempt's time is over, on the monotonic clock, in seconds.
        lease: Ends when the attempt may be made elsewhere; none for ever.
    """

    def __init__(
        self,
        emit: Callable[[worker_pb2.Report], None],
        deadline: float = math.inf,
        lease: Lease | None = None,
    ) -> None:
        self._emit = emit
        self.deadline = deadline
        self._lease = lease or Lease()
        self._stopped = threading.Event()
        self._enough = threading.Event()
        self._started = time.monotonic()
        self._first_step: tuple[float, int] | None = None
        self._progress = Progress()

    def wait(self) -> None:
        """Report that the attempt waits for the device."""
        self._send(Progress())

    def start(self) -> None:
        """Count the time from here: the device has turned to the attempt."""
        self.check()
        self._started = time.monotonic()

    def stop(self) -> None:
        """Make the attempt end at its next step."""
        self._stopped.set()

    def finish(self) -> None:
        """Make the attempt end with what it has: it takes no further step."""
        self._enough.set()

    @property
    def is_enough(self) -> bool:
        """Whether what there is is to be the result."""
        return self._enough.is_set()

    def check(self) -> None:
        """
        Return if the attempt is still wanted.

        Raises:
            Canceled: If it was stopped, or its lease has ended.
            DeadlineExceeded: If its time is over.
        """
        self._lease.check()
        if self._stopped.is_set():
            raise Canceled("the attempt was stopped by its caller")
        if time.monotonic() > self.deadline:
            raise DeadlineExceeded("the attempt's deadline came before its end")

    def phase(self, phase: Progress.Phase.ValueType) -> None:
        """Report what the device does next."""
        self.check()
        self._progress.phase = phase
        self._progress.ClearField("loaded_fraction")
        self._send(self._progress)

    def loaded(self, fraction: float) -> None:
        """Report how much of the weights has been read, 0 to 1; raises nothing."""
        self._progress.phase = Progress.PHASE_LOADING
        self._progress.loaded_fraction = fraction
        self._send(self._progress)

    def step(self, done: int, count: int) -> None:
        """Report that *done* of *count* steps are taken."""
        crash_point("device.step")
        if self._first_step is None:
            self._first_step = (time.monotonic(), done)
        self._progress = Progress(phase=Progress.PHASE_DENOISING, step=done, step_count=count)
        self._estimate(*self._first_step)
        self._send(self._progress)

    def preview(self, preview: progress_pb2.Preview) -> None:
        """Show an unfinished image."""
        self._emit(worker_pb2.Report(preview=preview))

    def _send(self, progress: Progress) -> None:
        if progress.phase:
            progress.elapsed.CopyFrom(duration(time.monotonic() - self._started))
        report = worker_pb2.Report()
        report.progress.CopyFrom(progress)
        self._emit(report)

    def _estimate(self, since: float, first: int) -> None:
        # The first step also warms caches up: what remains is estimated from those after it.
        taken = self._progress.step - first
        if taken > 0:
            left = self._progress.step_count - self._progress.step
            a_step = (time.monotonic() - since) / taken
            self._progress.remaining.CopyFrom(duration(a_step * left))


def duration(seconds: float) -> duration_pb2.Duration:
    """Write a length of time as a message."""
    message = duration_pb2.Duration()
    message.FromMicroseconds(round(seconds * 1e6))
    return message
