"""`pictor limits`: how much of the suite an account may take."""

import click

from cli.connection import CliSettings, connected, run
from cli.keys import account_name
from pictor.accounts.v1 import account_pb2, accounts_service_pb2, accounts_service_pb2_grpc
from pictor.accounts.v1.limits_pb2 import AccountLimits, UpdateAccountLimitsRequest

DEFAULT = "default"
NAMES = ("requests_per_minute", "unfinished_jobs", "queued_jobs")


class Bound(click.ParamType[str]):
    """A whole number, 0 for no bound, or the word default."""

    name = "number"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it."""
        if value != DEFAULT and not (value.isdecimal() and len(value) < 8):
            self.fail(f"{value!r} must be a whole number, 0 for no bound, or default", param, ctx)
        return value


@click.command(name="limits")
@click.argument("account")
@click.option("--requests-per-minute", type=Bound(), help="Of each of its API keys.")
@click.option("--unfinished-jobs", type=Bound(), help="Queued and running.")
@click.option("--queued-jobs", type=Bound(), help="Waiting for a device.")
@click.pass_obj
def limits_(settings: CliSettings, /, account: str, **changes: str | None) -> None:
    """Show what ACCOUNT may take, or change it; needs the scope accounts:admin."""
    given = {name: value for name, value in changes.items() if value is not None}
    found = run(limited(settings, account_name(account), given))
    click.echo(f"{found.name}  {text(found.limits)}")


async def limited(
    settings: CliSettings, account: str, changes: dict[str, str]
) -> account_pb2.Account:
    """Read an account, with other limits if there are any changes."""
    async with connected(settings, "accounts") as channel:
        accounts = accounts_service_pb2_grpc.AccountsServiceStub(channel)
        found = await accounts.GetAccount(accounts_service_pb2.GetAccountRequest(name=account))
        if not changes:
            return found
        request = UpdateAccountLimitsRequest(name=account, limits=changed(found.limits, changes))
        return await accounts.UpdateAccountLimits(request)


def changed(limits: AccountLimits, changes: dict[str, str]) -> AccountLimits:
    """Return limits with some of them changed; ``default`` leaves one to the suite's setting."""
    values = {field.name: value for field, value in limits.ListFields()}
    values.update({name: int(value) for name, value in changes.items() if value != DEFAULT})
    kept = {name: value for name, value in values.items() if changes.get(name) != DEFAULT}
    return AccountLimits(**kept)


def text(limits: AccountLimits) -> str:
    """Write limits in one line."""
    given = {field.name: value for field, value in limits.ListFields()}
    return "  ".join(f"{name} {given.get(name, DEFAULT)}" for name in NAMES)
