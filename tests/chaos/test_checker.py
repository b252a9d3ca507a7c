"""The checker, on forged histories: each violates one invariant, and must be caught at that."""

import dataclasses

import pytest

from tests.chaos.checker import NAMES, check
from tests.chaos.history import (
    BalanceRead,
    Change,
    Entry,
    Findings,
    FoundImage,
    FoundJob,
    History,
    KeyUse,
    Ledger,
    Orphan,
    Seen,
    Submission,
    Watch,
    Write,
)

ALICE, BOB = "accounts/alice", "accounts/bob"
GOOD, LOST, ENDED = "jobs/good", "jobs/lost", "jobs/ended"
RUN, AGAIN, DONE = Change(2, "running", 2.0), Change(3, "queued", 3.0), Change(3, "succeeded", 3.0)


def good():
    """A job that has succeeded at its first attempt."""
    image = FoundImage("assets/1", "aa", "aa", decodes=True)
    return FoundJob(
        GOOD, ALICE, "one", "succeeded", 3, changes=(RUN, DONE), images=(image,), price=5
    )


def lost():
    """A job whose device was lost once, and that has succeeded then."""
    changes = (RUN, AGAIN, Change(4, "running", 4.0), Change(5, "succeeded", 5.0))
    image = FoundImage("assets/2", "bb", "bb", decodes=True)
    return FoundJob(
        LOST, ALICE, "two", "succeeded", 5, attempts=2, changes=changes, images=(image,), price=5
    )


def ended():
    """A job that was canceled."""
    changes = (Change(2, "canceled", 2.0),)
    return FoundJob(ENDED, BOB, "three", "canceled", 2, changes=changes, price=7)


@pytest.fixture
def history():
    jobs = (good(), lost(), ended())
    told = [Change(1, "queued", 1.0), *lost().changes]
    return History(
        submitted={job.name: Submission(job.name, job.account, job.prompt, 1) for job in jobs},
        acknowledged={job.name: "grpc" for job in jobs},
        canceled={ENDED},
        watches=[
            Watch(LOST, changes=told, connections=3),
            Watch(LOST, after_revision=3, changes=told[3:], connections=1),
        ],
        seen=[Seen(GOOD, "running", ()), Seen(GOOD, "succeeded", ("aa",))],
        keys=[KeyUse("k", ALICE, GOOD), KeyUse("k", ALICE, GOOD), KeyUse("k", BOB, ENDED)],
        balances=[BalanceRead(ALICE, 95, 5)],
    )


@pytest.fixture
def findings():
    paid = [
        entry
        for name in (GOOD, LOST)
        for entry in (Entry("hold", name, -5), Entry("capture", name, 0, 5))
    ]
    returned = [Entry("hold", ENDED, -7), Entry("release", ENDED, 7)]
    never = [Entry("hold", "jobs/never", -5), Entry("release", "jobs/never", 5)]
    return Findings(
        jobs={job.name: job for job in (good(), lost(), ended())},
        ledgers={
            ALICE: Ledger((Entry("grant", "", 100), *paid, *never), 90, 0),
            BOB: Ledger((Entry("grant", "", 50), *returned), 50, 0),
        },
        writes=[
            Write("inference-1", LOST, 2, "running"),
            Write("inference-2", LOST, 3, "queued"),
            Write("inference-2", LOST, 5, "succeeded"),
        ],
        logs={"gateway": '{"event": "job.queued"}\n'},
        orphans=[Orphan("aa11", 2.0)],
        collection_seconds=3.0,
    )


def with_job(findings, job, **changes):
    """Findings in which a job is otherwise."""
    forged = dataclasses.replace(job, **changes)
    return dataclasses.replace(findings, jobs={**findings.jobs, job.name: forged})


