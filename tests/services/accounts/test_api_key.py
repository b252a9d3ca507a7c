"""Secrets, scopes and states, without a server."""

import re

import pytest

from pictor.accounts.v1 import api_key_pb2
from services.accounts.api_key import State, checked_scopes, new_key, opens, prefix_of
from services.rpc.errors import InvalidRequest
from services.timestamps import now, to_timestamp

ACCOUNT = "0" * 32


def make(**fields):
    return new_key(ACCOUNT, api_key_pb2.ApiKey(scopes=["inference"], **fields))


def test_a_secret_has_the_documented_form():
    """
    A secret is pk_, 12 lower-case characters, and 32 random bytes in URL-safe base64.
    """
    key, secret = make()

    assert re.fullmatch(r"pk_[a-z0-9]{12}_[A-Za-z0-9_-]{43}", secret)
    assert prefix_of(secret) == key.prefix


def test_a_key_does_not_hold_its_secret():
    """
    What is stored cannot be turned back into the secret.
    """
    key, secret = make()

    assert secret not in repr(key)
    assert secret[16:] not in repr(key)


def test_only_its_own_secret_opens_a_key():
    """
    Another secret, and no key at all, open nothing.
    """
    key, secret = make()
    _, other = make()

    assert opens(secret, key)
    assert not opens(other, key)
    assert not opens(secret, None)
    assert not opens("", None)


@pytest.mark.parametrize("text", ["", "pk_", "pk_abc", "Bearer x", "pk_ABCDEFGHIJKL_" + "a" * 43])
def test_what_no_key_can_have_has_no_prefix(text):
    """
    Text of another form is not looked up.
    """
    assert prefix_of(text) is None


def test_an_unknown_scope_is_refused_with_the_three():
    """
    The error names the value and the alternatives.
    """
    with pytest.raises(
        InvalidRequest, match=r"'admin'; .*inference, catalog:write, accounts:admin"
    ):
        checked_scopes(["inference", "admin"])


def test_scopes_are_kept_once():
    """
    A scope that is listed twice is listed once.
    """
    assert checked_scopes(["accounts:admin", "inference", "inference"]) == (
        "inference",
        "accounts:admin",
    )


def test_a_key_expires_at_its_expire_time():
    """
    The key is active before the moment and expired at it.
    """
    moment = now() + 60_000_000
    key, _ = make(expire_time=to_timestamp(moment))

    assert key.state(moment - 1) == State.STATE_ACTIVE
    assert key.state(moment) == State.STATE_EXPIRED
