"""A few rounds of the kill loop, and a suite that is broken by hand."""

import asyncio
import contextlib
import random

import pytest

from tests.chaos.checker import check
from tests.chaos.faults import CRASH, KILL, Fault, Plan
from tests.chaos.history import History
from tests.chaos.processes import Processes
from tests.chaos.rounds import Loop


@pytest.fixture(scope="module")
async def loop(tmp_path_factory):
    """The suite as processes, on SQLite, with a device process that needs no torch."""
    async with contextlib.AsyncExitStack() as stack:
        processes = Processes(tmp_path_factory.mktemp("chaos") / "suite", {})
        await stack.enter_async_context(processes.running())
        one = Loop(processes, seed=1)
        await stack.enter_async_context(one.open())
        yield one


async def test_rounds_with_faults_violate_nothing(loop):
    """
    Jobs survive the loss of the process that runs them, and of the one that stores their images.
    """
    faults = [
        [Fault(KILL, "inference-1", 0.3)],
        [Fault(CRASH, "storage.after_asset_write", 0.1), Fault(CRASH, "device.step", 0.1)],
    ]
    outcomes = [await loop.round(one) for one in faults]

    assert [outcome.violations for outcome in outcomes] == [[], []]
    assert [outcome.missed for outcome in outcomes] == [[], []]
    assert all(outcome.states["succeeded"] >= 5 for outcome in outcomes)
    assert any(kind == "inference" for kind, _ in outcomes[0].recovered)
    assert await loop.compare_all() == []


async def test_images_of_a_storage_that_is_away_are_not_gone(loop):
    """
    Storage may die when the clients' work is over: what it keeps is read when it is back.
    """
    await loop.round([])
    kept = loop.kept[-1]
    deaths = len(loop.processes.deaths)
    loop.processes.kill("storage")
    while len(loop.processes.deaths) == deaths:  # noqa: ASYNC110 - it is polled for
        await asyncio.sleep(0.01)
    findings = await loop.findings([kept.client], {})

    images = [image for job in findings.jobs.values() for image in job.images]
    assert images
    assert all(image.decodes for image in images)


async def test_what_is_broken_by_hand_is_found(loop):
    """
    A file that lost its end, a line in a log: the checker sees the suite, not what it hopes for.
    """
    await loop.round([])
    kept = loop.kept[-1]
    job = next(
        job
        for job in kept.findings.jobs.values()
        if job.images and job.account == kept.client.customer.account
    )
    key = job.images[0].asset.removeprefix("assets/")
    [file] = loop.reader.assets.rglob(key)
    file.write_bytes(file.read_bytes()[:-1])
    logs = {"gateway": f"drawing {job.prompt}"}
    findings = await loop.reader.findings([kept.client], logs)

    found = {(v.invariant, v.subject) for v in check(History(), findings, [job.prompt])}
    assert ("I3", job.name) in found
    assert ("I7", "gateway") in found


def test_every_point_has_its_turn():
    """
    Half of the rounds have two points each, and none comes twice before all came once.
    """
    points = [f"point-{k}" for k in range(10)]
    plan = Plan(random.Random(3), ["inference-1"], points)
    rounds = [plan.next() for _ in range(10)]
    crashed = [fault.target for faults in rounds for fault in faults if fault.kind == CRASH]

    assert sorted(crashed) == sorted(points)


def test_a_point_that_was_missed_comes_again():
    """
    A point that no process came to is tried after the others.
    """
    plan = Plan(random.Random(3), ["inference-1"], ["one", "two"])
    plan.next()
    plan.missed("one")
    plan.missed("two")
    plan.next()

    assert [fault.target for fault in plan.next()] == ["one", "two"]
