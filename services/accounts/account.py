"""Accounts as they are stored, their names, and the rules of their fields."""

import re
from dataclasses import dataclass

from pictor.accounts.v1 import account_pb2
from pictor.errors.v1 import error_reason_pb2
from services.paging import Position
from services.rpc.errors import InvalidRequest, NotFound, invalid
from services.timestamps import to_timestamp

LONGEST_DISPLAY_NAME = 63
_NAME = re.compile(r"accounts/([0-9a-f]{32})")


@dataclass(frozen=True)
class Account:
    """
    One account.

    Attributes:
        id: 32 lower-case hexadecimal digits.
        display_name: Is shown to people.
        create_time: Microseconds since the epoch.
        billing: Who pays, as the protos number it.
        balance: What can be spent, in micro-credits.
    """

    id: str
    display_name: str
    create_time: int
    billing: int = account_pb2.Account.BILLING_UNLIMITED
    balance: int = 0

    @property
    def name(self) -> str:
        """The resource name, ``accounts/{account}``."""
        return f"accounts/{self.id}"

    @property
    def position(self) -> Position:
        """The place in a list, oldest first."""
        return self.create_time, self.id

    def to_message(self) -> account_pb2.Account:
        """Write the account as the protos do."""
        return account_pb2.Account(
            name=self.name,
            display_name=self.display_name,
            create_time=to_timestamp(self.create_time),
            billing=account_pb2.Account.Billing.ValueType(self.billing),
        )


def account_id(name: str, field: str) -> str:
    """
    Return the id in an account's name.

    Raises:
        InvalidRequest: If the name is empty.
        NotFound: If no account can have it.
    """
    if not name:
        raise required(field, "accounts/{account}")
    match = _NAME.fullmatch(name)
    if not match:
        raise account_missing(name)
    return match[1]


def account_missing(name: str) -> NotFound:
    """Make the error of an account that does not exist."""
    return NotFound(
        f"there is no account {name[:100]!r}",
        reason=error_reason_pb2.ERROR_REASON_ACCOUNT_NOT_FOUND,
        metadata={"account": name[:100]},
    )


def checked_display_name(text: str, field: str) -> str:
    """
    Return a display name that is short enough.

    Raises:
        InvalidRequest: If it has more than 63 characters.
    """
    if len(text) > LONGEST_DISPLAY_NAME:
        raise invalid(
            field,
            f"{field} has {len(text)} characters; at most {LONGEST_DISPLAY_NAME} are kept",
            error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE,
        )
    return text


def checked_billing(billing: int) -> int:
    """
    Return a way of billing; unspecified means unlimited.

    Raises:
        InvalidRequest: If there is no such way.
    """
    if billing not in account_pb2.Account.Billing.values():
        raise invalid("account.billing", f"billing {billing} is none of UNLIMITED and PREPAID")
    return billing or account_pb2.Account.BILLING_UNLIMITED


def required(field: str, form: str) -> InvalidRequest:
    """Make the error of a field that is empty."""
    return invalid(
        field, f"{field} is empty; give {form}", error_reason_pb2.ERROR_REASON_FIELD_REQUIRED
    )
