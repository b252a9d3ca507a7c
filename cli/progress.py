"""The progress bar of one job, on standard error."""

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from pictor.inference.v1 import progress_pb2
from pictor.inference.v1.inference_service_pb2 import WatchJobResponse
from pictor.inference.v1.job_pb2 import Job

PHASES = {
    progress_pb2.Progress.PHASE_UNSPECIFIED: "starting",
    progress_pb2.Progress.PHASE_LOADING: "loading the model",
    progress_pb2.Progress.PHASE_ENCODING: "reading the prompt",
    progress_pb2.Progress.PHASE_DENOISING: "drawing",
    progress_pb2.Progress.PHASE_DECODING: "decoding",
    progress_pb2.Progress.PHASE_STORING: "storing",
}
FINISHED = {
    Job.STATE_SUCCEEDED: "done",
    Job.STATE_FAILED: "failed",
    Job.STATE_CANCELED: "canceled",
}


class JobProgress:
    """
    Shows what a watch tells, within a ``with`` block; nothing where nobody sees a bar.

    Args:
        console: Where the bar goes; standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[steps]}"),
            TextColumn("{task.fields[seconds]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._bar.add_task("", total=None, steps="", seconds="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, told: WatchJobResponse) -> None:
        """Show one message of a watch."""
        progress = told.progress
        self._bar.update(
            self._task,
            description=description(told),
            completed=progress.step,
            total=progress.step_count or None,
            **words(progress),
        )


def description(told: WatchJobResponse) -> str:
    """Say in a few words what becomes of the job at the moment."""
    if told.state == Job.STATE_QUEUED:
        position = told.progress.queue_position
        return f"waiting, {position} before this one" if position else "waiting, next"
    return FINISHED.get(told.state) or PHASES.get(told.progress.phase, "running")


def words(progress: progress_pb2.Progress) -> dict[str, Any]:
    """Return what stands beside the bar and has changed: steps done, seconds spent and to come."""
    changed = {}
    if progress.step_count:
        changed["steps"] = f"step {progress.step}/{progress.step_count}"
    # The last message may tell no times any more; what was shown stays.
    if progress.HasField("elapsed"):
        changed["seconds"] = f"{progress.elapsed.ToTimedelta().total_seconds():.1f} s"
        if progress.HasField("remaining") and progress.remaining.ToNanoseconds() > 0:
            remaining = progress.remaining.ToTimedelta().total_seconds()
            changed["seconds"] += f", about {remaining:.0f} s left"
    return changed
