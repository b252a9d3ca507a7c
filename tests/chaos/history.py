"""
What the clients of a round have seen, and what is found when everything is quiet again.

The history is written by clients while processes die; the findings are read after that, with the
suite's own public calls. The checker compares the two, and nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

SUCCEEDED, FAILED, CANCELED = "succeeded", "failed", "canceled"
QUEUED, RUNNING = "queued", "running"
TERMINAL = frozenset({SUCCEEDED, FAILED, CANCELED})


class Change(NamedTuple):
    """
    One change of a job's state.

    Attributes:
        at: When, in seconds since the epoch.
    """

    revision: int
    state: str
    at: float


class Submission(NamedTuple):
    """What a client has asked for; whether it was heard is another question."""

    job: str
    account: str
    prompt: str
    image_count: int


class Seen(NamedTuple):
    """A state that a client was told outside of a watch, and the SHA-256 of the images with it."""

    job: str
    state: str
    sha256s: tuple[str, ...]


class KeyUse(NamedTuple):
    """A request with an idempotency key that was answered with a job."""

    key: str
    account: str
    job: str


class BalanceRead(NamedTuple):
    """A balance that a client was told, in micro-credits."""

    account: str
    balance: int
    held: int


@dataclass
class Watch:
    """
    What one watcher was told of a job, over all its connections.

    Attributes:
        after_revision: Where it began.
        changes: Each message that told of a new revision, in the order in which they came.
        stale: Revisions below one that it had been told already.
    """

    job: str
    after_revision: int = 0
    changes: list[Change] = field(default_factory=list)
    stale: list[int] = field(default_factory=list)
    connections: int = 0


@dataclass
class History:
    """
    All that clients have asked and seen.

    Attributes:
        submitted: By job.
        acknowledged: Jobs that a client was told of; each by the way it was told.
        canceled: Jobs whose cancellation was acknowledged.
        cancel_asked: Jobs whose cancellation somebody has asked for, or left them to.
        refused: Good requests that were refused as if they were bad ones, and the answer.
        foreign: Jobs, and accounts that were shown them though they own them not.
    """

    submitted: dict[str, Submission] = field(default_factory=dict)
    acknowledged: dict[str, str] = field(default_factory=dict)
    canceled: set[str] = field(default_factory=set)
    cancel_asked: set[str] = field(default_factory=set)
    refused: list[tuple[str, str]] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    keys: list[KeyUse] = field(default_factory=list)
    balances: list[BalanceRead] = field(default_factory=list)
    foreign: list[tuple[str, str]] = field(default_factory=list)


class FoundImage(NamedTuple):
    """
    An image of a job that has succeeded.

    Attributes:
        recorded: The SHA-256 that the job has.
        actual: That of the bytes; empty where there are none.
        decodes: Whether the bytes are a picture of the size that the job has.
    """

    asset: str
    recorded: str
    actual: str
    decodes: bool


@dataclass(frozen=True)
class FoundJob:
    """
    A job after the round.

    Attributes:
        reason: Of the error, if it has one.
        changes: All changes of its state but the first, which made it.
        price: What was held for it, in micro-credits.
    """

    name: str
    account: str
    prompt: str
    state: str
    revision: int
    attempts: int = 1
    reason: str = ""
    changes: tuple[Change, ...] = ()
    images: tuple[FoundImage, ...] = ()
    price: int = 0


class Entry(NamedTuple):
    """One line of a ledger: grant, hold, capture or release; amounts in micro-credits."""

    kind: str
    job: str
    amount: int
    cost: int = 0


@dataclass(frozen=True)
class Ledger:
    """An account's ledger, and what the account is told to have."""

    entries: tuple[Entry, ...]
    balance: int
    held: int


class Write(NamedTuple):
    """A change of a job's state that a process has logged as done."""

    process: str
    job: str
    revision: int
    state: str


class Orphan(NamedTuple):
    """A file of an image that no asset knows."""

    key: str
    age_seconds: float


@dataclass(frozen=True)
class Findings:
    """
    What is there when everything is quiet.

    Attributes:
        jobs: By name.
        ledgers: By account; empty where the suite keeps none.
        writes: From the logs of all processes that write jobs.
        logs: The text that each process has logged, by the process's name.
        orphans: Files without an asset.
        collection_seconds: How old such a file may become.
    """

    jobs: Mapping[str, FoundJob] = field(default_factory=dict)
    ledgers: Mapping[str, Ledger] = field(default_factory=dict)
    writes: Sequence[Write] = ()
    logs: Mapping[str, str] = field(default_factory=dict)
    orphans: Sequence[Orphan] = ()
    collection_seconds: float = 3600.0
