"""TLS and mutual TLS, with an accounts service that speaks them."""

import pytest

from pictor.accounts.v1 import accounts_service_pb2, accounts_service_pb2_grpc
from services.accounts.__main__ import Settings, running
from services.rpc.channels import open_channel
from services.rpc.errors import Unauthenticated, Unavailable
from services.rpc.principals import service_token
from services.rpc.settings import SettingError, read
from services.rpc.tls import PLAIN, read_tls
from tests.certificates import Authority


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "tls")


def settings_in(folder, **environ: str) -> Settings:
    return read(
        Settings,
        {"PICTOR_DATA_DIR": str(folder), "PICTOR_ACCOUNTS_ADDRESS": "127.0.0.1:0", **environ},
    )


async def count_accounts(address: str, token: str, tls) -> int:
    async with open_channel(address, token, tls=tls, deadline_seconds=3) as channel:
        stub = accounts_service_pb2_grpc.AccountsServiceStub(channel)
        listed = await stub.ListAccounts(accounts_service_pb2.ListAccountsRequest())
    return len(listed.accounts)


async def test_who_trusts_the_authority_is_served(tmp_path, authority):
    """
    With TLS a caller needs no certificate, only the authority, and a credential as ever.
    """
    settings = settings_in(tmp_path, **authority.environ())
    client = read_tls("", "", str(authority.file), "")
    async with running(settings) as address:
        assert await count_accounts(address, service_token(tmp_path), client) == 1
        with pytest.raises(Unauthenticated):
            await count_accounts(address, "nonsense", client)


async def test_plain_text_gets_nothing_from_a_server_that_speaks_tls(tmp_path, authority):
    """
    Not even a good credential helps; it is not answered.
    """
    async with running(settings_in(tmp_path, **authority.environ())) as address:
        with pytest.raises(Unavailable):
            await count_accounts(address, service_token(tmp_path), PLAIN)


async def test_a_server_of_another_authority_is_not_trusted(tmp_path, authority):
    """
    A caller sends its credential to nobody whom its authority does not know.
    """
    other = Authority(tmp_path / "other", "stranger")
    client = read_tls("", "", str(other.file), "")
    async with running(settings_in(tmp_path, **authority.environ())) as address:
        with pytest.raises(Unavailable):
            await count_accounts(address, service_token(tmp_path), client)


async def test_mutual_tls_wants_a_certificate_of_the_caller(tmp_path, authority):
    """
    A good credential alone opens nothing; one with a certificate of the authority does.
    """
    settings = settings_in(tmp_path, **authority.environ(mutual=True))
    stranger = Authority(tmp_path / "other", "stranger")
    own, foreign = authority.sign("client"), stranger.sign("client")
    ca, token = str(authority.file), service_token(tmp_path)
    async with running(settings) as address:
        known = read_tls(str(own[0]), str(own[1]), ca, "")
        assert await count_accounts(address, token, known) == 1
        for nobody in (
            read_tls("", "", ca, ""),
            read_tls(str(foreign[0]), str(foreign[1]), ca, ""),
        ):
            with pytest.raises(Unavailable):
                await count_accounts(address, token, nobody)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"PICTOR_TLS_CERTIFICATE": "{c}"}, "PICTOR_TLS_KEY is not"),
        ({"PICTOR_TLS_KEY": "{k}"}, "PICTOR_TLS_CERTIFICATE is not"),
        ({"PICTOR_TLS_CLIENT_CA": "{a}"}, "only TLS asks callers"),
        ({"PICTOR_TLS_CERTIFICATE": "{c}", "PICTOR_TLS_KEY": "{k}"}, "PICTOR_TLS_CA is not"),
        ({"PICTOR_TLS_CA": "{folder}/none.pem"}, "No such file"),
        ({"PICTOR_TLS_CA": "{folder}/text"}, "must be a PEM file"),
    ],
)
def test_what_is_wrong_with_the_files_is_said(tmp_path, authority, environ, says):
    """
    A setting that is missing or wrong stops the start, with its name and the rule.
    """
    certificate, key = authority.sign("pictor")
    (tmp_path / "text").write_text("hello")
    names = {"c": certificate, "k": key, "a": authority.file, "folder": tmp_path}
    given = {variable: value.format(**names) for variable, value in environ.items()}

    with pytest.raises(SettingError, match=says):
        _ = settings_in(tmp_path, **given).tls
