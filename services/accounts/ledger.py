"""
Credits: balances, the ledger that adds up to them, and what is set aside for jobs.

    grant    +N   somebody gives credits
    hold     -P   a job was admitted
    capture   0   it has succeeded: the P that was set aside is spent
    release  +P   it has failed or was canceled

All amounts are whole micro-credits. Each step is one transaction with one condition, so two that
race for the last credit cannot both have it.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from pictor.accounts.v1 import account_pb2, ledger_pb2
from pictor.errors.v1 import error_reason_pb2
from services.accounts.account import Account, account_id, account_missing, required
from services.accounts.store import Entry, Hold, Store
from services.paging import decode_token, encode_token, next_token, page_size, position
from services.rpc.errors import AlreadyExists, InvalidRequest, StateConflict, invalid
from services.rpc.principals import Principal
from services.timestamps import now, to_timestamp

CREDIT = 1_000_000
MOST_MICROCREDITS = 10**15
LONGEST_REQUEST_ID = 100
OWN = "me"
Billing = account_pb2.Account.Billing
_JOB = re.compile(r"jobs/[!-~]{1,59}")

log = structlog.get_logger()


class EntryPage(NamedTuple):
    """Entries, newest first, and the token of the page behind them; empty after the last."""

    entries: list[Entry]
    next_page_token: str


class HoldPage(NamedTuple):
    """Holds, oldest first, and the token of the page behind them; empty after the last."""

    holds: list[Hold]
    next_page_token: str


@dataclass(frozen=True)
class Balance:
    """
    What an account has.

    Attributes:
        account: With what it can spend.
        held: Is set aside for jobs, in micro-credits.
    """

    account: Account
    held: int

    def to_message(self) -> ledger_pb2.Balance:
        """Write it as the protos do."""
        return ledger_pb2.Balance(
            name=f"{self.account.name}/balance",
            billing=Billing.ValueType(self.account.billing),
            balance_microcredits=self.account.balance,
            held_microcredits=self.held,
        )


class Ledger:
    """
    The credits of all accounts.

    Args:
        store: Where they are kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def set_billing(self, name: str, billing: Billing.ValueType) -> Account:
        """
        Say who pays for an account.

        Raises:
            InvalidRequest: If this is no way of billing.
            NotFound: If there is no such account.
        """
        if not billing or billing not in Billing.values():
            raise invalid("billing", f"billing {billing} is none of UNLIMITED and PREPAID")
        account = await self._store.set_billing(account_id(name, "name"), billing)
        if account is None:
            raise account_missing(name)
        log.info("account.billed", account=name, billing=Billing.Name(billing))
        return account

    async def grant(self, name: str, amount: int, request_id: str) -> Balance:
        """
        Give credits; a second time with the same request id changes nothing.

        Raises:
            AlreadyExists: If the id has given another amount.
            InvalidRequest: If amount or request id break their rule, or the balance would overflow.
            NotFound: If there is no such account.
        """
        owner = account_id(name, "name")
        _check_amount(amount)
        _check_request_id(request_id)
        balance = await self._balance(owner, name)
        given = await self._store.granted(owner, request_id)
        if given is None and not await self._store.grant(owner, amount, request_id, now()):
            given = await self._store.granted(owner, request_id)
            if given is None:
                raise _too_many(balance.account.balance, amount)
        if given not in (None, amount):
            raise AlreadyExists(
                f"request_id {request_id!r} has given {given} micro-credits before, not {amount};"
                " choose a new id for each grant",
                reason=error_reason_pb2.ERROR_REASON_REQUEST_ID_REUSED,
                metadata={"request_id": request_id},
            )
        log.info("credits.granted", account=name, microcredits=amount, again=given is not None)
        return await self._balance(owner, name)

    async def balance(self, name: str, caller: Principal) -> Balance:
        """
        Read what an account has.

        Raises:
            NotFound: If there is no such account, or it is not the caller's business.
        """
        account = visible(name.removesuffix("/balance"), "name", caller)
        return await self._balance(account_id(account, "name"), account)

    async def entries(self, parent: str, size: int, token: str, caller: Principal) -> EntryPage:
        """
        Read a page of an account's ledger.

        Raises:
            InvalidRequest: If *size* or *token* breaks its rule.
            NotFound: If there is no such account, or it is not the caller's business.
        """
        limit, before = page_size(size), _sequence(token)
        account = visible(parent, "parent", caller)
        owner = account_id(account, "parent")
        if await self._store.account(owner) is None:
            raise account_missing(account)
        found = await self._store.entries(owner, limit + 1, before)
        after = encode_token(str(found[limit - 1].sequence)) if len(found) > limit else ""
        return EntryPage(found[:limit], after)

    async def audit(self) -> list[str]:
        """Name the accounts whose ledger does not add up."""
        return [f"accounts/{one}" for one in await self._store.unbalanced(100)]

    async def hold(self, account: str, job: str, amount: int) -> Hold | None:
        """
        Set the price of a job aside, or count a hold that is there from now.

        Returns:
            None for an account that is not billed; callers without a key share one that nobody
            has made.

        Raises:
            AlreadyExists: If the job has a hold that is not this one.
            InvalidRequest: If job or amount break their rule.
            StateConflict: If the balance does not cover it.
        """
        _check_job(job)
        _check_amount(amount)
        owner = account.removeprefix("accounts/")
        payer = await self._store.account(owner)
        if payer is None or payer.billing != Billing.BILLING_PREPAID:
            return None
        held = await self._store.hold(owner, job, amount, now())
        if held is None:
            payer = await self._store.account(owner)
            if payer is None or payer.billing != Billing.BILLING_PREPAID:
                return None
            raise _insufficient(amount, payer.balance)
        if (held.account_id, held.amount, held.state) != (owner, amount, _HELD):
            raise AlreadyExists(
                f"there is a job {job.removeprefix('jobs/')!r} already; choose a new id for each"
                " request",
                metadata={"job": job},
            )
        return held

    async def settle(self, job: str, *, capture: bool, held_until: int | None) -> Hold | None:
        """
        Spend what is set aside for a job, or give it back; what is settled stays so.

        Returns:
            The hold as it is now; None if the job has none.
        """
        state = ledger_pb2.Hold.STATE_CAPTURED if capture else ledger_pb2.Hold.STATE_RELEASED
        hold, changed = await self._store.settle(job, state, held_until, now())
        if changed:
            log.info("credits.settled", job=job, captured=capture)
        return hold

    async def holds(self, before_time: int | None, size: int, token: str) -> HoldPage:
        """
        Read a page of the holds that wait for the end of their job.

        Raises:
            InvalidRequest: If *size* or *token* breaks its rule.
        """
        limit = page_size(size)
        found = await self._store.holds(before_time, limit + 1, position(token))
        return HoldPage(found[:limit], next_token([one.position for one in found], limit))

    async def _balance(self, owner: str, name: str) -> Balance:
        account = await self._store.account(owner)
        if account is None:
            raise account_missing(name)
        return Balance(account, await self._store.held(owner))


