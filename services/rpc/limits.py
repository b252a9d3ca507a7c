"""
How much of the suite an account may take, where an operator has said so for that account.

The accounts service keeps it; it travels with the principal, from the process that checks a key to
those that are called on its behalf.
"""

from dataclasses import dataclass

from pictor.accounts.v1 import limits_pb2


@dataclass(frozen=True)
class Limits:
    """
    What an account may take; 0 means no bound, None that the suite's setting holds.

    Attributes:
        requests_per_minute: Of each API key.
        unfinished_jobs: Queued and running.
        queued_jobs: Waiting for a device.
    """

    requests_per_minute: int | None = None
    unfinished_jobs: int | None = None
    queued_jobs: int | None = None

    @classmethod
    def of(cls, message: limits_pb2.AccountLimits) -> "Limits":
        """Read them from the message."""
        return cls(**{field.name: value for field, value in message.ListFields()})

    def to_message(self) -> limits_pb2.AccountLimits:
        """Write them as the protos do."""
        return limits_pb2.AccountLimits(**vars(self))


# The suite's settings hold.
SETTINGS_HOLD = Limits()


def bound(own: int | None, setting: int) -> int:
    """Return the bound that holds for an account: its own, else the setting; 0 for none."""
    return setting if own is None else own
