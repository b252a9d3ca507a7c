"""How long what was assigned may go on, although nobody says stop."""

import math
import time

from services.rpc.errors import Canceled


class Lease:
    """
    Ends by itself unless it is renewed, by the monotonic clock, which goes on while a process is
    paused: one that wakes up late must not finish what others have begun anew.
    """

    def __init__(self) -> None:
        self._until = math.inf

    def renew(self, seconds: float) -> None:
        """Let it hold for so long from now."""
        self._until = time.monotonic() + seconds

    def check(self) -> None:
        """
        Return if it holds.

        Raises:
            Canceled: If it has ended.
        """
        if time.monotonic() > self._until:
            raise Canceled("the lease ended: whoever assigned this was not heard of again")