_HELD = ledger_pb2.Hold.STATE_HELD


def visible(name: str, field: str, caller: Principal) -> str:
    """
    Return the name of an account whose credits the caller may see; ``accounts/me`` is its own.

    Raises:
        NotFound: If it may not see them: the account might as well not be there.
    """
    if name == f"accounts/{OWN}" and caller.account:
        return caller.account
    may_see_all = caller.is_service or "accounts:admin" in caller.scopes
    if name and name != caller.account and not may_see_all:
        raise account_missing(name)
    if not name:
        raise required(field, f"accounts/{{account}} or accounts/{OWN}")
    return name


def hold_message(hold: Hold | None) -> ledger_pb2.Hold | None:
    """Write a hold as the protos do."""
    if hold is None:
        return None
    return ledger_pb2.Hold(
        job=hold.job,
        account=f"accounts/{hold.account_id}",
        amount_microcredits=hold.amount,
        state=ledger_pb2.Hold.State.ValueType(hold.state),
        hold_time=to_timestamp(hold.hold_time),
    )


def entry_message(entry: Entry) -> ledger_pb2.LedgerEntry:
    """Write an entry as the protos do."""
    return ledger_pb2.LedgerEntry(
        sequence=entry.sequence,
        kind=ledger_pb2.LedgerEntry.Kind.ValueType(entry.kind),
        amount_microcredits=entry.amount,
        cost_microcredits=entry.cost,
        job=entry.job or "",
        request_id=entry.request_id or "",
        create_time=to_timestamp(entry.create_time),
    )


def credits_text(microcredits: int) -> str:
    """Write an amount in credits, exactly: ``9.437184``."""
    whole, rest = divmod(microcredits, CREDIT)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


def _check_amount(amount: int) -> None:
    if not 1 <= amount <= MOST_MICROCREDITS:
        raise invalid(
            "amount_microcredits",
            f"amount_microcredits {amount} is outside 1 to {MOST_MICROCREDITS}",
            error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE,
        )


def _check_request_id(request_id: str) -> None:
    if not request_id:
        raise required("request_id", f"1 to {LONGEST_REQUEST_ID} characters that name this grant")
    if not re.fullmatch(rf"[!-~]{{1,{LONGEST_REQUEST_ID}}}", request_id):
        raise invalid(
            "request_id",
            f"request_id must have 1 to {LONGEST_REQUEST_ID} printable ASCII characters, no blanks",
        )


def _check_job(job: str) -> None:
    if not _JOB.fullmatch(job):
        raise invalid("job", f"job {job[:100]!r} is no name of the form jobs/{{job}}")


def _sequence(token: str) -> int | None:
    parts = decode_token(token, 1)
    if not parts:
        return None
    if not re.fullmatch("[0-9]{1,18}", parts[0]):
        raise invalid("page_token", "page_token is not one that this list gave")
    return int(parts[0])


def _insufficient(price: int, balance: int) -> StateConflict:
    return StateConflict(
        f"this costs {credits_text(price)} credits and the balance is {credits_text(balance)};"
        " ask the operator for credits, or draw fewer, smaller pictures with fewer steps",
        reason=error_reason_pb2.ERROR_REASON_INSUFFICIENT_CREDITS,
        metadata={"price": str(price), "balance": str(balance)},
    )


def _too_many(balance: int, amount: int) -> InvalidRequest:
    return invalid(
        "amount_microcredits",
        f"amount_microcredits {amount} on top of {balance} is more than an account can hold",
        error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE,
    )
