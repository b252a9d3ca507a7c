"""
The news about jobs, within this process: who watches is woken, who does not costs nothing.

News come in three kinds. A change of state is never lost: a watcher that is behind reads the
events from the store. Progress is a snapshot: the newest replaces the one before. Previews are kept
up to a bound; a watcher that is slower than that misses the oldest.
"""

import asyncio
import collections
import contextlib
from collections.abc import Collection, Iterator

from pictor.inference.v1 import progress_pb2

PREVIEWS_KEPT = 20


class Subscription:
    """
    What one watcher has not been told yet.

    Attributes:
        state_changed: The job has a new revision.
        progress: The newest progress, or None when it was told.
        previews: Oldest first.
    """

    def __init__(self) -> None:
        self.state_changed = False
        self.progress: progress_pb2.Progress | None = None
        self.previews: collections.deque[progress_pb2.Preview] = collections.deque(
            maxlen=PREVIEWS_KEPT
        )
        self._news = asyncio.Event()

    async def wait(self, timeout_seconds: float) -> bool:
        """Wait for news; False if none came in time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True

    def wake(self) -> None:
        """Tell the watcher that there is something to tell."""
        self._news.set()


class Hub:
    """Knows who watches which job, and the newest progress of the jobs that run."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._progress: dict[str, progress_pb2.Progress] = {}
        self._previews: dict[str, progress_pb2.Preview] = {}

    @contextlib.contextmanager
    def subscribed(self, name: str) -> Iterator[Subscription]:
        """Collect the news about a job within the block."""
        subscription = Subscription()
        self._subscriptions.setdefault(name, set()).add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions[name].discard(subscription)
            if not self._subscriptions[name]:
                del self._subscriptions[name]

    def watched(self) -> Collection[str]:
        """Name the jobs that somebody watches."""
        return self._subscriptions.keys()

    def progress(self, name: str) -> progress_pb2.Progress | None:
        """Return the newest progress of a job that runs here."""
        return self._progress.get(name)

    def preview(self, name: str) -> progress_pb2.Preview | None:
        """Return the newest preview of a job that runs here."""
        return self._previews.get(name)

    def keep(self, names: Collection[str]) -> None:
        """Forget the progress of all jobs but these, which run."""
        for name in self._progress.keys() - set(names):
            self._progress.pop(name)
            self._previews.pop(name, None)

    def publish_state(self, name: str) -> None:
        """Tell that a job's state has changed; the progress up to then is history."""
        self._progress.pop(name, None)
        self._previews.pop(name, None)
        for subscription in self._subscriptions.get(name, ()):
            subscription.state_changed = True
            subscription.wake()

    def publish_progress(self, name: str, progress: progress_pb2.Progress) -> None:
        """Tell how far a job is."""
        self._progress[name] = progress
        for subscription in self._subscriptions.get(name, ()):
            subscription.progress = progress
            subscription.wake()

    def publish_preview(self, name: str, preview: progress_pb2.Preview) -> None:
        """Show an unfinished image."""
        self._previews[name] = preview
        for subscription in self._subscriptions.get(name, ()):
            subscription.previews.append(preview)
            subscription.wake()
