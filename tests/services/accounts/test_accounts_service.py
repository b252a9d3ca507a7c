"""AccountsService over gRPC."""

import asyncio
import stat

import pytest

from pictor.accounts.v1 import account_pb2, accounts_service_pb2, api_key_pb2
from pictor.accounts.v1.accounts_service_pb2_grpc import AccountsServiceStub
from pictor.errors.v1 import error_reason_pb2
from services.accounts.__main__ import running
from services.rpc.channels import open_channel
from services.rpc.errors import InvalidRequest, NotFound, PermissionDenied, Unauthenticated
from services.rpc.principals import service_token
from services.timestamps import now, to_timestamp

State = api_key_pb2.ApiKey.State
NOBODY = "accounts/" + "0" * 32


async def make_account(suite, display_name="studio"):
    return await suite.CreateAccount(
        accounts_service_pb2.CreateAccountRequest(
            account=account_pb2.Account(display_name=display_name)
        )
    )


async def make_key(suite, parent, scopes=("inference",), **fields):
    return await suite.CreateApiKey(
        accounts_service_pb2.CreateApiKeyRequest(
            parent=parent, api_key=api_key_pb2.ApiKey(scopes=scopes, **fields)
        )
    )


async def authenticate(suite, secret):
    return await suite.Authenticate(accounts_service_pb2.AuthenticateRequest(secret=secret))


async def test_first_start_writes_a_key_that_may_do_everything(suite, settings, first_secret):
    """
    A new suite has one account, and the file api-key opens all of it and only its owner reads it.
    """
    answer = await authenticate(suite, first_secret)
    accounts = await suite.ListAccounts(accounts_service_pb2.ListAccountsRequest())
    keys = await suite.ListApiKeys(accounts_service_pb2.ListApiKeysRequest(parent="accounts/-"))

    assert set(answer.scopes) == {"inference", "catalog:write", "accounts:admin"}
    assert [account.display_name for account in accounts.accounts] == ["operator"]
    assert answer.account == accounts.accounts[0].name
    assert [key.display_name for key in keys.api_keys] == ["first key"]
    assert stat.S_IMODE((settings.data_dir / "api-key").stat().st_mode) == 0o600


async def test_second_start_keeps_the_key(settings):
    """
    A restart makes no account and leaves the file as it is.
    """
    async with running(settings):
        before = (settings.data_dir / "api-key").read_text()
    async with (
        running(settings) as address,
        open_channel(address, before.strip()) as channel,
    ):
        answer = await AccountsServiceStub(channel).ListAccounts(
            accounts_service_pb2.ListAccountsRequest()
        )

    assert (settings.data_dir / "api-key").read_text() == before
    assert len(answer.accounts) == 1


async def test_a_new_database_replaces_an_old_key_file(settings):
    """
    A file whose secret opens nothing in the new database gives way to one that does.
    """
    (settings.data_dir / "api-key").write_text("pk_old\n")
    async with running(settings) as address:
        secret = (settings.data_dir / "api-key").read_text().strip()
        async with open_channel(address, service_token(settings.data_dir)) as channel:
            answer = await authenticate(AccountsServiceStub(channel), secret)

    assert answer.account


async def test_the_secret_is_in_no_database_file(settings, suite, first_secret):
    """
    Whoever reads the database finds no secret.
    """
    await authenticate(suite, first_secret)

    for path in settings.data_dir.glob("accounts.db*"):
        assert first_secret[16:].encode() not in path.read_bytes()


async def test_an_api_key_with_the_scope_administers(address, first_secret):
    """
    The accounts service checks API keys against its own accounts.
    """
    async with open_channel(address, first_secret) as channel:
        account = await make_account(AccountsServiceStub(channel))

    assert account.name.startswith("accounts/")
    assert account.create_time.seconds > 0


