"""
How often a key may ask: a moving window, counted before a byte of the body is read.

What is left is told in headers of every answer, as OpenAI names them and as the IETF's draft does.
"""

import math
import time
from collections.abc import Mapping

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.strategies import MovingWindowRateLimiter
from limits.storage import storage_from_string
from starlette.types import Scope

from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.errors import Exhausted

# Where a request keeps what is left, for the headers of its answer.
_LEFT = "pictor.rate"
_MINUTE_SECONDS = 60


class Rates:
    """
    Counts requests.

    Args:
        requests_per_minute: How many a key may make; 0 for any number.
        storage_url: Where the counts are, as the limits library names it, e.g.
            ``async+redis://localhost`` where several gateways share them.
    """

    def __init__(self, requests_per_minute: int, storage_url: str) -> None:
        self._item: RateLimitItem | None = None
        if requests_per_minute:
            self._item = RateLimitItemPerMinute(requests_per_minute)
            storage = storage_from_string(storage_url)
            self._limiter = MovingWindowRateLimiter(storage)

    async def take(self, scope: Scope, key: str) -> None:
        """
        Count a request.

        Args:
            scope: Of the request; what is left is kept there.
            key: Who asks.

        Raises:
            Exhausted: With RATE_LIMIT_EXCEEDED, if it is one too many.
        """
        if self._item is None:
            return
        admitted = await self._limiter.hit(self._item, key)
        window = await self._limiter.get_window_stats(self._item, key)
        reset = max(0, math.ceil(window.reset_time - time.time()))
        scope[_LEFT] = (self._item.amount, window.remaining, reset)
        if not admitted:
            raise Exhausted(
                f"this key makes more than {self._item.amount} requests a minute; try again in"
                f" {reset} s",
                reason=reasons.ERROR_REASON_RATE_LIMIT_EXCEEDED,
                metadata={"limit": str(self._item.amount)},
                retry_after_seconds=max(1, reset),
            )


def rate_headers(scope: Scope) -> Mapping[str, str]:
    """Return what an answer tells of its key's rate; nothing where that is not limited."""
    if _LEFT not in scope:
        return {}
    amount, remaining, reset = scope[_LEFT]
    return {
        "x-ratelimit-limit-requests": str(amount),
        "x-ratelimit-remaining-requests": str(remaining),
        "x-ratelimit-reset-requests": f"{reset}s",
        "ratelimit-policy": f'"requests";q={amount};w={_MINUTE_SECONDS}',
        "ratelimit": f'"requests";r={remaining};t={reset}',
    }