def with_ledger(findings, account, *, more=(), less=(), **changes):
    ledger = findings.ledgers[account]
    entries = [entry for entry in ledger.entries if entry not in less]
    forged = dataclasses.replace(ledger, entries=(*entries, *more), **changes)
    return dataclasses.replace(findings, ledgers={**findings.ledgers, account: forged})


def without(findings, name):
    jobs = {key: job for key, job in findings.jobs.items() if key != name}
    return dataclasses.replace(findings, jobs=jobs)


def violated(history, findings, secrets=("hidden",)):
    return {violation.invariant for violation in check(history, findings, secrets)}


def test_what_is_right_is_no_violation(history, findings):
    """
    A round in which a device was lost, a job canceled and a watcher cut off twice is a good one.
    """
    assert check(history, findings, ["hidden"]) == []


FORGED_FINDINGS = {
    "a job that was acknowledged is gone": ("I1", lambda f: without(f, GOOD)),
    "a job waits for ever": ("I1", lambda f: with_job(f, ended(), state="queued")),
    "a job runs for ever": ("I1", lambda f: with_job(f, ended(), state="running")),
    "a job fails because a service was away": (
        "I1",
        lambda f: with_job(f, ended(), state="failed", reason="UNAVAILABLE"),
    ),
    "a canceled job succeeds": ("I1", lambda f: with_job(f, ended(), state="succeeded")),
    "what a client was told has ended goes on": (
        "I1",
        lambda f: with_job(f, good(), state="failed", reason="DEVICE_LOST"),
    ),
    "a job is charged twice": (
        "I2",
        lambda f: with_ledger(f, ALICE, more=[Entry("capture", GOOD, 0, 5)]),
    ),
    "a job is not charged": (
        "I2",
        lambda f: with_ledger(f, ALICE, less=[Entry("capture", GOOD, 0, 5)]),
    ),
    "a canceled job is charged": (
        "I2",
        lambda f: with_ledger(f, BOB, more=[Entry("capture", ENDED, 0, 7)]),
    ),
    "a canceled job's hold is kept": (
        "I2",
        lambda f: with_ledger(f, BOB, less=[Entry("release", ENDED, 7)], balance=43),
    ),
    "a job costs less than was held": (
        "I2",
        lambda f: with_ledger(f, ALICE, more=[Entry("grant", GOOD, 2)], balance=92),
    ),
    "a request that never was a job costs": (
        "I2",
        lambda f: with_ledger(f, ALICE, less=[Entry("release", "jobs/never", 5)], balance=85),
    ),
    "the balance is not the ledger's sum": ("I2", lambda f: with_ledger(f, ALICE, balance=91)),
    "credits stay held": ("I2", lambda f: with_ledger(f, ALICE, held=5)),
    "an image is gone": (
        "I3",
        lambda f: with_job(f, good(), images=(FoundImage("assets/1", "aa", "", decodes=False),)),
    ),
    "an image has other bytes": (
        "I3",
        lambda f: with_job(f, good(), images=(FoundImage("assets/1", "aa", "cc", decodes=True),)),
    ),
    "an image is half": (
        "I3",
        lambda f: with_job(f, good(), images=(FoundImage("assets/1", "aa", "aa", decodes=False),)),
    ),
    "a job has too few images": ("I3", lambda f: with_job(f, lost(), images=())),
    "a client was given other images": (
        "I3",
        lambda f: with_job(f, good(), images=(FoundImage("assets/1", "dd", "dd", decodes=True),)),
    ),
    "an event is missing": ("I4", lambda f: with_job(f, good(), changes=(DONE,))),
    "an event comes twice": ("I4", lambda f: with_job(f, good(), changes=(RUN, RUN, DONE))),
    "an event follows the terminal one": (
        "I4",
        lambda f: with_job(f, good(), revision=4, changes=(RUN, DONE, Change(4, "failed", 4.0))),
    ),
    "the last event is not the job's state": (
        "I4",
        lambda f: with_job(f, good(), revision=2, changes=(RUN,)),
    ),
    "a stale write is kept": (
        "I5",
        lambda f: dataclasses.replace(
            f, writes=[*f.writes, Write("inference-1", LOST, 3, "succeeded")]
        ),
    ),
    "two processes write one revision": (
        "I5",
        lambda f: dataclasses.replace(
            f, writes=[*f.writes, Write("inference-1", LOST, 3, "queued")]
        ),
    ),
    "an id is another request's": ("I6", lambda f: with_job(f, good(), prompt="four")),
    "a request makes two jobs": ("I6", lambda f: with_job(f, lost(), name="jobs/x", prompt="one")),
    "a prompt is logged": (
        "I7",
        lambda f: dataclasses.replace(f, logs={"gateway": "drawing hidden things"}),
    ),
    "an orphan stays": (
        "I8",
        lambda f: dataclasses.replace(f, orphans=[Orphan("aa11", 3.5)]),
    ),
}


