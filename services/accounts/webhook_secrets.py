"""The secrets with which an account's webhooks are signed, by the Standard Webhooks scheme."""

import base64
import secrets
from typing import NamedTuple

import structlog

from services.accounts.account import account_id, account_missing
from services.accounts.ledger import visible
from services.accounts.store import Store
from services.rpc.principals import Principal
from services.timestamps import now

SECRET_BYTES = 32
# Receivers have a day to learn the new one.
OVERLAP_US = 24 * 3600 * 1_000_000

log = structlog.get_logger()


class Rotated(NamedTuple):
    """A new secret, and until when the one before is used too; None where there was none."""

    secret: str
    previous_expire_time: int | None


class WebhookSecrets:
    """
    Makes secrets, and keeps them readable: who signs needs them.

    Args:
        store: Where they are kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def rotate(self, name: str, caller: Principal) -> Rotated:
        """
        Make a new secret.

        Raises:
            NotFound: If there is no such account, or it is not the caller's business.
        """
        account = visible(name, "name", caller)
        owner = account_id(account, "name")
        if await self._store.account(owner) is None:
            raise account_missing(account)
        secret = f"whsec_{base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}"
        moment = now()
        had_one = await self._store.rotate_webhook_secret(owner, secret, moment)
        log.info("webhook_secret.rotated", account=account)
        return Rotated(secret, moment + OVERLAP_US if had_one else None)

    async def of(self, name: str) -> list[str]:
        """List the secrets to sign with, the newest first."""
        kept = await self._store.webhook_secrets(name.removeprefix("accounts/"))
        if kept is None:
            return []
        newest, previous, rotate_time = kept
        still_known = previous and rotate_time + OVERLAP_US > now()
        return [newest, previous] if still_known else [newest]
