"""Credits, against a real accounts service."""

import asyncio
import contextlib

import pytest

from pictor.accounts.v1 import account_pb2, accounts_service_pb2, api_key_pb2, ledger_pb2
from pictor.accounts.v1.accounts_service_pb2_grpc import AccountsServiceStub
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.channels import open_channel
from services.rpc.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    StateConflict,
)

PREPAID = account_pb2.Account.BILLING_PREPAID
UNLIMITED = account_pb2.Account.BILLING_UNLIMITED
Kind = ledger_pb2.LedgerEntry
State = ledger_pb2.Hold


@pytest.fixture
async def purse(suite):
    """The name of a prepaid account with 100 micro-credits."""
    name = await account(suite, PREPAID)
    await grant(suite, name, 100, "first")
    return name


async def account(suite, billing=account_pb2.Account.BILLING_UNSPECIFIED):
    wanted = account_pb2.Account(display_name="somebody", billing=billing)
    made = await suite.CreateAccount(accounts_service_pb2.CreateAccountRequest(account=wanted))
    return made.name


async def grant(suite, name, amount, request_id):
    return await suite.GrantCredits(
        ledger_pb2.GrantCreditsRequest(name=name, amount_microcredits=amount, request_id=request_id)
    )


async def hold(suite, name, job, amount):
    request = ledger_pb2.HoldCreditsRequest(account=name, job=job, amount_microcredits=amount)
    return (await suite.HoldCredits(request)).hold


async def settle(suite, job, *, capture=False, **options):
    request = ledger_pb2.SettleHoldRequest(job=job, capture=capture, **options)
    return (await suite.SettleHold(request)).hold


async def balance(suite, name):
    return await suite.GetBalance(ledger_pb2.GetBalanceRequest(name=f"{name}/balance"))


async def entries(suite, name):
    listed = await suite.ListLedgerEntries(ledger_pb2.ListLedgerEntriesRequest(parent=name))
    return [(entry.kind, entry.amount_microcredits) for entry in listed.ledger_entries]


async def audit(suite):
    return list((await suite.AuditLedgers(ledger_pb2.AuditLedgersRequest())).accounts)


@contextlib.asynccontextmanager
async def bearer(suite, address, name, *scopes):
    """A client with a key of an account."""
    made = await suite.CreateApiKey(
        accounts_service_pb2.CreateApiKeyRequest(
            parent=name, api_key=api_key_pb2.ApiKey(scopes=scopes)
        )
    )
    async with open_channel(address, made.secret) as channel:
        yield AccountsServiceStub(channel)


async def test_accounts_are_unlimited_unless_somebody_says_otherwise(suite):
    """
    Nothing is held for an unlimited account, and its ledger stays empty.
    """
    name = await account(suite)

    held = await hold(suite, name, "jobs/1", 5)

    assert (await balance(suite, name)).billing == UNLIMITED
    assert held == ledger_pb2.Hold()
    assert await entries(suite, name) == []


async def test_a_job_that_succeeds_spends_what_was_held(suite, purse):
    """
    Hold and capture together take the price once, and the ledger says so.
    """
    await hold(suite, purse, "jobs/1", 30)
    while_it_runs = await balance(suite, purse)
    captured = await settle(suite, "jobs/1", capture=True)
    after = await balance(suite, purse)

    assert (while_it_runs.balance_microcredits, while_it_runs.held_microcredits) == (70, 30)
    assert captured.state == State.STATE_CAPTURED
    assert (after.balance_microcredits, after.held_microcredits) == (70, 0)
    assert await entries(suite, purse) == [
        (Kind.KIND_CAPTURE, 0),
        (Kind.KIND_HOLD, -30),
        (Kind.KIND_GRANT, 100),
    ]
    assert await audit(suite) == []


async def test_a_job_that_fails_costs_nothing(suite, purse):
    """
    A release gives back what was held.
    """
    await hold(suite, purse, "jobs/1", 30)
    await settle(suite, "jobs/1")

    assert (await balance(suite, purse)).balance_microcredits == 100
    assert await audit(suite) == []


async def test_a_second_settle_changes_nothing(suite, purse):
    """
    Whichever end was written first stays: there is no double refund, and no double charge.
    """
    for job, first in (("jobs/1", True), ("jobs/2", False)):
        await hold(suite, purse, job, 10)
        states = [(await settle(suite, job, capture=c)).state for c in (first, True, False, False)]
        assert len(set(states)) == 1

    assert (await balance(suite, purse)).balance_microcredits == 90
    assert len(await entries(suite, purse)) == 5
    assert await audit(suite) == []


