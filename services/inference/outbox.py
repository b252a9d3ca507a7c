"""
What must happen after a job has ended, told at least once.

The store writes a message in the transaction that ends the job; here it is delivered, and deleted
when that has worked. A message that cannot be delivered is tried again, later each time. Whoever
delivers takes the message for a while, so that two processes do not deliver it at once.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from services.inference.store import JobStore, OutboxMessage
from services.rpc.crash import crash_point
from services.rpc.errors import SuiteError
from services.timestamps import now

POLL_SECONDS = 1.0
# A delivery takes less; who has taken a message and crashed has it no longer.
TAKEN_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
BATCH = 100
PARALLEL = 8

log = structlog.get_logger()


class GiveUp(OSError):
    """A delivery that will never work."""


@dataclass(frozen=True)
class Topic:
    """
    One kind of message.

    Attributes:
        deliver: Delivers it; raises SuiteError or OSError if that did not work, GiveUp if it
            never will.
        longest_pause_seconds: Between two attempts.
        give_up_seconds: After which a message is dropped; None for never.
    """

    deliver: Callable[[OutboxMessage], Awaitable[None]]
    longest_pause_seconds: float = LONGEST_PAUSE_SECONDS
    give_up_seconds: float | None = None


class Outbox:
    """
    Delivers messages.

    Args:
        store: Has them.
        topics: By name, as the store writes it; others are left to another outbox.
        taken_seconds: How long who delivers a message has it; after a crash another one does.
    """

    def __init__(
        self,
        store: JobStore,
        topics: Mapping[str, Topic],
        taken_seconds: float = TAKEN_SECONDS,
    ) -> None:
        self._store = store
        self._topics = topics
        self._taken_seconds = taken_seconds
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Look for messages now."""
        self._news.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver within the block."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._news.clear()
            try:
                while await self.deliver_due():
                    pass
            except* SuiteError as errors:
                # A database that is away comes back.
                log.warning("outbox.postponed", detail=str(errors.exceptions[0]))
            except* Exception:
                log.exception("outbox.failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._news.wait()

    async def deliver_due(self) -> int:
        """Deliver the messages whose time has come; return how many there were."""
        due = await self._store.due_messages(self._topics, now(), BATCH)
        slots = asyncio.Semaphore(PARALLEL)

        async def one(message: OutboxMessage) -> None:
            async with slots:
                await self._deliver(message)

        async with asyncio.TaskGroup() as tasks:
            for message in due:
                tasks.create_task(one(message))
        return len(due)

    async def _deliver(self, message: OutboxMessage) -> None:
        if not await self._store.take_message(message, now() + int(self._taken_seconds * 1e6)):
            return
        topic = self._topics[message.topic]
        crash_point("inference.before_delivery")
        try:
            async with asyncio.timeout(self._taken_seconds / 2):
                await topic.deliver(message)
        except (SuiteError, OSError) as error:
            await self._postpone(message, topic, error)
        else:
            crash_point("inference.after_delivery")
            await self._store.drop_message(message.sequence)

    async def _postpone(
        self, message: OutboxMessage, topic: Topic, error: SuiteError | OSError
    ) -> None:
        age = (now() - message.create_us) / 1e6
        if isinstance(error, GiveUp) or age > (topic.give_up_seconds or math.inf):
            log.warning("outbox.given_up", job=message.job, topic=message.topic)
            await self._store.drop_message(message.sequence)
            return
        pause = pause_seconds(message.attempt_count, topic.longest_pause_seconds)
        log.info(
            "outbox.postponed",
            job=message.job,
            topic=message.topic,
            seconds=pause,
            error=type(error).__name__,
        )
        await self._store.postpone_message(message.sequence, now() + int(pause * 1e6))


def pause_seconds(attempt_count: int, longest: float) -> float:
    """Return how long to wait after that many attempts that failed: twice as long each time."""
    return min(FIRST_PAUSE_SECONDS * 2.0 ** min(attempt_count, 40), longest)
