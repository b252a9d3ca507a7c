"""
Answers and refusals as HTTP responses, with the headers that all dialects share.

An error is translated here into the dialect's words: its names for fields, its statuses, its
envelope.
"""

import math
import re
from collections.abc import Sequence

import structlog
from starlette.responses import JSONResponse, Response

from gateway.dialect import Answer, Dialect, Failure, Operation
from gateway.idempotency import REPLAYED
from gateway.receipts import treatment_of
from gateway.status import RequestTimeout, status_of
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import job_pb2
from services.rpc.errors import AlreadyExists, Internal, SuiteError, Unauthenticated, Violation

# Proxies give all headers of a response together 4 or 8 KiB.
RECEIPT_CHARACTERS = 1000
SIDES = {"width_px": "width", "height_px": "height"}
_NOT_A_TOKEN = re.compile(r"[^A-Za-z0-9_.-]")


def response(answer: Answer, headers: dict[str, str] | None = None) -> Response:
    """Send an answer; the dialect's own headers win."""
    merged = {**(headers or {}), **{k.lower(): v for k, v in answer.headers.items()}}
    return JSONResponse(answer.body, answer.status, headers=merged)


def job_headers(dialect: Dialect, job: job_pb2.Job | None) -> dict[str, str]:
    """Return what every reply about a job tells: its id, who drew it, and its receipt in short."""
    if job is None or not job.name:
        return {}
    headers = {"x-pictor-job": job.name.removeprefix("jobs/")}
    if job.replayed:
        headers[REPLAYED] = "true"
    if job.served_by:
        headers["x-pictor-served-by"] = job.served_by.removeprefix("models/")
    if job.receipt:
        headers["x-pictor-receipt"] = receipt_line(dialect, job.receipt)
    return headers


def receipt_line(dialect: Dialect, notes: Sequence[job_pb2.ParameterNote]) -> str:
    """Write a receipt in short, in the dialect's names: ``n=clamped; size=honoured``."""
    treatments: dict[str, str] = {}
    for note in notes:
        name = _NOT_A_TOKEN.sub("_", _field(dialect, note.parameter))[:40]
        # Width and height may be one parameter; departures come first, and they count.
        treatments.setdefault(name, treatment_of(note))
    line = "; ".join(f"{name}={treatment}" for name, treatment in treatments.items())
    if len(line) <= RECEIPT_CHARACTERS:
        return line
    shown = line[:RECEIPT_CHARACTERS].rpartition("; ")[0]
    return f"{shown}; more={len(treatments) - shown.count('; ') - 1}"


def refusal(
    dialect: Dialect,
    error: SuiteError,
    *,
    operation: Operation | None = None,
    job: job_pb2.Job | None = None,
) -> Response:
    """Answer with an error in the dialect's words."""
    answer = dialect.encode_error(failure_of(dialect, error, operation, job))
    headers = {**error_headers(error), **job_headers(dialect, job)}
    if error.reason == reasons.ERROR_REASON_REQUEST_IN_PROGRESS:
        # There is nothing yet that could be said again.
        headers.pop(REPLAYED, None)
    return response(answer, headers)


def failure_of(
    dialect: Dialect, error: SuiteError, operation: Operation | None, job: job_pb2.Job | None
) -> Failure:
    """Return the error as the dialect's encoder wants it."""
    status = status_of(error, dialect.statuses)
    return Failure(in_words_of(dialect, error), status, operation, job)


def error_headers(error: SuiteError) -> dict[str, str]:
    """Return what an error says in headers, whatever its envelope."""
    headers = {}
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_seconds))
    if isinstance(error, RequestTimeout):
        headers["connection"] = "close"
    if isinstance(error, AlreadyExists):
        # The openai package repeats every 409; the same id is taken each time.
        headers["x-should-retry"] = "false"
    if "allow" in error.metadata:
        headers["allow"] = error.metadata["allow"]
    return headers


def internal_error() -> Internal:
    """Make the error for a defect of the gateway; its traceback is in the logs."""
    request_id = structlog.contextvars.get_contextvars().get("request_id", "")
    return Internal(f"internal error; the logs know it as request {request_id}")


def in_words_of(dialect: Dialect, error: SuiteError) -> SuiteError:
    """Return the error with the dialect's names for fields instead of the suite's."""
    if not error.violations and "field" not in error.metadata:
        return error
    renamed = type(error)(
        error.message,
        reason=error.reason,
        metadata=error.metadata,
        retry_after_seconds=error.retry_after_seconds,
        request_id=error.request_id,
        violations=[
            Violation(_field(dialect, v.field), _words(dialect, v.field, v.description), v.reason)
            for v in error.violations
        ],
    )
    field_ = error.metadata.get("field", "")
    if error.message == "; ".join(v.description for v in error.violations):
        renamed.message = "; ".join(v.description for v in renamed.violations)
    else:
        renamed.message = _words(dialect, field_, error.message)
    renamed.metadata["field"] = _field(dialect, field_)
    return renamed


def _field(dialect: Dialect, name: str) -> str:
    leaf = name.removeprefix("generation.")
    return dialect.fields.get(leaf, leaf)


def _words(dialect: Dialect, name: str, text: str) -> str:
    leaf = name.removeprefix("generation.")
    field_ = _field(dialect, leaf)
    if leaf != name and text.startswith(f"{leaf} "):
        if leaf in SIDES and field_ != SIDES[leaf]:
            # The caller named a ratio or a size, and has never seen this number.
            return f"{field_}: {SIDES[leaf]}{text.removeprefix(leaf)}"
        return f"{field_}{text.removeprefix(leaf)}"
    return text
