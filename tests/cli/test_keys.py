"""`pictor keys`, against a real accounts service."""

from typing import Any

import pytest


async def test_a_new_key_works_until_it_is_revoked(office: Any):
    """
    The secret is all of standard output; after revocation it opens nothing.
    """
    made = await office.run("keys", "create", "--scope", "accounts:admin", "--name", "laptop")
    secret = made.output.strip()
    works = await office.run("keys", "list", PICTOR_API_KEY=secret)
    revoked = await office.run("keys", "revoke", "laptop")
    after = await office.run("keys", "list", PICTOR_API_KEY=secret)

    assert made.status == 0
    assert made.output == f"{secret}\n"
    assert "not shown again" in made.errors
    assert works.status == 0
    assert revoked.output == f"{secret.split('_')[1]}  revoked\n"
    assert after.status == 1
    assert after.errors.startswith("error: ")


async def test_a_key_is_made_for_the_callers_account(office: Any):
    """
    Without --account the new key belongs to whom the key in use belongs.
    """
    await office.run("keys", "create", "--scope", "inference", "--name", "second")
    lines = (await office.run("keys", "list")).output.splitlines()[1:]

    assert len(lines) == 2
    assert len({line.split()[-1] for line in lines}) == 1


async def test_keys_are_listed_with_what_they_may_do(office: Any):
    """
    A line tells prefix, name, state, scopes, end and account.
    """
    await office.run(
        "keys", "create", "--scope", "inference", "--name", "bot", "--expires-in", "30d"
    )
    lines = (await office.run("keys", "list")).output.splitlines()
    [bot] = [line.split() for line in lines if " bot " in line]

    assert lines[0].split() == ["PREFIX", "NAME", "STATE", "SCOPES", "EXPIRES", "ACCOUNT"]
    assert bot[1:4] == ["bot", "active", "inference"]
    assert bot[4] != "never"


async def test_a_key_can_be_revoked_by_its_prefix(office: Any):
    """
    The public part of the secret is enough to revoke it.
    """
    secret = (await office.run("keys", "create", "--scope", "inference")).output.strip()
    prefix = secret.split("_")[1]

    assert (await office.run("keys", "revoke", prefix)).output == f"{prefix}  revoked\n"


async def test_an_ambiguous_name_revokes_nothing(office: Any):
    """
    Two keys of one name are told apart by their prefixes.
    """
    for _ in range(2):
        await office.run("keys", "create", "--scope", "inference", "--name", "twin")
    outcome = await office.run("keys", "revoke", "twin")
    lines = (await office.run("keys", "list")).output.splitlines()

    assert outcome.status == 1
    assert "2 keys are named 'twin'; give one of the prefixes" in outcome.errors
    assert sum(" active " in line for line in lines if "twin" in line) == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("revoke", "nobody"), 1, "no key has the prefix or name 'nobody'"),
        (("revoke", ""), 1, "no key has the prefix or name ''"),
        (("create", "--scope", "fly"), 1, "fly"),
        (("create", "--scope", "inference", "--account", "no-such"), 1, "no-such"),
        (("create",), 2, "--scope"),
        (("create", "--scope", "inference", "--expires-in", "3y"), 2, "'3y' must be a number"),
        (("create", "--scope", "inference", "--expires-in", "0d"), 2, "'0d' must be a number"),
    ],
)
async def test_what_is_wrong_is_said(
    office: Any, arguments: tuple[str, ...], status: int, message: str
):
    """
    A wrong key, scope, account or time ends with the sentence that names it.
    """
    outcome = await office.run("keys", *arguments)

    assert outcome.status == status
    assert message in outcome.errors
    assert outcome.output == ""
