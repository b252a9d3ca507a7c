"""What the bearers of keys have chosen, over gRPC."""

import asyncio

import pytest
from google.protobuf import json_format, struct_pb2

from pictor.accounts.v1 import preferences_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.accounts.__main__ import running
from services.rpc.channels import open_channel
from services.rpc.errors import InvalidRequest, PermissionDenied
from services.rpc.principals import service_token

OWNER = f"accounts/{'1' * 32}/apiKeys/{'2' * 32}"


async def get(suite, owner=OWNER, dialect="webui"):
    request = preferences_pb2.GetPreferencesRequest(owner=owner, dialect=dialect)
    return json_format.MessageToDict((await suite.GetPreferences(request)).values)


async def choose(suite, owner=OWNER, dialect="webui", **values):
    struct = struct_pb2.Struct()
    struct.update(values)
    request = preferences_pb2.UpdatePreferencesRequest(owner=owner, dialect=dialect, values=struct)
    return json_format.MessageToDict((await suite.UpdatePreferences(request)).values)


async def test_choices_are_laid_over_each_other(suite):
    """
    What is not named stays, null forgets, and types are kept.
    """
    assert await get(suite) == {}
    assert await choose(suite, a=True, b=2, c="x") == {"a": True, "b": 2, "c": "x"}
    assert await choose(suite, b=2.5, c=None) == {"a": True, "b": 2.5}
    assert await get(suite) == {"a": True, "b": 2.5}


async def test_owners_and_dialects_are_apart(suite):
    """
    Two keys of one account choose for themselves, and each public API apart.
    """
    other = f"accounts/{'1' * 32}/apiKeys/{'3' * 32}"
    await choose(suite, a=1)
    await choose(suite, owner=f"accounts/{'1' * 32}", a=2)

    assert await get(suite, owner=other) == {}
    assert await get(suite, dialect="another") == {}
    assert await get(suite, owner=f"accounts/{'1' * 32}") == {"a": 2}


async def test_changes_at_once_are_all_kept(suite):
    """
    None of them is written over by another that had read before it.
    """
    await asyncio.gather(*(choose(suite, **{f"key{k}": k}) for k in range(20)))

    assert await get(suite) == {f"key{k}": k for k in range(20)}


async def test_choices_outlive_a_restart(settings):
    """
    They lie in the accounts' database.
    """
    token = service_token(settings.data_dir)
    async with running(settings) as address, open_channel(address, token) as channel:
        from pictor.accounts.v1.accounts_service_pb2_grpc import AccountsServiceStub

        await choose(AccountsServiceStub(channel), a=1)
    async with running(settings) as address, open_channel(address, token) as channel:
        assert await get(AccountsServiceStub(channel)) == {"a": 1}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"owner": "accounts/x"}, reasons.ERROR_REASON_FIELD_INVALID),
        ({"dialect": "Web UI"}, reasons.ERROR_REASON_FIELD_INVALID),
        ({"text": "x" * 70_000}, reasons.ERROR_REASON_FIELD_OUT_OF_RANGE),
    ],
)
async def test_what_breaks_a_rule_is_refused_and_not_kept(suite, fields, reason):
    """
    A name that is none, and more than a caller may keep.
    """
    with pytest.raises(InvalidRequest) as error:
        await choose(suite, **fields)

    assert error.value.violations[0].reason == reason
    assert await get(suite) == {}


async def test_no_key_may_ask_by_itself(address, first_secret):
    """
    The gateway asks on behalf of whoever it let in; a key could name another one's.
    """
    from pictor.accounts.v1.accounts_service_pb2_grpc import AccountsServiceStub

    async with open_channel(address, first_secret) as channel:
        with pytest.raises(PermissionDenied):
            await get(AccountsServiceStub(channel))
