"""What is thrown away when it has lain long enough."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from services.inference.store import JobStore
from services.rpc.errors import SuiteError
from services.timestamps import now

ROUND_SECONDS = 600.0
HOUR_US = 3_600_000_000

log = structlog.get_logger()


@contextlib.asynccontextmanager
async def keeping_house(store: JobStore, *, idempotency_hours: float) -> AsyncIterator[None]:
    """
    Throw away within the block, now and every ten minutes.

    Args:
        store: Where it lies.
        idempotency_hours: How old idempotency keys may grow.
    """
    task = asyncio.create_task(_keep(store, idempotency_hours))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _keep(store: JobStore, idempotency_hours: float) -> None:
    while True:
        try:
            await store.forget_keys(now() - int(idempotency_hours * HOUR_US))
        except SuiteError as error:
            log.info("housekeeping.postponed", detail=error.message)
        except Exception:
            log.exception("housekeeping.failed")
        await asyncio.sleep(ROUND_SECONDS)