async def test_a_key_without_the_scope_is_refused(suite, address):
    """
    A key for inference cannot make accounts.
    """
    account = await make_account(suite)
    made = await make_key(suite, account.name)
    async with open_channel(address, made.secret) as channel:
        with pytest.raises(PermissionDenied, match="accounts:admin"):
            await make_account(AccountsServiceStub(channel))


async def test_no_api_key_may_authenticate_others(address, first_secret):
    """
    Only the suite's own processes ask whose secret something is.
    """
    async with open_channel(address, first_secret) as channel:
        with pytest.raises(PermissionDenied, match="service token"):
            await authenticate(AccountsServiceStub(channel), first_secret)


async def test_a_new_key_authenticates_as_its_account(suite):
    """
    The answer names account, key and scopes.
    """
    account = await make_account(suite)
    made = await make_key(suite, account.name, display_name="laptop")

    answer = await authenticate(suite, made.secret)

    assert answer.account == account.name
    assert answer.api_key == made.api_key.name
    assert list(answer.scopes) == ["inference"]
    assert made.secret.startswith(f"pk_{made.api_key.key_prefix}_")
    assert made.api_key.state == State.STATE_ACTIVE


async def test_an_empty_secret_is_missing(suite):
    """
    No secret at all has a reason of its own.
    """
    with pytest.raises(Unauthenticated) as caught:
        await authenticate(suite, "")

    assert caught.value.reason == error_reason_pb2.ERROR_REASON_API_KEY_MISSING


async def test_errors_do_not_tell_whether_a_prefix_exists(suite, first_secret):
    """
    A known prefix with a wrong tail, an unknown prefix and nonsense get the same answer.
    """
    wrong_tail = first_secret[:-1] + ("A" if first_secret[-1] != "A" else "B")
    unknown = "pk_aaaaaaaaaaaa_" + "a" * 43
    answers = []
    for secret in (wrong_tail, unknown, "nonsense", "pk_" + "é" * 200, "x" * 5000):
        with pytest.raises(Unauthenticated) as caught:
            await authenticate(suite, secret)
        answers.append((caught.value.reason, caught.value.message))

    assert len(set(answers)) == 1
    assert answers[0][0] == error_reason_pb2.ERROR_REASON_API_KEY_INVALID


async def test_a_revoked_key_opens_nothing(suite):
    """
    Revocation holds for the next call, and a second one changes nothing.
    """
    account = await make_account(suite)
    made = await make_key(suite, account.name)
    request = accounts_service_pb2.RevokeApiKeyRequest(name=made.api_key.name)

    first = await suite.RevokeApiKey(request)
    second = await suite.RevokeApiKey(request)
    with pytest.raises(Unauthenticated) as caught:
        await authenticate(suite, made.secret)

    assert caught.value.reason == error_reason_pb2.ERROR_REASON_API_KEY_REVOKED
    assert first.state == State.STATE_REVOKED
    assert first == second


async def test_a_key_is_revoked_only_under_its_account(suite):
    """
    The name of a key with another account's name in it names nothing.
    """
    account = await make_account(suite)
    other = await make_account(suite)
    made = await make_key(suite, account.name)
    name = made.api_key.name.replace(account.name, other.name)
    for wrong in (name, "accounts/x/apiKeys/y", f"{account.name}/apiKeys/" + "0" * 32):
        with pytest.raises(NotFound) as caught:
            await suite.RevokeApiKey(accounts_service_pb2.RevokeApiKeyRequest(name=wrong))
        assert caught.value.reason == error_reason_pb2.ERROR_REASON_API_KEY_NOT_FOUND

    assert (await authenticate(suite, made.secret)).account == account.name


