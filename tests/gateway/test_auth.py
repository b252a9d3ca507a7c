import base64

import pytest
from starlette.requests import Request

from gateway.auth import secret_of
from gateway.dialect import Credential
from tests.gateway.house import SERVED, open_house


def request(query="", **headers):
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "query_string": query.encode()})


def basic(pair):
    return "Basic " + base64.b64encode(pair.encode()).decode()


@pytest.mark.parametrize(
    "sent",
    [
        request(authorization="Bearer k"),
        request(authorization="bearer  k "),
        request(authorization=basic("user:k")),
        request(x_api_key="k"),
        request(x_key="k"),
        request(x_goog_api_key="k"),
        request("key=k"),
        request(authorization="", x_api_key="k"),
        request(authorization=basic(""), x_api_key="k"),
        request(authorization="Basic !", x_api_key="k"),
    ],
)
def test_a_key_is_read_in_every_spelling(sent):
    """
    Whatever client sends it, the same key opens the same doors; empty credentials do not count.
    """
    assert secret_of(sent, Credential.BEARER) == "k"


@pytest.mark.parametrize(
    ("own", "wins"),
    [(Credential.BEARER, "a"), (Credential.X_API_KEY, "b"), (Credential.QUERY, "c")],
)
def test_the_dialects_own_spelling_wins(own, wins):
    """
    Where several keys are sent, the dialect's way decides.
    """
    sent = request("key=c", authorization="Bearer a", x_api_key="b")

    assert secret_of(sent, own) == wins


def test_without_any_key_there_is_none():
    """
    A header that carries no key is no credential.
    """
    assert secret_of(request(authorization="Bearer"), Credential.BEARER) == ""


async def test_without_required_keys_everybody_draws(tmp_path):
    """
    With PICTOR_REQUIRE_KEY=false a missing and a malformed credential are both fine.
    """
    async with (
        open_house(tmp_path, PICTOR_REQUIRE_KEY="false") as house,
        house.client("") as client,
    ):
        replies = [
            await client.post(
                "/v1/inference/image",
                json={"prompt": "a", "model": SERVED},
                headers={"authorization": authorization},
            )
            for authorization in ("", basic("undefined"), "Bearer pk_wrong")
        ]
        job_id = replies[0].json()["job_id"]
        shown = await client.get(f"/v1/inference/jobs/{job_id}")
        keys = await client.get("/pictor/v1/accounts")

    assert [reply.status_code for reply in replies] == [200, 200, 200]
    assert shown.status_code == 200
    assert keys.status_code == 403
