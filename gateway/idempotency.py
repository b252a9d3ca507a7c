"""
Requests that may be sent twice: the ``Idempotency-Key`` header, after Stripe's rules.

The inference service remembers which job a key has made, and of what request; the answer is then
written from that job anew, so it needs no store of its own. Requests that make no job change
nothing when they are repeated, and their key is only checked.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from gateway.images import Upload
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import job_pb2
from services.rpc.errors import StateConflict, invalid

HEADER = "idempotency-key"
REPLAYED = "idempotent-replayed"
MAX_CHARACTERS = 255
RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Once:
    """
    What makes a request the same as an earlier one.

    Attributes:
        key: As the caller chose it; empty for a request that stands for itself.
        fingerprint: SHA-256 of what was asked: 32 bytes.
    """

    key: str = ""
    fingerprint: bytes = b""


# Stands for itself.
ALONE = Once()


def key_of(request: Request) -> str:
    """
    Return the key of a request, or nothing.

    Raises:
        InvalidRequest: If it is empty or too long.
    """
    key: str | None = request.headers.get(HEADER)
    if key is not None and not 1 <= len(key) <= MAX_CHARACTERS:
        raise invalid(
            "Idempotency-Key",
            f"Idempotency-Key has {len(key)} characters; it must have 1 to {MAX_CHARACTERS}",
        )
    return key or ""


def once_of(key: str, request: Request, body: Any) -> Once:
    """Take the fingerprint of a request whose body has been read; the order of fields is none."""
    asked = {
        "method": request.method,
        "path": request.url.path,
        "query": sorted(pair for pair in request.query_params.multi_items() if pair[0] != "key"),
        "prefer": sorted(request.headers.getlist("prefer")),
        "body": body,
    }
    text = json.dumps(asked, sort_keys=True, default=_digest, skipkeys=True)
    return Once(key, hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())


def require_ended(job: job_pb2.Job) -> None:
    """
    Insist that the request which made this job has been answered.

    Raises:
        StateConflict: With REQUEST_IN_PROGRESS.
    """
    if job.WhichOneof("outcome") is None:
        raise StateConflict(
            "the first request with this Idempotency-Key is still being answered; its job is"
            f" {job.name.removeprefix('jobs/')}",
            reason=reasons.ERROR_REASON_REQUEST_IN_PROGRESS,
            metadata={"job": job.name},
            retry_after_seconds=RETRY_SECONDS,
        )


def as_accepted(job: job_pb2.Job) -> job_pb2.Job:
    """Return a job as it was when it was made, for the answer to be the same again."""
    accepted = job_pb2.Job()
    accepted.CopyFrom(job)
    for name in ("result", "error", "start_time", "finish_time", "progress", "preview"):
        accepted.ClearField(name)
    accepted.state = job_pb2.Job.STATE_QUEUED
    accepted.revision = 1
    accepted.attempt_count = 0
    accepted.progress.step_count = job.generation.step_count
    return accepted


def _digest(value: Any) -> Any:
    if isinstance(value, Upload):
        return hashlib.sha256(value.content).hexdigest()
    return dict(value) if isinstance(value, Mapping) else str(value)