async def test_an_expired_key_opens_nothing(suite):
    """
    After its expire_time a key is refused, and listed as expired.
    """
    account = await make_account(suite)
    made = await make_key(suite, account.name, expire_time=to_timestamp(now() + 300_000))
    await asyncio.sleep(0.4)

    with pytest.raises(Unauthenticated) as caught:
        await authenticate(suite, made.secret)
    listed = await suite.ListApiKeys(accounts_service_pb2.ListApiKeysRequest(parent=account.name))

    assert caught.value.reason == error_reason_pb2.ERROR_REASON_API_KEY_EXPIRED
    assert listed.api_keys[0].state == State.STATE_EXPIRED


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"scopes": []}, error_reason_pb2.ERROR_REASON_FIELD_REQUIRED),
        ({"scopes": ["all"]}, error_reason_pb2.ERROR_REASON_FIELD_INVALID),
        ({"display_name": "x" * 64}, error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE),
        ({"expire_time": to_timestamp(1)}, error_reason_pb2.ERROR_REASON_FIELD_INVALID),
        ({"expire_time": {"seconds": 2**62}}, error_reason_pb2.ERROR_REASON_FIELD_INVALID),
    ],
)
async def test_a_key_with_a_bad_field_is_refused(suite, fields, reason):
    """
    Each rule of a key's fields is told with its reason, and no key is made.
    """
    account = await make_account(suite)
    with pytest.raises(InvalidRequest) as caught:
        await make_key(suite, account.name, **fields)
    listed = await suite.ListApiKeys(accounts_service_pb2.ListApiKeysRequest(parent=account.name))

    assert caught.value.reason == reason
    assert not listed.api_keys


@pytest.mark.parametrize("name", [NOBODY, "accounts/../x", "accounts/-", "jobs/1"])
async def test_unknown_accounts_are_not_found(suite, name):
    """
    An account that is not there and a name that none can have are both NOT_FOUND.
    """
    with pytest.raises(NotFound) as read:
        await suite.GetAccount(accounts_service_pb2.GetAccountRequest(name=name))
    with pytest.raises(NotFound) as made:
        await make_key(suite, name)

    for caught in (read, made):
        assert caught.value.reason == error_reason_pb2.ERROR_REASON_ACCOUNT_NOT_FOUND
        assert caught.value.metadata == {"account": name}


@pytest.mark.parametrize("display_name", ["", "x" * 64])
async def test_an_account_needs_a_name_of_1_to_63_characters(suite, display_name):
    """
    Neither no display name nor a longer one is taken.
    """
    with pytest.raises(InvalidRequest, match="display_name"):
        await make_account(suite, display_name)


async def test_accounts_are_listed_oldest_first_page_by_page(suite):
    """
    Pages together hold each account once, in the order of their making.
    """
    made = [(await make_account(suite, f"studio {number}")).name for number in range(4)]
    listed, token = [], ""
    while True:
        page = await suite.ListAccounts(
            accounts_service_pb2.ListAccountsRequest(page_size=2, page_token=token)
        )
        listed += [account.name for account in page.accounts]
        token = page.next_page_token
        if not token:
            break

    assert listed[1:] == made


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"page_size": 1001}, "page_size"),
        ({"page_size": -1}, "page_size"),
        ({"page_token": "!"}, "page_token"),
        ({"page_token": "WyJ4IiwieSJd"}, "page_token"),
    ],
)
async def test_bad_paging_is_refused(suite, fields, field):
    """
    A page of 1001 and a token that no list gave are errors of their field.
    """
    with pytest.raises(InvalidRequest) as caught:
        await suite.ListAccounts(accounts_service_pb2.ListAccountsRequest(**fields))

    assert caught.value.violations[0].field == field


async def test_keys_of_one_account_or_of_all_are_listed(suite):
    """
    accounts/- lists the keys of every account; a name lists its own.
    """
    account = await make_account(suite)
    made = await make_key(suite, account.name)

    own = await suite.ListApiKeys(accounts_service_pb2.ListApiKeysRequest(parent=account.name))
    every = await suite.ListApiKeys(accounts_service_pb2.ListApiKeysRequest(parent="accounts/-"))

    assert [key.name for key in own.api_keys] == [made.api_key.name]
    assert [key.display_name for key in every.api_keys] == ["first key", ""]
