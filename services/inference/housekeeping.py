"""What is thrown away when it has lain long enough."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from services.inference.history import History
from services.inference.store import JobStore
from services.rpc.errors import SuiteError
from services.timestamps import now

ROUND_SECONDS = 600.0
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US

log = structlog.get_logger()


@contextlib.asynccontextmanager
async def keeping_house(
    store: JobStore, history: History, *, idempotency_hours: float, retention_days: float
) -> AsyncIterator[None]:
    """
    Throw away within the block, now and every ten minutes.

    Args:
        store: Where it lies.
        history: Deletes jobs.
        idempotency_hours: How old idempotency keys may grow.
        retention_days: How long jobs are kept after their end; 0 for ever.
    """

    async def throw_away() -> None:
        await store.forget_keys(now() - int(idempotency_hours * HOUR_US))
        if retention_days:
            await history.expire(now() - int(retention_days * DAY_US))
        await history.discard()

    task = asyncio.create_task(_keep(throw_away))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _keep(throw_away: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await throw_away()
        except SuiteError as error:
            log.info("housekeeping.postponed", detail=error.message)
        except Exception:
            log.exception("housekeeping.failed")
        await asyncio.sleep(ROUND_SECONDS)