async def test_a_hold_is_made_once(suite, purse):
    """
    The same job holds its price once, however often and however parallel it is asked for.
    """
    holds = await asyncio.gather(*(hold(suite, purse, "jobs/1", 40) for _ in range(8)))

    assert {one.state for one in holds} == {State.STATE_HELD}
    assert (await balance(suite, purse)).balance_microcredits == 60
    assert await audit(suite) == []


async def test_parallel_jobs_never_spend_more_than_there_is(suite, purse):
    """
    Of twenty jobs that want the last credits at once, just as many get them as they are for.
    """
    asked = [hold(suite, purse, f"jobs/{number}", 15) for number in range(20)]
    answers = await asyncio.gather(*asked, return_exceptions=True)

    refused = [one for one in answers if isinstance(one, StateConflict)]
    assert len(answers) - len(refused) == 6
    assert {error.reason for error in refused} == {reasons.ERROR_REASON_INSUFFICIENT_CREDITS}
    assert (await balance(suite, purse)).balance_microcredits == 10
    assert await audit(suite) == []


async def test_a_refusal_names_price_balance_and_what_to_do(suite, purse):
    """
    Who lacks credits is told how many, in credits and for machines.
    """
    with pytest.raises(StateConflict, match="ask the operator") as error:
        await hold(suite, purse, "jobs/1", 2_500_000)

    assert "costs 2.5 credits and the balance is 0.0001" in error.value.message
    assert error.value.metadata == {"price": "2500000", "balance": "100"}
    assert await audit(suite) == []


@pytest.mark.parametrize("difference", ["account", "amount", "captured"])
async def test_a_jobs_hold_is_not_another_ones(suite, purse, difference):
    """
    A hold cannot be taken over by another account, changed in amount, or spent twice.
    """
    other = await account(suite, PREPAID)
    await grant(suite, other, 100, "first")
    await hold(suite, purse, "jobs/1", 30)
    if difference == "captured":
        await settle(suite, "jobs/1", capture=True)

    with pytest.raises(AlreadyExists):
        await hold(
            suite,
            other if difference == "account" else purse,
            "jobs/1",
            31 if difference == "amount" else 30,
        )
    assert (await balance(suite, purse)).balance_microcredits == 70
    assert (await balance(suite, other)).balance_microcredits == 100
    assert await audit(suite) == []


async def test_what_was_given_back_can_be_held_again(suite, purse):
    """
    A client that sends its request again after an orphaned hold was released pays once.
    """
    await hold(suite, purse, "jobs/1", 30)
    await settle(suite, "jobs/1")
    again = await hold(suite, purse, "jobs/1", 40)
    await settle(suite, "jobs/1", capture=True)

    assert again.state == State.STATE_HELD
    assert (await balance(suite, purse)).balance_microcredits == 60
    assert await audit(suite) == []


async def test_a_renewed_hold_is_left_to_its_job(suite, purse):
    """
    Who would release an orphan names the moment it saw; a hold that was asked for since stays.
    """
    seen = await hold(suite, purse, "jobs/1", 30)
    await hold(suite, purse, "jobs/1", 30)
    left = await settle(suite, "jobs/1", held_until=seen.hold_time)
    ended = await settle(suite, "jobs/1", held_until=left.hold_time)

    assert left.state == State.STATE_HELD
    assert ended.state == State.STATE_RELEASED


async def test_open_holds_are_listed_oldest_first(suite, purse):
    """
    The inference service finds what waits for the end of its job, page by page.
    """
    for number in range(3):
        await hold(suite, purse, f"jobs/{number}", 1)
    await settle(suite, "jobs/1", capture=True)
    request = ledger_pb2.ListHoldsRequest(page_size=1)
    first = await suite.ListHolds(request)
    request.page_token = first.next_page_token
    second = await suite.ListHolds(request)
    before = await suite.ListHolds(
        ledger_pb2.ListHoldsRequest(before_time=second.holds[0].hold_time)
    )

    assert [one.job for one in [*first.holds, *second.holds]] == ["jobs/0", "jobs/2"]
    assert second.next_page_token == ""
    assert [one.job for one in before.holds] == ["jobs/0"]


