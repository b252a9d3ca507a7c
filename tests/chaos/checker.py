"""
The invariants: what must hold after every round, whatever has died in it.

    I1  each acknowledged job reaches exactly one terminal state, for no fault but its own
    I2  one capture in the ledger per succeeded job, none otherwise; every hold released; the sum of
        the ledger is the balance
    I3  each succeeded job's assets exist, match their recorded SHA-256 and decode
    I4  each job's event sequence has no gaps, ends in one terminal event, and is the same for a
        watcher that reconnects
    I5  a write with a stale lease changed nothing
    I6  the same idempotency key, and the same chosen id, gives the same job
    I7  no key, secret or prompt in any log
    I8  orphaned files are collected within the collection period
    A9  another account's job does not exist
    F1  who asks rightly is not told that it was wrong, nor that the suite is broken: a process that
        is away is a 503, which may be tried again

Each is a function from what was seen and what is found to the violations. None of them asks a
process anything: ``test_checker.py`` gives each one forged histories, and each must fail.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from tests.chaos.history import (
    CANCELED,
    FAILED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    TERMINAL,
    Change,
    Findings,
    FoundJob,
    History,
    Ledger,
    Watch,
)

# The only errors that a fault of the suite may give a job: what drew it was lost too often.
PERMITTED_REASONS = frozenset({"DEVICE_LOST"})
NEXT = {
    QUEUED: {RUNNING, CANCELED, FAILED},
    RUNNING: {QUEUED, SUCCEEDED, FAILED, CANCELED},
}


class Violation(NamedTuple):
    """Something that must not be."""

    invariant: str
    subject: str
    detail: str


def check(history: History, findings: Findings, secrets: Collection[str] = ()) -> list[Violation]:
    """List what violates an invariant."""
    return [
        *(
            Violation(name, subject, detail)
            for name, invariant in INVARIANTS.items()
            for subject, detail in invariant(history, findings)
        ),
        *(Violation("I7", *leak) for leak in leaks(findings.logs, secrets)),
    ]


def _ends_once(history: History, findings: Findings) -> Iterator[tuple[str, str]]:
    for name, way in history.acknowledged.items():
        if name not in findings.jobs:
            yield name, f"acknowledged ({way}), and gone"
    for job in findings.jobs.values():
        if job.state not in TERMINAL:
            yield job.name, f"is {job.state} for ever, after {job.attempts} attempts"
        if job.state == FAILED and job.reason not in PERMITTED_REASONS:
            yield job.name, f"failed with {job.reason}: that is no fault of its own"
        if job.state == CANCELED and job.name not in history.canceled | history.cancel_asked:
            yield job.name, "is canceled, and nobody has asked for that"
        if job.name in history.canceled and job.state != CANCELED:
            yield job.name, f"its cancellation was acknowledged, and it is {job.state}"
    for seen in history.seen:
        found = findings.jobs.get(seen.job)
        if seen.state in TERMINAL and found and found.state != seen.state:
            yield seen.job, f"a client was told {seen.state}, and it is {found.state}"


def _charges_once(history: History, findings: Findings) -> Iterator[tuple[str, str]]:
    for account, ledger in findings.ledgers.items():
        jobs = [job for job in findings.jobs.values() if job.account == account and job.price]
        for job in jobs:
            yield from _charge(job, ledger)
        known = {job.name for job in jobs}
        for name in {entry.job for entry in ledger.entries if entry.job} - known:
            yield from _left_over(name, ledger)
        total = sum(entry.amount for entry in ledger.entries)
        if total != ledger.balance:
            yield account, f"the ledger adds up to {total}, and the balance is {ledger.balance}"
        if ledger.held:
            yield account, f"{ledger.held} are held, and no job goes on"
    for read in history.balances:
        if read.balance < 0 or read.held < 0:
            yield read.account, f"was told a balance of {read.balance}, with {read.held} held"


def _charge(job: FoundJob, ledger: Ledger) -> Iterator[tuple[str, str]]:
    kinds = Counter(entry.kind for entry in ledger.entries if entry.job == job.name)
    captures = 1 if job.state == SUCCEEDED else 0
    if kinds["capture"] != captures:
        yield job.name, f"is {job.state}, and was charged {kinds['capture']} times"
    if kinds["hold"] != kinds["capture"] + kinds["release"]:
        yield (
            job.name,
            f"{kinds['hold']} holds, {kinds['capture']} captures, {kinds['release']} releases",
        )
    spent = -sum(entry.amount for entry in ledger.entries if entry.job == job.name)
    if spent != job.price * captures:
        yield job.name, f"has cost {spent} instead of {job.price * captures}"


def _left_over(name: str, ledger: Ledger) -> Iterator[tuple[str, str]]:
    """A request that died before it was a job: nothing of it may remain."""
    entries = [entry for entry in ledger.entries if entry.job == name]
    if any(entry.kind == "capture" for entry in entries) or sum(e.amount for e in entries):
        yield name, f"there is no such job, and it has cost {-sum(e.amount for e in entries)}"


def _keeps_images(history: History, findings: Findings) -> Iterator[tuple[str, str]]:
    for job in findings.jobs.values():
        wanted = history.submitted[job.name].image_count if job.name in history.submitted else 1
        if job.state == SUCCEEDED and len(job.images) != wanted:
            yield job.name, f"has {len(job.images)} images instead of {wanted}"
        for image in job.images:
            if not image.actual:
                yield job.name, f"its image {image.asset} is gone"
            elif image.actual != image.recorded:
                yield job.name, f"its image {image.asset} has other bytes than were recorded"
            elif not image.decodes:
                yield job.name, f"its image {image.asset} is no picture of its size"
    for seen in history.seen:
        found = findings.jobs.get(seen.job)
        if found and seen.sha256s and seen.sha256s != tuple(i.recorded for i in found.images):
            yield seen.job, "a client was given other images than the job has"


def _tells_all(history: History, findings: Findings) -> Iterator[tuple[str, str]]:
    for job in findings.jobs.values():
        yield from ((job.name, detail) for detail in _broken(job))
    for watch in history.watches:
        found = findings.jobs.get(watch.job)
        if found:
            yield from ((watch.job, detail) for detail in _differs(watch, found))


def _broken(job: FoundJob) -> Iterator[str]:
    changes = [Change(1, QUEUED, 0.0), *job.changes]
    revisions = [change.revision for change in changes]
    if revisions != list(range(1, job.revision + 1)):
        yield f"its revisions are {revisions}, and it is at {job.revision}"
    for before, after in itertools.pairwise(changes):
        if after.state not in NEXT.get(before.state, set()):
            yield f"goes from {before.state} to {after.state} at revision {after.revision}"
    if changes[-1].state != job.state:
        yield f"its last event says {changes[-1].state}, and it is {job.state}"


def _differs(watch: Watch, job: FoundJob) -> Iterator[str]:
    told = [(change.revision, change.state) for change in watch.changes]
    begun = told[0][0] if told else 1
    if watch.after_revision:
        begun = watch.after_revision + 1
    truth = [(1, QUEUED), *((change.revision, change.state) for change in job.changes)]
    expected = [change for change in truth if change[0] >= begun]
    if told != expected:
        yield f"a watcher with {watch.connections} connections was told {told}, not {expected}"
    if watch.stale:
        yield f"a watcher was told revisions {watch.stale} after later ones"


def _fences(_history: History, findings: Findings) -> Iterator[tuple[str, str]]:
    writers: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for write in findings.writes:
        writers[write.job, write.revision].append(write.process)
        job = findings.jobs.get(write.job)
        kept = {1: QUEUED, **{c.revision: c.state for c in job.changes}} if job else {}
        if job and kept.get(write.revision) != write.state:
            told = f"{write.process} wrote {write.state} as revision {write.revision}"
            yield write.job, f"{told}, where {kept.get(write.revision)} is"
    for (name, revision), processes in writers.items():
        if len(processes) > 1:
            yield name, f"revision {revision} was written by {', '.join(processes)}"


def _same_job(history: History, findings: Findings) -> Iterator[tuple[str, str]]:
    jobs: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for use in history.keys:
        jobs[use.account, use.key].add(use.job)
    for (_, key), names in jobs.items():
        if len(names) > 1:
            yield key, f"one idempotency key has made {len(names)} jobs: {sorted(names)}"
    for name, submission in history.submitted.items():
        found = findings.jobs.get(name)
        if found and (found.prompt, found.account) != (submission.prompt, submission.account):
            yield name, "this id is another request's than the one that chose it"
    prompts = Counter(job.prompt for job in findings.jobs.values())
    for prompt, count in prompts.items():
        if count > 1:
            yield prompt, f"one request has made {count} jobs"


def _collects(_history: History, findings: Findings) -> Iterator[tuple[str, str]]:
    for orphan in findings.orphans:
        if orphan.age_seconds > findings.collection_seconds:
            limit = f"collected after {findings.collection_seconds:g} s"
            yield orphan.key, f"belongs to nobody for {orphan.age_seconds:.1f} s; {limit}"


def _hides(history: History, _findings: Findings) -> Iterator[tuple[str, str]]:
    for job, account in history.foreign:
        yield job, f"was shown to {account}, which does not own it"


def _blames_nobody(history: History, _findings: Findings) -> Iterator[tuple[str, str]]:
    yield from history.refused


def leaks(logs: Mapping[str, str], secrets: Collection[str]) -> Iterator[tuple[str, str]]:
    """Find keys, secrets and prompts in what was logged; the secret itself is not told again."""
    for process, text in logs.items():
        for secret in secrets:
            if secret in text:
                line = next(line for line in text.splitlines() if secret in line)
                yield process, f"logged {secret[:6]}...: {line.replace(secret, '...')[:200]}"


INVARIANTS: Mapping[str, Callable[[History, Findings], Iterator[tuple[str, str]]]] = {
    "I1": _ends_once,
    "I2": _charges_once,
    "I3": _keeps_images,
    "I4": _tells_all,
    "I5": _fences,
    "I6": _same_job,
    "I8": _collects,
    "A9": _hides,
    "F1": _blames_nobody,
}
NAMES = (*INVARIANTS, "I7")
