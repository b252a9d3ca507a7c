"""The progress bar, as a terminal shows it."""

import io
import re

import pytest
from google.protobuf.duration_pb2 import Duration
from rich.console import Console

from cli.progress import JobProgress
from pictor.inference.v1.inference_service_pb2 import WatchJobResponse
from pictor.inference.v1.job_pb2 import Job
from pictor.inference.v1.progress_pb2 import Progress

CASES = [
    (Job.STATE_QUEUED, Progress(queue_position=3), "waiting, 3 before this one"),
    (Job.STATE_QUEUED, Progress(), "waiting, next"),
    (Job.STATE_RUNNING, Progress(phase=Progress.PHASE_LOADING), "loading the model"),
    (
        Job.STATE_RUNNING,
        Progress(
            phase=Progress.PHASE_DENOISING,
            step=7,
            step_count=25,
            elapsed=Duration(seconds=2, nanos=400_000_000),
            remaining=Duration(seconds=6),
        ),
        "drawing step 7/25 2.4 s, about 6 s left",
    ),
    (Job.STATE_SUCCEEDED, Progress(step=25, step_count=25), "done step 25/25"),
]


@pytest.mark.parametrize(("state", "progress", "text"), CASES)
def test_the_bar_tells_where_the_job_stands(
    state: Job.State.ValueType, progress: Progress, text: str
):
    """
    The line tells the queue position, the phase, the steps and the seconds.
    """
    assert text in shown(WatchJobResponse(state=state, progress=progress))


def test_the_time_stays_when_the_job_is_done():
    """
    The last message tells no time; the bar keeps what it showed.
    """
    progress = Progress(step=25, step_count=25, elapsed=Duration(seconds=3))
    drawing = WatchJobResponse(state=Job.STATE_RUNNING, progress=progress)
    last = WatchJobResponse(state=Job.STATE_SUCCEEDED, progress=Progress(step=25, step_count=25))

    assert shown(drawing, last).endswith("done step 25/25 3.0 s")


def test_nothing_is_shown_where_there_is_no_terminal():
    """
    A log file gets no bar: what a command says in it is its result, or one line of error.
    """
    file = io.StringIO()
    with JobProgress(Console(file=file)) as bar:
        bar.show(WatchJobResponse(state=Job.STATE_QUEUED))

    assert file.getvalue() == ""


def shown(*messages: WatchJobResponse) -> str:
    """Return all that a terminal got to see, without the bar itself and its colours."""
    screen = io.StringIO()
    with JobProgress(Console(file=screen, width=120, force_terminal=True)) as bar:
        for message in messages:
            bar.show(message)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|[━╸╺]", "", screen.getvalue())
    return " ".join(plain.split())
