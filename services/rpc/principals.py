"""
Who calls: the principal of the present call, and how it travels from process to process.

The suite's own processes prove themselves with the service token, a random secret in the data
folder. It may act for an account: the metadata then carries the account, the scopes and the name
of the key that the caller used, and the called service sees the same principal as the calling one.
"""

import contextlib
import contextvars
import os
import pathlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pictor.errors.v1 import error_reason_pb2
from services.rpc.errors import PermissionDenied

ACCOUNT_KEY = "x-pictor-account"
SCOPES_KEY = "x-pictor-scopes"
API_KEY_KEY = "x-pictor-api-key"
TOKEN_FILE = "service-token"  # noqa: S105 - a file name


@dataclass(frozen=True)
class Principal:
    """
    Who calls.

    Attributes:
        account: `accounts/{account}`; empty where the suite calls on its own behalf.
        scopes: What the caller may do.
        is_service: The suite itself calls, and may do everything.
        api_key: The name of the key that was used; empty where there was none.
    """

    account: str = ""
    scopes: frozenset[str] = frozenset()
    is_service: bool = False
    api_key: str = ""

    def require(self, scope: str) -> None:
        """
        Insist on a scope; an empty one only the suite itself has.

        Raises:
            PermissionDenied: If it is missing.
        """
        if self.is_service or (scope and scope in self.scopes):
            return
        held = ", ".join(sorted(self.scopes)) or "none"
        wanted = f"scope {scope!r}" if scope else "the suite's service token"
        raise PermissionDenied(
            f"this call needs {wanted}; the key has: {held}",
            reason=error_reason_pb2.ERROR_REASON_SCOPE_MISSING,
            metadata={"scope": scope},
        )


class Authenticator(Protocol):
    """Turns the secret of an API key into a principal."""

    async def authenticate(self, secret: str) -> Principal:
        """
        Tell whose secret this is.

        Raises:
            Unauthenticated: If it opens nothing.
        """

    async def recheck(self, api_key: str) -> None:
        """
        Insist that the key of this name, whose secret was good, still is.

        Raises:
            Unauthenticated: If it was revoked, or has expired.
        """


SUITE = Principal(is_service=True)
_current: contextvars.ContextVar[Principal] = contextvars.ContextVar("principal", default=SUITE)


def caller() -> Principal:
    """Return the principal of the present call; outside of calls, the suite itself."""
    return _current.get()


def become(principal: Principal) -> None:
    """Make *principal* the caller for the rest of the present task."""
    _current.set(principal)


@contextlib.contextmanager
def acting_for(account: str) -> Iterator[None]:
    """Call other services on behalf of *account* within this block."""
    token = _current.set(Principal(account=account, is_service=True))
    try:
        yield
    finally:
        _current.reset(token)


def service_token(data_dir: pathlib.Path) -> str:
    """
    Read the suite's service token, or make it on the first start.

    The file has mode 0600. Processes that start at the same moment agree on one token: it is
    written aside and linked into place, which only one of them can do.
    """
    path = data_dir / TOKEN_FILE
    if not path.exists():
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_secret(path, secrets.token_urlsafe(32))
    return path.read_text(encoding="ascii").strip()


def write_secret(path: pathlib.Path, secret: str) -> bool:
    """Write a secret that is not there yet, with mode 0600; False if somebody was first."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    return True
