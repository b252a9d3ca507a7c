"""`pictor credits`: who pays, what they have, and where it went."""

import re
import uuid

import click

from cli import table
from cli.connection import CliSettings, connected, run
from cli.keys import account_name
from pictor.accounts.v1 import account_pb2, accounts_service_pb2_grpc, ledger_pb2

HEADING = ("TIME", "KIND", "CREDITS", "JOB OR REQUEST")
CREDIT = 1_000_000
PAGE = 1000
OWN = "me"
BILLINGS = ("unlimited", "prepaid")


class Amount(click.ParamType[int]):
    """A number of credits such as 12.5, in micro-credits."""

    name = "credits"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse it, exactly."""
        match = re.fullmatch(r"(\d{1,9})(?:\.(\d{1,6}))?", value)
        amount = int(match[1]) * CREDIT + int((match[2] or "").ljust(6, "0")) if match else 0
        if not amount:
            self.fail(f"{value!r} must be above 0, with at most 6 decimals, e.g. 12.5", param, ctx)
        return amount


@click.group(name="credits")
def credits_() -> None:
    """Show credits; give them, and say who pays, with the scope accounts:admin."""


@credits_.command()
@click.argument("amount", type=Amount())
@click.option("--account", required=True, help="Who gets them.")
@click.option("--request-id", help="The same id gives once; by default a new one.")
@click.pass_obj
def grant(settings: CliSettings, amount: int, account: str, request_id: str | None) -> None:
    """Give AMOUNT credits to an account."""
    request = ledger_pb2.GrantCreditsRequest(
        name=account_name(account),
        amount_microcredits=amount,
        request_id=request_id or str(uuid.uuid4()),
    )
    show(run(given(settings, request)))


@credits_.command()
@click.option("--account", default=OWN, help="By default that of the key in use.")
@click.pass_obj
def balance(settings: CliSettings, account: str) -> None:
    """Show what an account has."""
    show(run(read(settings, account_name(account))))


@credits_.command()
@click.option("--account", default=OWN, help="By default that of the key in use.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@click.pass_obj
def ledger(settings: CliSettings, account: str, limit: int) -> None:
    """List where an account's credits came from and went, newest first."""
    rows = [row(entry) for entry in run(listed(settings, account_name(account), limit))]
    for line in table.lines([HEADING, *rows]):
        click.echo(line)


@credits_.command()
@click.argument("billing", type=click.Choice(BILLINGS))
@click.option("--account", required=True, help="Whose billing.")
@click.pass_obj
def bill(settings: CliSettings, billing: str, account: str) -> None:
    """Say whether an account pays, from its credits."""
    changed = run(billed(settings, account_name(account), billing))
    click.echo(f"{changed.name}  {billing_of(changed.billing)}")


async def given(
    settings: CliSettings, request: ledger_pb2.GrantCreditsRequest
) -> ledger_pb2.Balance:
    """Give credits."""
    async with connected(settings, "accounts") as channel:
        return await accounts_service_pb2_grpc.AccountsServiceStub(channel).GrantCredits(request)


async def read(settings: CliSettings, account: str) -> ledger_pb2.Balance:
    """Ask what an account has."""
    request = ledger_pb2.GetBalanceRequest(name=f"{account}/balance")
    async with connected(settings, "accounts") as channel:
        return await accounts_service_pb2_grpc.AccountsServiceStub(channel).GetBalance(request)


async def listed(settings: CliSettings, account: str, limit: int) -> list[ledger_pb2.LedgerEntry]:
    """Ask for the newest *limit* entries of a ledger."""
    found: list[ledger_pb2.LedgerEntry] = []
    request = ledger_pb2.ListLedgerEntriesRequest(parent=account)
    async with connected(settings, "accounts") as channel:
        accounts = accounts_service_pb2_grpc.AccountsServiceStub(channel)
        while len(found) < limit:
            request.page_size = min(PAGE, limit - len(found))
            page = await accounts.ListLedgerEntries(request)
            found += page.ledger_entries
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    return found


async def billed(settings: CliSettings, account: str, billing: str) -> account_pb2.Account:
    """Say who pays."""
    request = ledger_pb2.SetBillingRequest(
        name=account, billing=account_pb2.Account.Billing.Value(f"BILLING_{billing.upper()}")
    )
    async with connected(settings, "accounts") as channel:
        return await accounts_service_pb2_grpc.AccountsServiceStub(channel).SetBilling(request)


def show(found: ledger_pb2.Balance) -> None:
    """Print a balance in one line."""
    click.echo(
        f"{found.name.removesuffix('/balance')}  {billing_of(found.billing)}"
        f"  balance {text(found.balance_microcredits)}  held {text(found.held_microcredits)}"
    )


def billing_of(billing: account_pb2.Account.Billing.ValueType) -> str:
    """Return a way of billing as a word."""
    return account_pb2.Account.Billing.Name(billing).removeprefix("BILLING_").lower()


def text(microcredits: int) -> str:
    """Write an amount in credits, exactly."""
    sign = "-" if microcredits < 0 else ""
    whole, rest = divmod(abs(microcredits), CREDIT)
    return f"{sign}{whole}.{rest:06d}".rstrip("0").rstrip(".")


def row(entry: ledger_pb2.LedgerEntry) -> tuple[str, str, str, str]:
    """Return an entry's line of the table: a capture shows what it has cost."""
    kind = ledger_pb2.LedgerEntry.Kind.Name(entry.kind).removeprefix("KIND_").lower()
    captured = entry.kind == ledger_pb2.LedgerEntry.KIND_CAPTURE
    amount = f"({text(entry.cost_microcredits)})" if captured else text(entry.amount_microcredits)
    made = entry.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%SZ")
    return made, kind, amount, entry.job.removeprefix("jobs/") or entry.request_id
