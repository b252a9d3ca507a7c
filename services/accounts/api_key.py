"""
API keys as they are stored, and their secrets.

A secret is ``pk_{prefix}_{43 characters}``. The prefix is public: it finds the key and lets a
person recognise it. The rest is 256 random bits; only the SHA-256 of the whole secret is kept.
"""

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass

from pictor.accounts.v1 import api_key_pb2
from pictor.errors.v1 import error_reason_pb2
from services.accounts.account import checked_display_name, required
from services.paging import Position
from services.rpc.errors import NotFound, invalid
from services.timestamps import future, now, to_timestamp

SCOPES = ("inference", "catalog:write", "accounts:admin")
State = api_key_pb2.ApiKey.State

_PREFIX_LENGTH = 12
_PREFIX_CHARACTERS = string.ascii_lowercase + string.digits
_SECRET = re.compile(r"pk_([a-z0-9]{12})_[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"accounts/([0-9a-f]{32})/apiKeys/([0-9a-f]{32})")


@dataclass(frozen=True)
class ApiKey:
    """
    One API key, without its secret.

    Attributes:
        id: 32 lower-case hexadecimal digits.
        account_id: The account that its bearer acts for.
        prefix: The public part of the secret.
        sha256: Of the whole secret, in hexadecimal.
        display_name: Is shown to people; may be empty.
        scopes: What its bearer may do.
        create_time: Microseconds since the epoch, like the two below.
        expire_time: None if the key does not expire.
        revoke_time: None if nobody has revoked it.
    """

    id: str
    account_id: str
    prefix: str
    sha256: str
    display_name: str
    scopes: tuple[str, ...]
    create_time: int
    expire_time: int | None = None
    revoke_time: int | None = None

    @property
    def name(self) -> str:
        """The resource name, ``accounts/{account}/apiKeys/{api_key}``."""
        return f"{self.account}/apiKeys/{self.id}"

    @property
    def account(self) -> str:
        """The account's resource name."""
        return f"accounts/{self.account_id}"

    @property
    def position(self) -> Position:
        """The place in a list, oldest first."""
        return self.create_time, self.id

    def state(self, moment: int) -> State.ValueType:
        """Tell whether the key opens anything at *moment*; a revoked key stays revoked."""
        if self.revoke_time is not None:
            return State.STATE_REVOKED
        if self.expire_time is not None and self.expire_time <= moment:
            return State.STATE_EXPIRED
        return State.STATE_ACTIVE

    def to_message(self) -> api_key_pb2.ApiKey:
        """Write the key as the protos do, with its present state."""
        return api_key_pb2.ApiKey(
            name=self.name,
            display_name=self.display_name,
            key_prefix=self.prefix,
            scopes=self.scopes,
            state=self.state(now()),
            create_time=to_timestamp(self.create_time),
            expire_time=to_timestamp(self.expire_time),
            revoke_time=to_timestamp(self.revoke_time),
        )


def new_key(account_id: str, wanted: api_key_pb2.ApiKey) -> tuple[ApiKey, str]:
    """
    Make a key from display_name, scopes and expire_time of *wanted*.

    Returns:
        The key, and its secret, which nothing else holds.

    Raises:
        InvalidRequest: If one of the three breaks its rule.
    """
    prefix = "".join(secrets.choice(_PREFIX_CHARACTERS) for _ in range(_PREFIX_LENGTH))
    secret = f"pk_{prefix}_{secrets.token_urlsafe(32)}"
    key = ApiKey(
        id=secrets.token_hex(16),
        account_id=account_id,
        prefix=prefix,
        sha256=_sha256(secret),
        display_name=checked_display_name(wanted.display_name, "api_key.display_name"),
        scopes=checked_scopes(wanted.scopes),
        create_time=now(),
        expire_time=(
            future(wanted.expire_time, "api_key.expire_time")
            if wanted.HasField("expire_time")
            else None
        ),
    )
    return key, secret


def checked_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """
    Return each scope once, in the order of SCOPES.

    Raises:
        InvalidRequest: If there is none, or one that does not exist.
    """
    wanted = set(scopes)
    known = ", ".join(SCOPES)
    if not wanted:
        raise required("api_key.scopes", f"at least one of {known}")
    unknown = sorted(wanted.difference(SCOPES))
    if unknown:
        raise invalid("api_key.scopes", f"there is no scope {unknown[0]!r}; the scopes are {known}")
    return tuple(scope for scope in SCOPES if scope in wanted)


def prefix_of(secret: str) -> str | None:
    """Return the prefix of a secret, or None if no key can have this secret."""
    match = _SECRET.fullmatch(secret)
    return match[1] if match else None


def opens(secret: str, key: ApiKey | None) -> bool:
    """Tell whether this is the key's secret, in the same time whether there is a key or not."""
    expected = key.sha256 if key else _sha256("")
    return hmac.compare_digest(_sha256(secret), expected) and key is not None


def key_ids(name: str) -> tuple[str, str]:
    """
    Return the ids of account and key in a key's name.

    Raises:
        InvalidRequest: If the name is empty.
        NotFound: If no key can have it.
    """
    if not name:
        raise required("name", "accounts/{account}/apiKeys/{api_key}")
    match = _NAME.fullmatch(name)
    if not match:
        raise key_missing(name)
    return match[1], match[2]


def key_missing(name: str) -> NotFound:
    """Make the error of a key that does not exist."""
    return NotFound(
        f"there is no API key {name[:100]!r}",
        reason=error_reason_pb2.ERROR_REASON_API_KEY_NOT_FOUND,
        metadata={"api_key": name[:100]},
    )


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
