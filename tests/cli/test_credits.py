"""`pictor credits`, against a real accounts service."""

import re
from typing import Any

import pytest


async def account_of(office: Any) -> str:
    """Return the account of the key in use."""
    return (await office.run("credits", "balance")).output.split()[0]


async def test_credits_are_given_and_shown(office: Any):
    """
    A grant adds up; the balance tells who pays, what can be spent and what is held.
    """
    account = await account_of(office)
    billed = await office.run("credits", "bill", "prepaid", "--account", account)
    given = await office.run("credits", "grant", "12.5", "--account", account)
    shown = await office.run("credits", "balance")

    assert billed.output == f"{account}  prepaid\n"
    assert given.output == shown.output == f"{account}  prepaid  balance 12.5  held 0\n"


async def test_a_request_id_gives_once(office: Any):
    """
    A script that runs twice with one id gives once, and the ledger names the id.
    """
    account = await account_of(office)
    for _ in range(2):
        await office.run(
            "credits", "grant", "1.000001", "--account", account, "--request-id", "invoice-17"
        )
    lines = (await office.run("credits", "ledger")).output.splitlines()

    assert lines[0].split() == ["TIME", "KIND", "CREDITS", "JOB", "OR", "REQUEST"]
    assert [re.split(" {2,}", line)[1:] for line in lines[1:]] == [
        ["grant", "1.000001", "invoice-17"]
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("grant", "0", "--account", "x"), 2, "'0' must be above 0"),
        (("grant", "-5", "--account", "x"), 2, "-5"),
        (("grant", "1.0000001", "--account", "x"), 2, "at most 6 decimals"),
        (("grant", "1"), 2, "--account"),
        (("grant", "1", "--account", "nobody"), 1, "nobody"),
        (("balance", "--account", "nobody"), 1, "nobody"),
    ],
)
async def test_what_is_wrong_is_said(
    office: Any, arguments: tuple[str, ...], status: int, message: str
):
    """
    A wrong amount or account ends with the sentence that names it.
    """
    outcome = await office.run("credits", *arguments)

    assert outcome.status == status
    assert message in outcome.errors
