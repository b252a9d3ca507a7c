"""How every service but accounts checks an API key: it asks accounts, believes it for a second."""

import time

import grpc

from pictor.accounts.v1 import accounts_service_pb2, accounts_service_pb2_grpc
from services.rpc.principals import SUITE, Principal, become, caller

# Revocation must hold everywhere within a second.
BELIEVE_SECONDS = 1.0
# Open streams ask this often; see revocation.py.
RECHECKED_SECONDS = 0.4
REMEMBERED_KEYS = 10_000


class AccountsAuthenticator:
    """
    Authenticates API keys at the accounts service.

    Args:
        channel: A channel to accounts, signed with the service token.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._accounts = accounts_service_pb2_grpc.AccountsServiceStub(channel)
        self._known: dict[str, tuple[float, Principal]] = {}
        self._checked: dict[str, float] = {}

    async def authenticate(self, secret: str) -> Principal:
        """
        Tell whose secret this is.

        Raises:
            Unauthenticated: If it opens nothing.
        """
        until, principal = self._known.get(secret, (0.0, SUITE))
        if time.monotonic() < until:
            return principal
        answer = await self._ask(accounts_service_pb2.AuthenticateRequest(secret=secret))
        principal = Principal(
            account=answer.account, scopes=frozenset(answer.scopes), api_key=answer.api_key
        )
        if len(self._known) >= REMEMBERED_KEYS:
            self._known.clear()
        self._known[secret] = (time.monotonic() + BELIEVE_SECONDS, principal)
        return principal

    async def recheck(self, api_key: str) -> None:
        """
        Insist that a key is still good; streams of one key ask together.

        Raises:
            Unauthenticated: If it is not.
        """
        if time.monotonic() < self._checked.get(api_key, 0.0):
            return
        await self._ask(accounts_service_pb2.AuthenticateRequest(api_key=api_key))
        if len(self._checked) >= REMEMBERED_KEYS:
            self._checked.clear()
        self._checked[api_key] = time.monotonic() + RECHECKED_SECONDS

    async def _ask(
        self, request: accounts_service_pb2.AuthenticateRequest
    ) -> accounts_service_pb2.AuthenticateResponse:
        # The question is the suite's own, whoever is being authenticated.
        before = caller()
        become(SUITE)
        try:
            return await self._accounts.Authenticate(request)
        finally:
            become(before)
