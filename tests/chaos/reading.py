"""Reads, when everything is quiet, what there is: by the suite's own calls, its logs and files."""

import asyncio
import contextlib
import hashlib
import io
import json
import pathlib
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from PIL import Image

from pictor.accounts.v1 import ledger_pb2
from pictor.inference.v1 import inference_service_pb2, job_pb2
from pictor.storage.v1 import storage_service_pb2
from services.rpc.errors import (
    DeadlineExceeded,
    NotFound,
    SuiteError,
    Unavailable,
    from_status,
    reason_name,
)
from tests.chaos.clients import Client, read_asset, state_name
from tests.chaos.history import (
    TERMINAL,
    Change,
    Entry,
    Findings,
    FoundImage,
    FoundJob,
    Ledger,
    Orphan,
    Write,
)
from tests.chaos.processes import COLLECT_SECONDS, Death

PAGE = 1000
POLL_SECONDS = 0.05
WRITES = frozenset({"job.queued", "job.changed"})
# How long an image's bytes may lie without a row, or half written: see services/storage. While
# storage is away, nobody collects.
COLLECTION_SECONDS = COLLECT_SECONDS + 5.0


@dataclass
class Logs:
    """
    Reads what processes have logged since it was read last.

    Args:
        folder: Where each process has its file.
    """

    folder: pathlib.Path
    _offsets: dict[str, int] = field(default_factory=dict)

    def news(self) -> dict[str, str]:
        """Return the new text by process."""
        return {path.stem: self._tail(path) for path in sorted(self.folder.glob("*.log"))}

    def _tail(self, path: pathlib.Path) -> str:
        with path.open("rb") as file:
            file.seek(self._offsets.get(path.name, 0))
            text = file.read()
        self._offsets[path.name] = self._offsets.get(path.name, 0) + len(text)
        return text.decode(errors="replace")


