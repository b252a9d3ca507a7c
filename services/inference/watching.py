"""
One stream of events for each watcher of a job.

The watcher subscribes before it reads the job, so nothing falls between the two. From then on the
store tells every change of state, in order, and the hub the progress and the previews.
"""

import time
from collections.abc import AsyncIterator, Iterator, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from pictor.inference.v1 import inference_service_pb2, job_pb2
from services.inference.hub import Hub, Subscription
from services.inference.jobs import TERMINAL, Jobs
from services.inference.store import Event, JobStore

HEARTBEAT_SECONDS = 15.0
# At most four a second.
PROGRESS_SECONDS = 0.25

Response = inference_service_pb2.WatchJobResponse


class Watching:
    """
    Serves watchers.

    Args:
        jobs: Reads jobs, as their owner may.
        store: Has the changes of state.
        hub: Has the rest of the news.
    """

    def __init__(self, jobs: Jobs, store: JobStore, hub: Hub) -> None:
        self._jobs = jobs
        self._store = store
        self._hub = hub

    async def watch(
        self, name: str, after_revision: int, *, previews: bool
    ) -> AsyncIterator[Response]:
        """
        Tell the job as it is, then every change until it is terminal.

        Raises:
            NotFound: If the caller has no such job.
        """
        with self._hub.subscribed(name) as news:
            pace = _Pace(news, previews=previews)
            job = await self._jobs.get(name)
            told = min(after_revision or job.revision - 1, job.revision)
            opening = True
            while opening or job.state not in TERMINAL:
                news.state_changed = False
                events, job = await self._changes(name, told)
                for response in _state_responses(events, job, opening=opening):
                    yield response
                told, opening = job.revision, False
                while job.state not in TERMINAL and (news_item := await pace.next(told)):
                    yield news_item

    async def _changes(self, name: str, told: int) -> tuple[Sequence[Event], job_pb2.Job]:
        """Read the job, and the changes that led to just this state of it."""
        while True:
            events = await self._store.events(name, told)
            job = await self._jobs.get(name)
            if job.revision == (events[-1].revision if events else told):
                return events, job


class _Pace:
    """What happens between two changes of state, at the rate that a watcher is told of it."""

    def __init__(self, news: Subscription, *, previews: bool) -> None:
        self._news = news
        self._previews = previews
        self._next_progress = 0.0

    async def next(self, revision: int) -> Response | None:
        """Return the next thing to tell, or None when the state has changed."""
        news = self._news
        while not news.state_changed:
            if news.previews:
                preview = news.previews.popleft()
                if self._previews:
                    return Response(revision=revision, preview=preview, event_time=_now())
                continue
            delay = self._next_progress - time.monotonic()
            if news.progress is not None and delay <= 0:
                progress, news.progress = news.progress, None
                self._next_progress = time.monotonic() + PROGRESS_SECONDS
                return Response(
                    revision=revision,
                    state=job_pb2.Job.STATE_RUNNING if progress.phase else job_pb2.Job.STATE_QUEUED,
                    progress=progress,
                    event_time=_now(),
                )
            pending = news.progress is not None
            if not await news.wait(delay if pending else HEARTBEAT_SECONDS) and not pending:
                return Response(revision=revision, event_time=_now())
        return None


def _state_responses(
    events: Sequence[Event], job: job_pb2.Job, *, opening: bool
) -> Iterator[Response]:
    """Tell changes in order; the whole job comes first of all, and at its end."""
    if opening and not events:
        yield _response(job.revision, job, _now(), whole=True)
    for event in events:
        is_last = event is events[-1]
        whole = (opening and event is events[0]) or (is_last and job.state in TERMINAL)
        if is_last:
            yield _response(event.revision, job, event.event_time, whole=whole)
        else:
            yield Response(
                revision=event.revision,
                state=event.state,
                job=job if whole else None,
                event_time=event.event_time,
            )


def _response(revision: int, job: job_pb2.Job, event_time: Timestamp, *, whole: bool) -> Response:
    return Response(
        revision=revision,
        state=job.state,
        progress=job.progress,
        job=job if whole else None,
        event_time=event_time,
    )


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now