@pytest.mark.parametrize("name", FORGED_FINDINGS)
def test_forged_findings_are_caught(name, history, findings):
    """
    What is found after a round violates the invariant that the forgery is about.
    """
    invariant, forge = FORGED_FINDINGS[name]

    assert invariant in violated(history, forge(findings))


def change_watch(**changes):
    def forge(history):
        history.watches[0] = dataclasses.replace(history.watches[0], **changes)

    return forge


FORGED_HISTORIES = {
    "a client was told another end": ("I1", lambda h: h.seen.append(Seen(GOOD, "failed", ()))),
    "a job is canceled unasked": ("I1", lambda h: h.canceled.clear()),
    "a cancellation is forgotten": ("I1", lambda h: h.canceled.add(GOOD)),
    "a balance below zero is told": ("I2", lambda h: h.balances.append(BalanceRead(BOB, -1, 0))),
    "other images are told": ("I3", lambda h: h.seen.append(Seen(GOOD, "succeeded", ("ee",)))),
    "a watcher misses an event": (
        "I4",
        change_watch(changes=[Change(1, "queued", 1.0), *lost().changes[1:]]),
    ),
    "a watcher is told twice": (
        "I4",
        change_watch(changes=[Change(1, "queued", 1.0), RUN, *lost().changes]),
    ),
    "a watcher is told another story": (
        "I4",
        change_watch(changes=[Change(1, "queued", 1.0), Change(2, "failed", 2.0)]),
    ),
    "a watcher is not told the end": ("I4", change_watch(changes=[Change(1, "queued", 1.0)])),
    "a watcher is told nothing": ("I4", change_watch(changes=[])),
    "a watcher is told of the past": ("I4", change_watch(stale=[2])),
    "a key makes two jobs": ("I6", lambda h: h.keys.append(KeyUse("k", ALICE, LOST))),
    "a good request is refused": ("F1", lambda h: h.refused.append((GOOD, "401"))),
    "another account is shown a job": ("A9", lambda h: h.foreign.append((GOOD, BOB))),
}


@pytest.mark.parametrize("name", FORGED_HISTORIES)
def test_forged_histories_are_caught(name, history, findings):
    """
    What clients saw violates the invariant that the forgery is about.
    """
    invariant, forge = FORGED_HISTORIES[name]
    forge(history)

    assert invariant in violated(history, findings)


def test_every_invariant_has_a_forgery():
    """
    No invariant is checked that nothing has ever violated.
    """
    forged = {name for name, _ in [*FORGED_FINDINGS.values(), *FORGED_HISTORIES.values()]}

    assert forged == set(NAMES)


def test_a_leak_is_not_leaked_again(history, findings):
    """
    The report of a secret in a log does not hold the secret.
    """
    logged = dataclasses.replace(findings, logs={"gateway": "key pk_live_hidden_value"})
    violation = check(history, logged, ["pk_live_hidden_value"])[0]

    assert "hidden_value" not in violation.detail
