"""How long work that is under way waits for a part of the suite that is being started again."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import stamina

from services.rpc.errors import Unavailable

# A process that was killed is back in seconds, a database in less than this.
AWAY_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 2.0

T = TypeVar("T")


async def outlast(call: Callable[[], Awaitable[T]], away_seconds: float = AWAY_SECONDS) -> T:
    """
    Call, and call again while what is called is away: what was drawn for minutes is not lost
    because of a restart.

    Args:
        call: May be made twice, although the first time was heard.
        away_seconds: For so long.

    Raises:
        Unavailable: If it stays away.
    """

    # Without arguments: each attempt is logged with them, and they hold prompts.
    @stamina.retry(
        on=Unavailable,
        attempts=None,
        timeout=away_seconds,
        wait_max=LONGEST_PAUSE_SECONDS,
        wait_jitter=0.1,
    )
    async def attempt() -> T:
        return await call()

    return await attempt()
