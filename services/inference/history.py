"""
What was asked and drawn: listed by account, and deleted on request or when it has grown old.

Each request is recorded in its job: prompt, inputs, outputs, receipt, timings and cost. Deleting a
job deletes its record at once, in one transaction that also writes down which images go with it;
storage is asked for these afterwards, again and again until it has done so.
"""

import itertools
from collections.abc import Sequence

import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import inference_service_pb2, job_pb2
from pictor.storage.v1 import storage_service_pb2, storage_service_pb2_grpc
from services.inference.jobs import TERMINAL, Jobs
from services.inference.store import ANY, Filter, JobStore
from services.paging import encode_token, sequence_of
from services.rpc.errors import NotFound, StateConflict, SuiteError, invalid
from services.rpc.principals import acting_for, caller
from services.timestamps import EARLIEST_SECONDS, LATEST_SECONDS

# Of the 4 MiB that a message may have; progress is added to each job.
PAGE_BYTES = 3 * 1024 * 1024
MOST_NAMES = 20
LONGEST_TEXT = 200
# Deleted between two looks at the clock; others write to the database meanwhile.
BATCH = 100

State = job_pb2.Job.State
log = structlog.get_logger()


class History:
    """
    Lists and deletes jobs.

    Args:
        store: Where they lie.
        jobs: Knows how far they are.
        storage: Keeps their images.
    """

    def __init__(
        self,
        store: JobStore,
        jobs: Jobs,
        storage: "storage_service_pb2_grpc.StorageServiceAsyncStub",
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._storage = storage

    async def page(
        self, count: int, page_token: str = "", wanted: Filter = ANY
    ) -> tuple[list[job_pb2.Job], str]:
        """
        Read a page of the caller's jobs, newest first, and the token of the next page.

        Raises:
            InvalidRequest: If the page token is not one of ours.
        """
        before = sequence_of(page_token) if page_token else None
        account = caller().account or None
        rows = await self._store.page(account, wanted, before, count + 1)
        fitting = _fitting(rows[:count])
        token = encode_token(str(rows[fitting - 1][0])) if len(rows) > fitting else ""
        return await self._jobs.with_progress([job for _, job in rows[:fitting]]), token

    async def delete(self, name: str) -> None:
        """
        Delete one of the caller's jobs, with its images.

        Raises:
            NotFound: If there is none of this name, or another account's.
            StateConflict: If it goes on.
        """
        job = await self._jobs.own(name)
        if job.state not in TERMINAL:
            state = State.Name(job.state)
            raise StateConflict(
                f"the job is {state.removeprefix('STATE_').lower()}; only one that has ended is"
                " deleted: cancel it first",
                metadata={"job": name, "state": state},
            )
        await self._delete(job)
        await self.discard()

    async def expire(self, before_us: int) -> None:
        """Delete the jobs that ended before a moment, of all accounts."""
        while jobs := await self._store.ended_before(before_us, BATCH):
            for job in jobs:
                await self._delete(job)
            await self.discard()

    async def discard(self) -> None:
        """Ask storage to delete the images of deleted jobs; those that it cannot wait."""
        for asset, account in await self._store.discarded(BATCH):
            request = storage_service_pb2.DeleteAssetRequest(name=asset)
            try:
                # Not on the suite's own behalf: an input may be another account's.
                with acting_for(account):
                    await self._storage.DeleteAsset(request)
            except NotFound:
                pass
            except SuiteError as error:
                log.warning("history.asset_stays", asset=asset, reason=error.message)
                return
            await self._store.forget_discarded(asset)

    async def _delete(self, job: job_pb2.Job) -> None:
        if await self._store.delete(job):
            log.info("job.deleted", job=job.name)


def filter_of(request: inference_service_pb2.ListJobsRequest) -> Filter:
    """
    Read which jobs a request wants to see.

    Raises:
        InvalidRequest: If there are too many names, a text is too long, or a moment is none.
    """
    for field in ("models", "dialects"):
        if len(names := getattr(request, field)) > MOST_NAMES:
            raise invalid(
                field,
                f"{field} has {len(names)} names; at most {MOST_NAMES} are looked for at once",
                reasons.ERROR_REASON_FIELD_OUT_OF_RANGE,
            )
    if len(request.prompt_contains) > LONGEST_TEXT:
        raise invalid(
            "prompt_contains",
            f"prompt_contains has {len(request.prompt_contains)} characters; at most"
            f" {LONGEST_TEXT} are looked for",
            reasons.ERROR_REASON_FIELD_OUT_OF_RANGE,
        )
    if "\0" in request.prompt_contains:
        raise invalid("prompt_contains", "prompt_contains holds a NUL character; no prompt has one")
    return Filter(
        states=tuple(request.states),
        models=tuple(f"models/{name.removeprefix('models/')}" for name in request.models),
        dialects=tuple(request.dialects),
        created_after_us=_moment(request, "created_after"),
        created_before_us=_moment(request, "created_before"),
        prompt_contains=request.prompt_contains,
    )


def _moment(request: inference_service_pb2.ListJobsRequest, field: str) -> int | None:
    if not request.HasField(field):  # type: ignore[arg-type]  # one of two fields
        return None
    timestamp: Timestamp = getattr(request, field)
    if not EARLIEST_SECONDS <= timestamp.seconds <= LATEST_SECONDS:
        raise invalid(field, f"{field} of {timestamp.seconds} s is not in the years 1 to 9999")
    return timestamp.ToMicroseconds()


def _fitting(rows: Sequence[tuple[int, job_pb2.Job]]) -> int:
    """Count the jobs, from the first, that fit into one message; at least one."""
    sizes = itertools.accumulate(job.ByteSize() for _, job in rows)
    return max(1, sum(size <= PAGE_BYTES for size in sizes)) if rows else 0
