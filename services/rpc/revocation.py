"""
An open stream ends when the key that opened it does.

A call with one answer is over before anybody could revoke its key; a stream may be open for hours.
So the key is asked after again and again while the stream goes on, often enough that a revocation
holds everywhere within a second.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from services.rpc.errors import SuiteError, Unauthenticated
from services.rpc.principals import Authenticator, Principal

# Twice this, with the time for which an answer is believed, must be less than a second.
RECHECK_SECONDS = 0.4


class Vigil:
    """Reads a stream for as long as its caller's key is good."""

    def __init__(self) -> None:
        self._refused: Unauthenticated | None = None
        self._waiting: asyncio.Timeout | None = None

    async def read(self, responses: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """
        Yield the responses.

        Raises:
            Unauthenticated: As soon as the key is good no more, also between two responses.
        """
        with contextlib.suppress(StopAsyncIteration):
            while True:
                yield await self._next(responses)

    async def _next(self, responses: AsyncIterator[Any]) -> Any:
        try:
            async with asyncio.timeout(None) as self._waiting:
                if self._refused is None:
                    return await anext(responses)
        except TimeoutError:
            if self._refused is None:
                raise
        finally:
            self._waiting = None
        raise self._refused

    async def watch(self, authenticator: Authenticator, api_key: str) -> None:
        """Ask after a key until it is good no more, and interrupt who waits for a response."""
        while self._refused is None:
            await asyncio.sleep(RECHECK_SECONDS)
            try:
                await authenticator.recheck(api_key)
            except Unauthenticated as refused:
                self._refused = refused
            except SuiteError:
                # Accounts is away: that revokes nothing.
                continue
        if self._waiting:
            self._waiting.reschedule(asyncio.get_running_loop().time())


@contextlib.asynccontextmanager
async def vigil(principal: Principal, authenticator: Authenticator) -> AsyncIterator[Vigil]:
    """Keep watch over the key of a call within the block; the suite's own calls need none."""
    kept = Vigil()
    if principal.is_service or not principal.api_key:
        yield kept
        return
    watching = asyncio.create_task(kept.watch(authenticator, principal.api_key))
    try:
        yield kept
    finally:
        watching.cancel()
