import pytest

from pictor.accounts.v1 import accounts_service_pb2, limits_pb2
from services.rpc.errors import InvalidRequest, NotFound

Limits = limits_pb2.AccountLimits


async def account_of(suite):
    page = await suite.ListAccounts(accounts_service_pb2.ListAccountsRequest())
    return page.accounts[0]


async def limit(suite, name, **limits):
    request = limits_pb2.UpdateAccountLimitsRequest(name=name, limits=Limits(**limits))
    return await suite.UpdateAccountLimits(request)


async def test_limits_are_kept_and_told_with_the_key(suite, first_secret):
    """
    An account shows them, and so does every answer about one of its keys.
    """
    account = await account_of(suite)
    changed = await limit(suite, account.name, requests_per_minute=60, queued_jobs=0)
    answer = await suite.Authenticate(accounts_service_pb2.AuthenticateRequest(secret=first_secret))

    wanted = Limits(requests_per_minute=60, queued_jobs=0)
    assert account.limits == Limits()
    assert changed.limits == answer.limits == (await account_of(suite)).limits == wanted
    assert not answer.limits.HasField("unfinished_jobs")


async def test_limits_are_replaced_as_a_whole(suite):
    """
    What is left out follows the suite's settings again.
    """
    name = (await account_of(suite)).name
    await limit(suite, name, unfinished_jobs=5)
    changed = await limit(suite, name, queued_jobs=7)

    assert changed.limits == Limits(queued_jobs=7)


@pytest.mark.parametrize("value", [-1, 1_000_001])
async def test_a_limit_has_a_range(suite, value):
    """
    The error names the field, the value and what 0 means.
    """
    name = (await account_of(suite)).name
    with pytest.raises(InvalidRequest, match=f"unfinished_jobs {value} is outside 0 to 1000000"):
        await limit(suite, name, unfinished_jobs=value)


async def test_limits_of_nobody_are_not_found(suite):
    """
    An account that does not exist has none.
    """
    with pytest.raises(NotFound):
        await limit(suite, f"accounts/{'0' * 32}", unfinished_jobs=1)
