"""How much may wait: asked before anything of a request is looked at, stored or held."""

from pictor.errors.v1 import error_reason_pb2 as reasons
from services.inference.store import JobStore
from services.rpc.errors import Exhausted

RETRY_SECONDS = 5.0


class Room:
    """
    Bounds the queue.

    Args:
        store: Has it.
        account_jobs: How many unfinished jobs an account may have; 0 for any number.
        queue_jobs: How many jobs may wait; 0 for any number.
    """

    def __init__(self, store: JobStore, *, account_jobs: int, queue_jobs: int) -> None:
        self._store = store
        self._account_jobs = account_jobs
        self._queue_jobs = queue_jobs

    async def check(self, account: str) -> None:
        """
        Return if there is room for one more job of an account.

        Raises:
            Exhausted: With TOO_MANY_JOBS or QUEUE_FULL.
        """
        most = self._account_jobs
        if most and account and await self._store.count_unfinished(account, most) >= most:
            raise Exhausted(
                f"the account has {most} unfinished jobs, as many as it may have; wait for one to"
                " end, or cancel one",
                reason=reasons.ERROR_REASON_TOO_MANY_JOBS,
                metadata={"limit": str(most)},
                retry_after_seconds=RETRY_SECONDS,
            )
        most = self._queue_jobs
        if most and await self._store.count_queued(most) >= most:
            raise Exhausted(
                f"{most} jobs wait already, as many as may; try again later",
                reason=reasons.ERROR_REASON_QUEUE_FULL,
                metadata={"limit": str(most)},
                retry_after_seconds=RETRY_SECONDS,
            )