def events(logs: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Parse the lines that are JSON; the one at which a process died may be half."""
    for process, text in logs.items():
        for line in text.splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                event = json.loads(line)
                if isinstance(event, dict):
                    yield process, event


def writes(logs: Mapping[str, str]) -> Iterator[Write]:
    """Find the changes of jobs that processes have logged as done."""
    for process, event in events(logs):
        if event.get("event") in WRITES:
            state = event.get("state", "queued")
            yield Write(process, event["job"], event.get("revision", 1), state)


def crashes(logs: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """Find the crash points at which processes have ended, and when."""
    for _, event in events(logs):
        if event.get("event") == "process.crashing":
            yield event["point"], datetime.fromisoformat(event["timestamp"]).timestamp()


@dataclass
class Reader:
    """
    Reads findings.

    Args:
        assets: The folder of images.
        spool: The folder of images that arrive.
        storage: Storage, as the suite's operator.
    """

    assets: pathlib.Path
    spool: pathlib.Path
    storage: Any
    _known: set[str] = field(default_factory=set)

    async def quiet(self, clients: Collection[Client], seconds: float) -> bool:
        """Wait until no job goes on and nothing is held."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not await self._is_quiet(clients):  # noqa: ASYNC110 - polled, as a client would
                    await asyncio.sleep(POLL_SECONDS)
                return True
        return False

    async def findings(self, clients: Collection[Client], logs: Mapping[str, str]) -> Findings:
        """Read everything about the clients' accounts."""
        jobs = {
            job.name: await self._found(client, job)
            for client in clients
            async for job in all_jobs(client)
        }
        return Findings(
            jobs=jobs,
            ledgers={client.customer.account: await ledger_of(client) for client in clients},
            writes=list(writes(logs)),
            logs=logs,
            orphans=[orphan async for orphan in self._orphans()],
            collection_seconds=COLLECTION_SECONDS,
        )

    async def _is_quiet(self, clients: Collection[Client]) -> bool:
        try:
            for client in clients:
                async for job in all_jobs(client):
                    if state_name(job.state) not in TERMINAL:
                        return False
                if (await balance_of(client)).held_microcredits:
                    return False
        except SuiteError:
            # A process is being started again.
            return False
        return True

    async def _found(self, client: Client, job: job_pb2.Job) -> FoundJob:
        images = [await self._image(client, image) for image in job.result.images]
        return FoundJob(
            name=job.name,
            account=job.account,
            prompt=job.generation.prompt,
            state=state_name(job.state),
            revision=job.revision,
            attempts=job.attempt_count,
            reason=_reason(job),
            changes=tuple(await _changes(client, job)),
            images=tuple(images),
            price=job.price_microcredits,
        )

    async def _image(self, client: Client, image: job_pb2.GeneratedImage) -> FoundImage:
        try:
            content = await read_asset(client.storage, image.asset)
        except (DeadlineExceeded, Unavailable):
            # Storage is being started again; that its image is gone would be its own word.
            raise
        except SuiteError:
            return FoundImage(image.asset, image.sha256, "", decodes=False)
        actual = hashlib.sha256(content).hexdigest()
        decodes = await asyncio.to_thread(_decodes, content, (image.width_px, image.height_px))
        return FoundImage(image.asset, image.sha256, actual, decodes)

    async def _orphans(self) -> AsyncIterator[Orphan]:
        """Find files that no asset knows; what an asset has known is not asked for again."""
        for path in sorted([*self.assets.rglob("*"), *self.spool.rglob("*")]):
            if path.name in self._known or not path.is_file():
                continue
            aside = path.parent.name in ("incoming", self.spool.name)
            if not aside and await self._is_asset(path.name):
                self._known.add(path.name)
                continue
            with contextlib.suppress(FileNotFoundError):
                yield Orphan(path.name, time.time() - path.stat().st_mtime)

    async def _is_asset(self, key: str) -> bool:
        request = storage_service_pb2.GetAssetRequest(name=f"assets/{key}")
        try:
            await self.storage.GetAsset(request)
        except NotFound:
            return False
        return True


async def all_jobs(client: Client) -> AsyncIterator[job_pb2.Job]:
    """List an account's jobs."""
    request = inference_service_pb2.ListJobsRequest(page_size=PAGE)
    while True:
        page = await client.inference[0].ListJobs(request)
        for job in page.jobs:
            yield job
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return


async def balance_of(client: Client) -> ledger_pb2.Balance:
    """Read an account's balance."""
    request = ledger_pb2.GetBalanceRequest(name=f"{client.customer.account}/balance")
    balance: ledger_pb2.Balance = await client.accounts.GetBalance(request)
    return balance


async def ledger_of(client: Client) -> Ledger:
    """Read an account's whole ledger."""
    request = ledger_pb2.ListLedgerEntriesRequest(parent=client.customer.account, page_size=PAGE)
    entries: list[Entry] = []
    while True:
        page = await client.accounts.ListLedgerEntries(request)
        entries += [
            Entry(
                ledger_pb2.LedgerEntry.Kind.Name(one.kind).removeprefix("KIND_").lower(),
                one.job,
                one.amount_microcredits,
                one.cost_microcredits,
            )
            for one in page.ledger_entries
        ]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    balance = await balance_of(client)
    return Ledger(tuple(entries), balance.balance_microcredits, balance.held_microcredits)


def recoveries(
    findings: Findings, deaths: Collection[Death], crashed: Collection[tuple[str, float]]
) -> Iterator[tuple[str, float]]:
    """
    Tell, for each job that ran where a process died, how long it was until it ran again.

    Args:
        findings: Have the changes of all jobs.
        deaths: Of the processes that are watched.
        crashed: Crash points and times, for the devices that have come to one.
    """
    died = [(death.name.partition("-")[0], death.at) for death in deaths]
    died += [("device", at) for point, at in crashed if point.startswith("device.")]
    for kind, moment in died:
        if kind not in ("inference", "device"):
            continue
        for job in findings.jobs.values():
            before = [change for change in job.changes if change.at <= moment]
            after = [change for change in job.changes if change.at > moment]
            again = next((change for change in after if change.state == "running"), None)
            if not (before and before[-1].state == "running" and again):
                continue
            # Who was struck twice is counted from the second time.
            if not any(moment < at < again.at for _, at in died):
                yield kind, again.at - moment


async def _changes(client: Client, job: job_pb2.Job) -> list[Change]:
    """Watch a job from its beginning, now that it has ended."""
    told: list[Change] = []
    if job.revision == 1 or state_name(job.state) not in TERMINAL:
        return told
    request = inference_service_pb2.WatchJobRequest(name=job.name, after_revision=1)
    async for message in client.inference[-1].WatchJob(request):
        at = message.event_time.ToMicroseconds() / 1e6
        told.append(Change(message.revision, state_name(message.state), at))
    return told


def _reason(job: job_pb2.Job) -> str:
    return reason_name(from_status(job.error).reason) if job.HasField("error") else ""


def _decodes(content: bytes, size: tuple[int, int]) -> bool:
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            return picture.size == size
    except OSError:
        return False
