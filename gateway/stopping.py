"""How the gateway ends: nobody new, then what is under way, then an answer for whoever is left."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from services.rpc.errors import Unavailable

RETRY_SECONDS = 1.0


class Stopping:
    """
    Knows what is waited for, and ends the waiting when there is no more time.

    Attributes:
        begun: Whether this gateway is about to end: others should be asked instead.
        over: Whether nothing is waited for any more.
    """

    def __init__(self) -> None:
        self.begun = False
        self.over = False
        self._calls: set[Any] = set()

    @contextlib.contextmanager
    def abortable(self, call: Any) -> Iterator[None]:
        """
        Read a gRPC stream within the block.

        Raises:
            Unavailable: If the gateway ends before the stream.
        """
        self._calls.add(call)
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self.over or (task and task.cancelling()):
                raise
            raise Unavailable(
                "the gateway is stopping; the job goes on", retry_after_seconds=RETRY_SECONDS
            ) from None
        finally:
            self._calls.discard(call)

    def abort(self) -> None:
        """End all waiting now."""
        self.over = True
        for call in list(self._calls):
            call.cancel()
