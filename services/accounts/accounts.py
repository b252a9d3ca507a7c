"""What can be done with accounts and API keys. Who may do it, the interceptor has decided."""

import asyncio
import pathlib
import secrets
from typing import NamedTuple

import structlog

from pictor.accounts.v1 import account_pb2, api_key_pb2
from pictor.errors.v1 import error_reason_pb2
from services.accounts.account import (
    Account,
    account_id,
    account_missing,
    checked_billing,
    checked_display_name,
    checked_limits,
    required,
)
from services.accounts.api_key import (
    SCOPES,
    ApiKey,
    State,
    key_ids,
    key_missing,
    new_key,
    opens,
    prefix_of,
)
from services.accounts.store import Store
from services.paging import next_token, page_size, position
from services.rpc.crash import crash_point
from services.rpc.errors import Unauthenticated
from services.rpc.limits import SETTINGS_HOLD, Limits
from services.rpc.principals import write_secret
from services.timestamps import now

KEY_FILE = "api-key"
ALL_ACCOUNTS = "accounts/-"
# Longer than any secret; what is longer is not even looked up.
LONGEST_SECRET = 256

log = structlog.get_logger()


class AccountPage(NamedTuple):
    """Accounts, oldest first, and the token of the page behind them; empty after the last."""

    accounts: list[Account]
    next_page_token: str


class KeyPage(NamedTuple):
    """Keys, oldest first, and the token of the page behind them; empty after the last."""

    keys: list[ApiKey]
    next_page_token: str


class Accounts:
    """
    The accounts of a suite.

    Args:
        store: Where they are kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def authenticate(self, secret: str) -> ApiKey:
        """
        Find the key that a secret opens.

        Raises:
            Unauthenticated: If it opens none. A key's state is told only to who has its secret.
        """
        crash_point("accounts.authenticate")
        if not secret:
            raise _refused("no API key was given", error_reason_pb2.ERROR_REASON_API_KEY_MISSING)
        prefix = prefix_of(secret) if len(secret) <= LONGEST_SECRET else None
        key = await self._store.key_by_prefix(prefix) if prefix else None
        if key is None or not opens(secret, key):
            raise _refused(
                "this API key is not one that this suite has given out",
                error_reason_pb2.ERROR_REASON_API_KEY_INVALID,
            )
        return _active(key)

    async def recheck(self, name: str) -> ApiKey:
        """
        Find a key whose secret was good.

        Raises:
            Unauthenticated: If it was revoked, or has expired.
        """
        key = await self._store.key(*key_ids(name))
        if key is None:
            raise _refused(
                "there is no such API key", error_reason_pb2.ERROR_REASON_API_KEY_INVALID
            )
        return _active(key)

    async def create_account(self, wanted: account_pb2.Account) -> Account:
        """
        Make an account with the display name and the billing of *wanted*.

        Raises:
            InvalidRequest: If the name is empty or too long, or there is no such billing.
        """
        account = _new_account(wanted.display_name, wanted.billing)
        await self._store.add_account(account)
        log.info("account.created", account=account.name)
        return account

    async def account(self, name: str) -> Account:
        """
        Read an account.

        Raises:
            NotFound: If there is none of this name.
        """
        account = await self._store.account(account_id(name, "name"))
        if account is None:
            raise account_missing(name)
        return account

    async def limits(self, owner: str) -> Limits:
        """Read how much an account may take; *owner* is its name."""
        account = await self._store.account(account_id(owner, "name"))
        return account.limits if account else SETTINGS_HOLD

    async def set_limits(self, name: str, limits: Limits) -> Account:
        """
        Change how much an account may take.

        Raises:
            InvalidRequest: If a limit is out of range.
            NotFound: If there is no such account.
        """
        account = await self._store.set_limits(account_id(name, "name"), checked_limits(limits))
        if account is None:
            raise account_missing(name)
        log.info("account.limited", account=name, **vars(limits))
        return account

    async def list_accounts(self, size: int, token: str) -> AccountPage:
        """
        Read a page of accounts.

        Raises:
            InvalidRequest: If *size* or *token* breaks its rule.
        """
        limit = page_size(size)
        found = await self._store.accounts(limit + 1, position(token))
        return AccountPage(found[:limit], next_token([one.position for one in found], limit))

    async def create_key(self, parent: str, wanted: api_key_pb2.ApiKey) -> tuple[ApiKey, str]:
        """
        Make a key for an account.

        Returns:
            The key, and its secret, which nothing else holds.

        Raises:
            InvalidRequest: If scopes, display name or expiry break their rule.
            NotFound: If there is no such account.
        """
        owner = account_id(parent, "parent")
        key, secret = new_key(owner, wanted)
        if await self._store.account(owner) is None:
            raise account_missing(parent)
        await self._store.add_key(key)
        log.info("api_key.created", api_key=key.name, scopes=key.scopes)
        return key, secret

    async def list_keys(self, parent: str, size: int, token: str) -> KeyPage:
        """
        Read a page of an account's keys, or of all keys for ``accounts/-``.

        Raises:
            InvalidRequest: If *size* or *token* breaks its rule.
            NotFound: If there is no such account.
        """
        limit = page_size(size)
        after = position(token)
        owner = None if parent == ALL_ACCOUNTS else account_id(parent, "parent")
        if owner is not None and await self._store.account(owner) is None:
            raise account_missing(parent)
        found = await self._store.keys(owner, limit + 1, after)
        return KeyPage(found[:limit], next_token([one.position for one in found], limit))

    async def revoke_key(self, name: str) -> ApiKey:
        """
        Revoke a key; a second time changes nothing.

        Raises:
            NotFound: If there is none of this name.
        """
        key = await self._store.revoke(*key_ids(name), now())
        if key is None:
            raise key_missing(name)
        log.info("api_key.revoked", api_key=key.name)
        return key

    async def make_first(self, data_dir: pathlib.Path) -> None:
        """
        On the first start, make an account and a key that may do everything.

        The secret goes into the file ``api-key``, with mode 0600. It is written before the
        account, so a crash in between leaves a start that simply happens again; a file of an
        older database, which opens nothing, is replaced.
        """
        if await self._store.has_accounts():
            return
        account = _new_account("operator")
        key, secret = new_key(
            account.id, api_key_pb2.ApiKey(display_name="first key", scopes=SCOPES)
        )
        await asyncio.to_thread(_replace_secret, data_dir / KEY_FILE, secret)
        await self._store.add_first(account, key)
        log.info("accounts.first_key", account=account.name, file=KEY_FILE)


def _new_account(display_name: str, billing: int = 0) -> Account:
    if not display_name:
        raise required("account.display_name", "1 to 63 characters")
    return Account(
        id=secrets.token_hex(16),
        display_name=checked_display_name(display_name, "account.display_name"),
        create_time=now(),
        billing=checked_billing(billing),
    )


def _active(key: ApiKey) -> ApiKey:
    state = key.state(now())
    if state == State.STATE_REVOKED:
        raise _refused(
            "this API key has been revoked", error_reason_pb2.ERROR_REASON_API_KEY_REVOKED
        )
    if state == State.STATE_EXPIRED:
        raise _refused("this API key has expired", error_reason_pb2.ERROR_REASON_API_KEY_EXPIRED)
    return key


def _refused(message: str, reason: error_reason_pb2.ErrorReason.ValueType) -> Unauthenticated:
    return Unauthenticated(f"{message}; an operator can make one", reason=reason)


def _replace_secret(path: pathlib.Path, secret: str) -> None:
    path.unlink(missing_ok=True)
    write_secret(path, secret)
