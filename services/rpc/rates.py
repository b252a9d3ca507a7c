"""
How often an API key may ask: so many requests in any 60 seconds, counted as they come.

The library ``limits`` counts, in this process's memory or in a store that several processes share.
A store that is away stops nobody: a limit protects the suite, and is not worth its standing still.
"""

import math
import time
from dataclasses import dataclass

import grpc
import structlog
from limits import RateLimitItemPerMinute
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string

from pictor.errors.v1 import error_reason_pb2
from services.rpc.authentication import AccountsAuthenticator
from services.rpc.errors import Exhausted
from services.rpc.limits import bound
from services.rpc.principals import Principal
from services.rpc.settings import SettingError

WINDOW_SECONDS = 60

log = structlog.get_logger()


@dataclass(frozen=True)
class Allowance:
    """
    What is left to an API key.

    Attributes:
        limit: How many requests it may send in any 60 seconds.
        remaining: How many of them are left now.
        reset_seconds: After how long there is one more.
        exceeded: The request that was counted is one too many.
    """

    limit: int
    remaining: int
    reset_seconds: float
    exceeded: bool

    def require(self) -> None:
        """
        Insist that the request was not one too many.

        Raises:
            Exhausted: With RATE_LIMITED.
        """
        if self.exceeded:
            raise Exhausted(
                f"this API key may send {self.limit} requests a minute, and has; the next one may"
                f" come in {math.ceil(self.reset_seconds)} s",
                reason=error_reason_pb2.ERROR_REASON_RATE_LIMITED,
                metadata={"limit": str(self.limit)},
                retry_after_seconds=self.reset_seconds,
            )


class Rates:
    """
    Counts the requests of API keys.

    Args:
        setting: How many an account's key may send a minute where the account has no limit of its
            own; 0 for any number.
        url: Where they are counted, as ``limits`` writes it, e.g. ``async+memory://``.

    Raises:
        SettingError: If there is no such place, or no client for it.
    """

    def __init__(self, setting: int, url: str) -> None:
        self._setting = setting
        try:
            storage = storage_from_string(url, wrap_exceptions=True)
            self._limiter = MovingWindowRateLimiter(storage)
        except (ConfigurationError, NotImplementedError, AssertionError) as error:
            raise SettingError(
                f"PICTOR_RATE_STORAGE={url!r}: must be a URL of the library limits that begins with"
                f" async+, e.g. async+memory:// or async+redis://host:6379 ({error})"
            ) from None

    async def count(self, principal: Principal) -> Allowance | None:
        """Count a request; None if the caller may send any number."""
        limit = bound(principal.limits.requests_per_minute, self._setting)
        if principal.is_service or not limit:
            return None
        item = RateLimitItemPerMinute(limit)
        name = principal.api_key or principal.account
        try:
            counted = await self._limiter.hit(item, name)
            window = await self._limiter.get_window_stats(item, name)
        except StorageError as error:
            log.warning("rates.storage_away", reason=type(error.storage_error).__name__)
            return None
        reset = min(max(window.reset_time - time.time(), 0.001), WINDOW_SECONDS)
        return Allowance(limit, max(window.remaining, 0), reset, exceeded=not counted)


class RatedAuthenticator(AccountsAuthenticator):
    """
    Authenticates API keys that call a service themselves, and counts their calls.

    Args:
        channel: As in AccountsAuthenticator.
        rates: Counts.
    """

    def __init__(self, channel: grpc.aio.Channel, rates: Rates) -> None:
        super().__init__(channel)
        self._rates = rates

    async def authenticate(self, secret: str) -> Principal:
        """
        Tell whose secret this is.

        Raises:
            Exhausted: If the key has called too often.
            Unauthenticated: If it opens nothing.
        """
        principal = await super().authenticate(secret)
        allowance = await self._rates.count(principal)
        if allowance:
            allowance.require()
        return principal
