"""`pictor keys`: make, list and revoke API keys."""

import re
from datetime import UTC, datetime, timedelta

import click

from cli import table
from cli.connection import CliSettings, Failure, api_key, connected, run
from pictor.accounts.v1 import accounts_service_pb2, accounts_service_pb2_grpc
from pictor.accounts.v1.api_key_pb2 import ApiKey

HEADING = ("PREFIX", "NAME", "STATE", "SCOPES", "EXPIRES", "ACCOUNT")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
ALL_ACCOUNTS = "accounts/-"
PAGE = 1000


class Span(click.ParamType[timedelta]):
    """A length of time such as 30d."""

    name = "span"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Parse it."""
        match = re.fullmatch(r"(\d{1,6})([smhdw])", value)
        if not match or not int(match[1]):
            self.fail(f"{value!r} must be a number and one of s, m, h, d, w, e.g. 30d", param, ctx)
        return timedelta(**{UNITS[match[2]]: int(match[1])})


@click.group()
def keys() -> None:
    """Make, list and revoke API keys; needs a key with the scope accounts:admin."""


@keys.command()
@click.option("--scope", "scopes", multiple=True, required=True, help="inference, ...; may repeat.")
@click.option("--name", default="", help="Shown in lists.")
@click.option("--expires-in", type=Span(), help="E.g. 30d; without it the key does not expire.")
@click.option("--account", help="By default that of the key in use.")
@click.pass_obj
def create(
    settings: CliSettings,
    scopes: tuple[str, ...],
    name: str,
    expires_in: timedelta | None,
    account: str | None,
) -> None:
    """Make a key, and print its secret: it cannot be had again."""
    key = ApiKey(display_name=name, scopes=scopes)
    if expires_in:
        key.expire_time.FromDatetime(datetime.now(UTC) + expires_in)
    made = run(make(settings, key, account))
    click.echo(made.secret)
    text = f"key {made.api_key.key_prefix} of {made.api_key.name.partition('/apiKeys/')[0]}"
    click.echo(
        f"{text}: {', '.join(made.api_key.scopes)}; keep the secret, it is not shown again",
        err=True,
    )


@keys.command(name="list")
@click.option("--account", help="By default all.")
@click.pass_obj
def list_(settings: CliSettings, account: str | None) -> None:
    """List keys, revoked ones included."""
    found = run(listed(settings, account_name(account) if account else ALL_ACCOUNTS))
    for line in table.lines([HEADING, *(row(key) for key in found)]):
        click.echo(line)


@keys.command()
@click.argument("key", metavar="PREFIX_OR_NAME")
@click.pass_obj
def revoke(settings: CliSettings, key: str) -> None:
    """Revoke a key, for good."""
    revoked = run(end(settings, key))
    click.echo(f"{revoked.key_prefix}  {state_of(revoked)}")


async def make(
    settings: CliSettings, key: ApiKey, account: str | None
) -> accounts_service_pb2.CreateApiKeyResponse:
    """Make a key of an account, or of the caller's own."""
    parent = account_name(account) if account else await own_account(settings)
    async with connected(settings, "accounts") as channel:
        accounts = accounts_service_pb2_grpc.AccountsServiceStub(channel)
        return await accounts.CreateApiKey(
            accounts_service_pb2.CreateApiKeyRequest(parent=parent, api_key=key)
        )


async def listed(settings: CliSettings, parent: str) -> list[ApiKey]:
    """Ask for all keys of an account, or of all."""
    found: list[ApiKey] = []
    request = accounts_service_pb2.ListApiKeysRequest(parent=parent, page_size=PAGE)
    async with connected(settings, "accounts") as channel:
        accounts = accounts_service_pb2_grpc.AccountsServiceStub(channel)
        while True:
            page = await accounts.ListApiKeys(request)
            found += page.api_keys
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return found


async def own_account(settings: CliSettings) -> str:
    """Return the account of the key in use, which its prefix finds."""
    found = await listed(settings, ALL_ACCOUNTS)
    secret = api_key(settings)
    for key in found:
        if secret.startswith(f"pk_{key.key_prefix}_"):
            return key.name.partition("/apiKeys/")[0]
    raise Failure("the key in use belongs to no account that it may see; give --account")


async def end(settings: CliSettings, text: str) -> ApiKey:
    """Revoke the one key that has a prefix or a name."""
    key = only(await listed(settings, ALL_ACCOUNTS), text)
    async with connected(settings, "accounts") as channel:
        accounts = accounts_service_pb2_grpc.AccountsServiceStub(channel)
        return await accounts.RevokeApiKey(accounts_service_pb2.RevokeApiKeyRequest(name=key.name))


def only(found: list[ApiKey], text: str) -> ApiKey:
    """
    Return the key with a prefix, a display name or a resource name; of several, the active one.

    Raises:
        Failure: If there is none, or more than one.
    """
    matching = [key for key in found if text in (key.key_prefix, key.display_name, key.name)]
    if not text or not matching:
        raise Failure(f"no key has the prefix or name {text!r}; 'pictor keys list' shows all")
    active = [key for key in matching if key.state == ApiKey.STATE_ACTIVE] or matching[:1]
    if len(active) > 1:
        prefixes = ", ".join(key.key_prefix for key in active)
        raise Failure(f"{len(active)} keys are named {text!r}; give one of the prefixes {prefixes}")
    return active[0]


def account_name(account: str) -> str:
    """Return an account's name, whether it or the bare id was given."""
    return f"accounts/{account.removeprefix('accounts/')}"


def state_of(key: ApiKey) -> str:
    """Return a key's state as a word."""
    return ApiKey.State.Name(key.state).removeprefix("STATE_").lower()


def row(key: ApiKey) -> tuple[str, str, str, str, str, str]:
    """Return a key's line of the table."""
    expires = key.expire_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%SZ")
    return (
        key.key_prefix,
        key.display_name or "-",
        state_of(key),
        ",".join(key.scopes),
        expires if key.HasField("expire_time") else "never",
        key.name.partition("/apiKeys/")[0].removeprefix("accounts/"),
    )