async def test_a_grant_that_is_repeated_gives_nothing_more(suite, purse):
    """
    The request id makes a grant happen once; with another amount it is an error.
    """
    repeated = await asyncio.gather(*(grant(suite, purse, 50, "invoice-17") for _ in range(5)))
    with pytest.raises(AlreadyExists, match="has given 50") as error:
        await grant(suite, purse, 60, "invoice-17")

    assert {one.balance_microcredits for one in repeated} == {150}
    assert error.value.reason == reasons.ERROR_REASON_REQUEST_ID_REUSED
    assert await audit(suite) == []


@pytest.mark.parametrize("amount", [0, -1, 10**15 + 1, -(2**63), 2**63 - 1])
async def test_an_amount_out_of_range_is_refused(suite, purse, amount):
    """
    Neither grant nor hold takes zero, a negative amount, or one that might overflow.
    """
    with pytest.raises(InvalidRequest, match="outside 1 to"):
        await grant(suite, purse, amount, "again")
    with pytest.raises(InvalidRequest, match="outside 1 to"):
        await hold(suite, purse, "jobs/1", amount)

    assert (await balance(suite, purse)).balance_microcredits == 100


@pytest.mark.parametrize("request_id", ["", "x" * 101, "a b", "ä"])
async def test_a_grant_needs_a_request_id(suite, purse, request_id):
    """
    Without an id that can be kept, a lost answer could give twice.
    """
    with pytest.raises(InvalidRequest, match="request_id"):
        await grant(suite, purse, 1, request_id)


async def test_a_ledger_is_read_page_by_page(suite, purse):
    """
    Pages are newest first and have no gap.
    """
    for number in range(4):
        await hold(suite, purse, f"jobs/{number}", 1)
    request = ledger_pb2.ListLedgerEntriesRequest(parent=purse, page_size=2)
    amounts = []
    while True:
        page = await suite.ListLedgerEntries(request)
        amounts += [entry.amount_microcredits for entry in page.ledger_entries]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break

    assert amounts == [-1, -1, -1, -1, 100]


async def test_an_account_sees_its_own_credits_only(suite, purse, address):
    """
    Another account's balance and ledger are not found; an administrator sees all.
    """
    other = await account(suite, PREPAID)
    async with bearer(suite, address, purse, "inference") as own:
        mine = await balance(own, "accounts/me")
        assert await entries(own, "accounts/me") == [(Kind.KIND_GRANT, 100)]
        with pytest.raises(NotFound):
            await balance(own, other)
        with pytest.raises(NotFound):
            await entries(own, other)
        with pytest.raises(PermissionDenied):
            await grant(own, purse, 1, "mine")
        with pytest.raises(PermissionDenied):
            await hold(own, purse, "jobs/1", 1)
    async with bearer(suite, address, other, "inference", "accounts:admin") as admin:
        assert (await balance(admin, purse)).balance_microcredits == 100

    assert mine.name == f"{purse}/balance"
    assert mine.balance_microcredits == 100


async def test_billing_can_change(suite, purse):
    """
    An account that becomes unlimited keeps its credits, and what is held is still settled.
    """
    await hold(suite, purse, "jobs/1", 30)
    await suite.SetBilling(ledger_pb2.SetBillingRequest(name=purse, billing=UNLIMITED))
    free = await hold(suite, purse, "jobs/2", 10**6)
    await settle(suite, "jobs/1", capture=True)

    assert free == ledger_pb2.Hold()
    assert (await balance(suite, purse)).balance_microcredits == 70
    with pytest.raises(InvalidRequest, match="billing"):
        await suite.SetBilling(ledger_pb2.SetBillingRequest(name=purse))
    with pytest.raises(NotFound):
        await suite.SetBilling(
            ledger_pb2.SetBillingRequest(name=f"accounts/{'0' * 32}", billing=PREPAID)
        )


async def test_an_audit_notices_what_does_not_add_up(settings, suite, purse):
    """
    A balance that somebody changed by hand is named.
    """
    import sqlite3

    with contextlib.closing(sqlite3.connect(settings.data_dir / "accounts.db")) as database:
        database.execute("UPDATE accounts SET balance = balance + 1 WHERE balance > 0")
        database.commit()

    assert await audit(suite) == [purse]
