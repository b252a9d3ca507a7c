"""
What the processes of the service tell each other, where they share a database that can tell.

Changes of state are told by the transactions that make them; progress only while there is somebody
to tell, and at most four times a second for each job; previews stay where they are drawn.
"""

import asyncio
import base64
import time
from collections.abc import Callable

import structlog

from pictor.inference.v1 import job_pb2, progress_pb2
from services.inference.hub import Hub
from services.inference.store import JobStore
from services.rpc.errors import Unavailable

PROGRESS_SECONDS = 0.25
PROGRESS, FINISH = "progress", "finish"

log = structlog.get_logger()


class News:
    """
    Tells and hears.

    Args:
        store: Where the processes meet.
        hub: Is told what was heard.
    """

    def __init__(self, store: JobStore, hub: Hub) -> None:
        self._store = store
        self._hub = hub
        self._next_progress: dict[str, float] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self.has_peers = False
        self._on_queued: Callable[[], None] = lambda: None
        self._on_ended: Callable[[str], None] = lambda _name: None
        self._on_finish: Callable[[str], None] = lambda _name: None

    def on_news(
        self,
        queued: Callable[[], None],
        ended: Callable[[str], None],
        finish: Callable[[str], None],
    ) -> None:
        """Name what is called when a job is queued, has ended, or is to end with what there is."""
        self._on_queued, self._on_ended, self._on_finish = queued, ended, finish

    async def keep_listening(self) -> None:
        """Hear what others tell, for ever; nothing where the database tells nothing."""
        if self._store.notifies:
            await self._store.listen(self._hear)

    def tell_progress(self, name: str, progress: progress_pb2.Progress) -> None:
        """Tell the others how far a job is, if there are others and it is time."""
        now = time.monotonic()
        if not self.has_peers or now < self._next_progress.get(name, 0.0):
            return
        self._next_progress[name] = now + PROGRESS_SECONDS
        coded = base64.b64encode(progress.SerializeToString()).decode()
        self._tell(f"{PROGRESS} {name} {coded}")

    def tell_finish(self, name: str) -> None:
        """Ask whoever runs a job to end it with what there is."""
        if self.has_peers:
            self._tell(f"{FINISH} {name}")

    def forget(self, name: str) -> None:
        """A job runs here no more."""
        self._next_progress.pop(name, None)

    def _tell(self, news: str) -> None:
        if self._store.notifies:
            task = asyncio.create_task(self._told(news))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _told(self, news: str) -> None:
        try:
            await self._store.tell(news)
        except Unavailable:
            log.info("news.not_told")

    def _hear(self, process: str, news: str) -> None:
        if not news:
            # Anything may have happened meanwhile.
            self._on_queued()
            for name in list(self._hub.watched()):
                self._hub.publish_state(name)
        elif process != self._store.process:
            kind, _, rest = news.partition(" ")
            self._heard(kind, rest)

    def _heard(self, kind: str, rest: str) -> None:
        if kind == PROGRESS:
            name, _, coded = rest.partition(" ")
            progress = progress_pb2.Progress.FromString(base64.b64decode(coded))
            self._hub.publish_progress(name, progress)
        elif kind == FINISH:
            self._on_finish(rest)
        else:
            self._hub.publish_state(rest)
            if int(kind) == job_pb2.Job.STATE_QUEUED:
                self._on_queued()
            if int(kind) != job_pb2.Job.STATE_RUNNING:
                self._on_ended(rest)
