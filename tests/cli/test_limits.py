"""`pictor limits`, against a real accounts service."""

from typing import Any


async def account_of(office: Any) -> str:
    lines = (await office.run("keys", "list")).output.splitlines()
    return str(lines[1].split()[-1])


async def test_limits_are_shown_and_changed_one_by_one(office: Any):
    """
    What is not named stays; default gives one back to the suite's setting.
    """
    account = await account_of(office)
    shown = await office.run("limits", account)
    changed = await office.run("limits", account, "--unfinished-jobs", "4", "--queued-jobs", "0")
    again = await office.run("limits", account, "--unfinished-jobs", "default")

    head = f"accounts/{account}  requests_per_minute default  unfinished_jobs"
    assert shown.output == f"{head} default  queued_jobs default\n"
    assert changed.output == f"{head} 4  queued_jobs 0\n"
    assert again.output == f"{head} default  queued_jobs 0\n"


async def test_a_limit_is_a_number(office: Any):
    """
    Anything else is refused before the service is asked.
    """
    refused = await office.run("limits", "x", "--queued-jobs", "many")

    assert refused.status == 2
    assert "'many' must be a whole number" in refused.errors
