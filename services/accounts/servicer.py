"""AccountsService over gRPC, and the accounts service's own check of API keys."""

from typing import Any

from grpc.aio import ServicerContext

from pictor.accounts.v1 import (
    account_pb2,
    accounts_service_pb2,
    accounts_service_pb2_grpc,
    api_key_pb2,
    ledger_pb2,
    limits_pb2,
    preferences_pb2,
    webhook_pb2,
)
from services.accounts.accounts import Accounts
from services.accounts.ledger import Ledger, entry_message, hold_message
from services.accounts.preferences import Preferences, from_struct, to_struct
from services.accounts.webhook_secrets import WebhookSecrets
from services.rpc.limits import Limits
from services.rpc.principals import Principal, caller
from services.timestamps import to_timestamp

Context = ServicerContext[Any, Any]


class AccountsServicer(accounts_service_pb2_grpc.AccountsServiceServicer):
    """
    Turns messages into calls of the domain and back.

    Args:
        accounts: The accounts of the suite.
        preferences: What the bearers of keys have chosen.
        ledger: Their credits.
        webhook_secrets: What their webhooks are signed with.
    """

    def __init__(
        self,
        accounts: Accounts,
        preferences: Preferences,
        ledger: Ledger,
        webhook_secrets: WebhookSecrets,
    ) -> None:
        self._accounts = accounts
        self._preferences = preferences
        self._ledger = ledger
        self._webhook_secrets = webhook_secrets

    async def Authenticate(
        self, request: accounts_service_pb2.AuthenticateRequest, context: Context
    ) -> accounts_service_pb2.AuthenticateResponse:
        """Tell whose secret this is."""
        if request.api_key:
            key = await self._accounts.recheck(request.api_key)
        else:
            key = await self._accounts.authenticate(request.secret)
        return accounts_service_pb2.AuthenticateResponse(
            account=key.account,
            api_key=key.name,
            scopes=key.scopes,
            limits=(await self._accounts.limits(key.account)).to_message(),
        )

    async def CreateAccount(
        self, request: accounts_service_pb2.CreateAccountRequest, context: Context
    ) -> account_pb2.Account:
        """Make an account."""
        return (await self._accounts.create_account(request.account)).to_message()

    async def GetAccount(
        self, request: accounts_service_pb2.GetAccountRequest, context: Context
    ) -> account_pb2.Account:
        """Read one account."""
        return (await self._accounts.account(request.name)).to_message()

    async def ListAccounts(
        self, request: accounts_service_pb2.ListAccountsRequest, context: Context
    ) -> accounts_service_pb2.ListAccountsResponse:
        """List accounts, oldest first."""
        page = await self._accounts.list_accounts(request.page_size, request.page_token)
        return accounts_service_pb2.ListAccountsResponse(
            accounts=[account.to_message() for account in page.accounts],
            next_page_token=page.next_page_token,
        )

    async def CreateApiKey(
        self, request: accounts_service_pb2.CreateApiKeyRequest, context: Context
    ) -> accounts_service_pb2.CreateApiKeyResponse:
        """Make a key and show its secret, once."""
        key, secret = await self._accounts.create_key(request.parent, request.api_key)
        return accounts_service_pb2.CreateApiKeyResponse(api_key=key.to_message(), secret=secret)

    async def ListApiKeys(
        self, request: accounts_service_pb2.ListApiKeysRequest, context: Context
    ) -> accounts_service_pb2.ListApiKeysResponse:
        """List keys, oldest first."""
        page = await self._accounts.list_keys(request.parent, request.page_size, request.page_token)
        return accounts_service_pb2.ListApiKeysResponse(
            api_keys=[key.to_message() for key in page.keys],
            next_page_token=page.next_page_token,
        )

    async def RevokeApiKey(
        self, request: accounts_service_pb2.RevokeApiKeyRequest, context: Context
    ) -> api_key_pb2.ApiKey:
        """Revoke a key, for good."""
        return (await self._accounts.revoke_key(request.name)).to_message()

    async def GetPreferences(
        self, request: preferences_pb2.GetPreferencesRequest, context: Context
    ) -> preferences_pb2.Preferences:
        """Read what was chosen."""
        choices = await self._preferences.get(request.owner, request.dialect)
        return preferences_pb2.Preferences(values=to_struct(choices))

    async def UpdatePreferences(
        self, request: preferences_pb2.UpdatePreferencesRequest, context: Context
    ) -> preferences_pb2.Preferences:
        """Choose."""
        choices = await self._preferences.update(
            request.owner, request.dialect, from_struct(request.values)
        )
        return preferences_pb2.Preferences(values=to_struct(choices))

    async def SetBilling(
        self, request: ledger_pb2.SetBillingRequest, context: Context
    ) -> account_pb2.Account:
        """Say who pays for an account."""
        return (await self._ledger.set_billing(request.name, request.billing)).to_message()

    async def UpdateAccountLimits(
        self, request: limits_pb2.UpdateAccountLimitsRequest, context: Context
    ) -> account_pb2.Account:
        """Bound how much an account may take."""
        limits = Limits.of(request.limits)
        return (await self._accounts.set_limits(request.name, limits)).to_message()

    async def GrantCredits(
        self, request: ledger_pb2.GrantCreditsRequest, context: Context
    ) -> ledger_pb2.Balance:
        """Give credits, once."""
        balance = await self._ledger.grant(
            request.name, request.amount_microcredits, request.request_id
        )
        return balance.to_message()

    async def GetBalance(
        self, request: ledger_pb2.GetBalanceRequest, context: Context
    ) -> ledger_pb2.Balance:
        """Read what an account has."""
        return (await self._ledger.balance(request.name, caller())).to_message()

    async def ListLedgerEntries(
        self, request: ledger_pb2.ListLedgerEntriesRequest, context: Context
    ) -> ledger_pb2.ListLedgerEntriesResponse:
        """List an account's ledger, newest first."""
        page = await self._ledger.entries(
            request.parent, request.page_size, request.page_token, caller()
        )
        return ledger_pb2.ListLedgerEntriesResponse(
            ledger_entries=[entry_message(entry) for entry in page.entries],
            next_page_token=page.next_page_token,
        )

    async def AuditLedgers(
        self, request: ledger_pb2.AuditLedgersRequest, context: Context
    ) -> ledger_pb2.AuditLedgersResponse:
        """Add every ledger up."""
        return ledger_pb2.AuditLedgersResponse(accounts=await self._ledger.audit())

    async def HoldCredits(
        self, request: ledger_pb2.HoldCreditsRequest, context: Context
    ) -> ledger_pb2.HoldCreditsResponse:
        """Set the price of a job aside."""
        hold = await self._ledger.hold(request.account, request.job, request.amount_microcredits)
        return ledger_pb2.HoldCreditsResponse(hold=hold_message(hold))

    async def SettleHold(
        self, request: ledger_pb2.SettleHoldRequest, context: Context
    ) -> ledger_pb2.SettleHoldResponse:
        """Spend what was set aside, or give it back."""
        until = request.held_until.ToMicroseconds() if request.HasField("held_until") else None
        hold = await self._ledger.settle(request.job, capture=request.capture, held_until=until)
        return ledger_pb2.SettleHoldResponse(hold=hold_message(hold))

    async def ListHolds(
        self, request: ledger_pb2.ListHoldsRequest, context: Context
    ) -> ledger_pb2.ListHoldsResponse:
        """List the holds that wait."""
        before = request.before_time.ToMicroseconds() if request.HasField("before_time") else None
        page = await self._ledger.holds(before, request.page_size, request.page_token)
        return ledger_pb2.ListHoldsResponse(
            holds=[hold for one in page.holds if (hold := hold_message(one))],
            next_page_token=page.next_page_token,
        )

    async def RotateWebhookSecret(
        self, request: webhook_pb2.RotateWebhookSecretRequest, context: Context
    ) -> webhook_pb2.RotateWebhookSecretResponse:
        """Make a new secret and show it, once."""
        made = await self._webhook_secrets.rotate(request.name, caller())
        return webhook_pb2.RotateWebhookSecretResponse(
            secret=made.secret, previous_expire_time=to_timestamp(made.previous_expire_time)
        )

    async def GetWebhookSecrets(
        self, request: webhook_pb2.GetWebhookSecretsRequest, context: Context
    ) -> webhook_pb2.GetWebhookSecretsResponse:
        """Read what is signed with."""
        found = await self._webhook_secrets.of(request.name)
        return webhook_pb2.GetWebhookSecretsResponse(secrets=found)


class OwnAuthenticator:
    """
    Checks API keys without a call: this is the process that other processes ask.

    Args:
        accounts: The accounts of the suite.
    """

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def authenticate(self, secret: str) -> Principal:
        """
        Tell whose secret this is.

        Raises:
            Unauthenticated: If it opens nothing.
        """
        key = await self._accounts.authenticate(secret)
        return Principal(account=key.account, scopes=frozenset(key.scopes), api_key=key.name)

    async def recheck(self, api_key: str) -> None:
        """
        Insist that a key is still good.

        Raises:
            Unauthenticated: If it is not.
        """
        await self._accounts.recheck(api_key)
