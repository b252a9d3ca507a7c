"""
Who calls: the key from the headers, checked before a byte of the body is read.

The same key is good in every spelling that one of the public APIs uses; where two are sent and
differ, the dialect's own wins. After ``admit`` the caller is the principal of the present task, and
the channels carry it to the services.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.requests import Request

from gateway.dialect import Credential
from gateway.rates import Rates
from pictor.errors.v1 import error_reason_pb2
from services.rpc.errors import Unauthenticated
from services.rpc.principals import Authenticator, Principal, become

# Where no key is required, whoever sends none shares this account.
ANYBODY = Principal(account=f"accounts/{'0' * 32}", scopes=frozenset({"inference"}))


@dataclass(frozen=True)
class Door:
    """
    Decides who comes in.

    Attributes:
        require_key: Whether callers without a good key are sent away.
        rates: How often one may come.
    """

    require_key: bool
    rates: Rates

    async def admit(self, request: Request, own: Credential, scope: str) -> None:
        """
        Make the caller the principal of the present task.

        Raises:
            Unauthenticated: If no key was sent, or one that opens nothing.
            PermissionDenied: If the key lacks *scope*.
            Exhausted: If the key comes too often.
        """
        principal = await self._principal(request, own)
        await self.rates.take(request.scope, principal.api_key or principal.account)
        principal.require(scope)
        become(principal)

    async def _principal(self, request: Request, own: Credential) -> Principal:
        secret = secret_of(request, own)
        authenticator: Authenticator = request.state.authenticator
        if not secret and self.require_key:
            raise Unauthenticated(
                f"no API key: send it as '{own.value}'",
                reason=error_reason_pb2.ERROR_REASON_API_KEY_MISSING,
            )
        if not secret:
            return ANYBODY
        try:
            return await authenticator.authenticate(secret)
        except Unauthenticated:
            if self.require_key:
                raise
            # SillyTavern sends 'Basic undefined' where it was given no credentials.
            return ANYBODY


def secret_of(request: Request, own: Credential) -> str:
    """Return the key that a request carries, the dialect's own spelling first; or nothing."""
    order = [own, *(credential for credential in Credential if credential is not own)]
    found = (_READERS[credential](request) for credential in order)
    return next((secret for secret in found if secret), "")


def _scheme(headers: Mapping[str, str], scheme: str) -> str:
    given, _, value = headers.get("authorization", "").strip().partition(" ")
    return value.strip() if given.lower() == scheme else ""


def _basic(request: Request) -> str:
    try:
        pair = base64.b64decode(_scheme(request.headers, "basic"), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    return pair.partition(":")[2]


def _header(name: str) -> Callable[[Request], str]:
    return lambda request: request.headers.get(name, "").strip()


_READERS: dict[Credential, Callable[[Request], str]] = {
    Credential.BEARER: lambda request: _scheme(request.headers, "bearer"),
    Credential.BASIC: _basic,
    Credential.X_API_KEY: _header("x-api-key"),
    Credential.X_KEY: _header("x-key"),
    Credential.X_GOOG_API_KEY: _header("x-goog-api-key"),
    Credential.QUERY: lambda request: request.query_params.get("key", "").strip(),
}
