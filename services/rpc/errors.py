"""
Errors that cross a process boundary.

    SuiteError
      InvalidRequest      INVALID_ARGUMENT      the caller can fix it; carries the fields
      Unauthenticated     UNAUTHENTICATED       no credential, or one that opens nothing
      PermissionDenied    PERMISSION_DENIED     a good credential without the scope
      NotFound            NOT_FOUND             no such thing, or another account's
      AlreadyExists       ALREADY_EXISTS        the name that the caller chose is taken
      StateConflict       FAILED_PRECONDITION   the thing is in a state that does not permit this
      LeaseLost           ABORTED               a write of an attempt that is no longer the job's
      Exhausted           RESOURCE_EXHAUSTED    out of memory, credits or patience
      Unavailable         UNAVAILABLE           not now; carries retry_after_seconds
      DeadlineExceeded    DEADLINE_EXCEEDED     the time that was given is over
      Canceled            CANCELLED             somebody asked for the end
      Unsupported         UNIMPLEMENTED         the method is not there
      Internal            INTERNAL              a defect, a broken disk, a lost device

Raised anywhere in a service; turned into google.rpc.Status by services.rpc.interceptors,
and back into the same class in the caller's process by services.rpc.channels. HTTP is not known
here.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from pictor.errors.v1 import error_reason_pb2
from pictor.errors.v1.error_reason_pb2 import ErrorReason

DOMAIN = "pictor"
_PREFIX = "ERROR_REASON_"


class Violation(NamedTuple):
    """One field that breaks a rule: its path in the request, and a sentence that names the rule."""

    field: str
    description: str
    reason: ErrorReason.ValueType


class SuiteError(Exception):
    """
    What a service answers instead of a result.

    Attributes:
        message: A sentence for the caller; names value, rule and alternatives.
        reason: The machine-readable cause.
        metadata: The ErrorInfo's metadata, as the reason's comment in error_reason.proto lists it.
        violations: The fields that break a rule; empty where no field is to blame.
        retry_after_seconds: When trying again makes sense; None where it does not.
        request_id: Under which the logs know the call; empty in the process that raises.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    default_reason: ClassVar[ErrorReason.ValueType] = error_reason_pb2.ERROR_REASON_INTERNAL

    def __init__(
        self,
        message: str,
        *,
        reason: ErrorReason.ValueType | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[Violation] = (),
        retry_after_seconds: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = self.default_reason if reason is None else reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after_seconds = retry_after_seconds
        self.request_id = request_id


class InvalidRequest(SuiteError):
    """The caller can fix it."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = error_reason_pb2.ERROR_REASON_FIELD_INVALID


class Unauthenticated(SuiteError):
    """No credential, or one that opens nothing."""

    code = grpc.StatusCode.UNAUTHENTICATED
    default_reason = error_reason_pb2.ERROR_REASON_API_KEY_INVALID


class PermissionDenied(SuiteError):
    """A good credential without the scope."""

    code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = error_reason_pb2.ERROR_REASON_SCOPE_MISSING


class NotFound(SuiteError):
    """No such thing, or another account's."""

    code = grpc.StatusCode.NOT_FOUND
    default_reason = error_reason_pb2.ERROR_REASON_ROUTE_NOT_FOUND


class AlreadyExists(SuiteError):
    """The name that the caller chose is taken."""

    code = grpc.StatusCode.ALREADY_EXISTS
    default_reason = error_reason_pb2.ERROR_REASON_JOB_EXISTS


class StateConflict(SuiteError):
    """The thing is in a state that does not permit this."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = error_reason_pb2.ERROR_REASON_JOB_STATE_CONFLICT


class LeaseLost(SuiteError):
    """A write of an attempt that is no longer the job's."""

    code = grpc.StatusCode.ABORTED
    default_reason = error_reason_pb2.ERROR_REASON_LEASE_LOST


class Exhausted(SuiteError):
    """Out of memory, credits or patience."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = error_reason_pb2.ERROR_REASON_DEVICE_OUT_OF_MEMORY


class Unavailable(SuiteError):
    """Not now."""

    code = grpc.StatusCode.UNAVAILABLE
    default_reason = error_reason_pb2.ERROR_REASON_SERVICE_UNAVAILABLE


class DeadlineExceeded(SuiteError):
    """The time that was given is over."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = error_reason_pb2.ERROR_REASON_DEADLINE_EXCEEDED


class Canceled(SuiteError):
    """Somebody asked for the end."""

    code = grpc.StatusCode.CANCELLED
    default_reason = error_reason_pb2.ERROR_REASON_JOB_CANCELED


class Unsupported(SuiteError):
    """The method is not there."""

    code = grpc.StatusCode.UNIMPLEMENTED
    default_reason = error_reason_pb2.ERROR_REASON_METHOD_NOT_ALLOWED


class Internal(SuiteError):
    """A defect, a broken disk, a lost device."""

    code = grpc.StatusCode.INTERNAL
    default_reason = error_reason_pb2.ERROR_REASON_INTERNAL


_BY_CODE: dict[int, type[SuiteError]] = {
    cls.code.value[0]: cls for cls in SuiteError.__subclasses__()
}


def invalid(
    field: str,
    description: str,
    reason: ErrorReason.ValueType = error_reason_pb2.ERROR_REASON_FIELD_INVALID,
) -> InvalidRequest:
    """Make the error of one field: ``invalid("width", "width 700 is not a multiple of 16")``."""
    return InvalidRequest(
        description,
        reason=reason,
        metadata={"field": field},
        violations=[Violation(field, description, reason)],
    )


def reason_name(reason: ErrorReason.ValueType) -> str:
    """Return the reason as it travels, e.g. ``MODEL_NOT_SERVING``."""
    return ErrorReason.Name(reason).removeprefix(_PREFIX)


def to_status(error: SuiteError, request_id: str = "") -> status_pb2.Status:
    """Write an error as google.rpc.Status, with the details that error_reason.proto promises."""
    details = [
        error_details_pb2.ErrorInfo(
            reason=reason_name(error.reason), domain=DOMAIN, metadata=error.metadata
        )
    ]
    if error.violations:
        details.append(_bad_request(error.violations))
    if error.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if request_id or error.request_id:
        details.append(error_details_pb2.RequestInfo(request_id=request_id or error.request_id))
    return status_pb2.Status(
        code=error.code.value[0], message=error.message, details=[_packed(d) for d in details]
    )


def from_status(status: status_pb2.Status) -> SuiteError:
    """
    Read an error back from google.rpc.Status.

    A status that no Pictor service wrote (a proxy's, gRPC's own) becomes the class of its code,
    with that class's default reason.
    """
    error = _BY_CODE.get(status.code, Internal)(status.message)
    for detail in status.details:
        _read_detail(error, detail)
    return error


def _bad_request(violations: Iterable[Violation]) -> error_details_pb2.BadRequest:
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=v.field, description=v.description, reason=reason_name(v.reason)
            )
            for v in violations
        ]
    )


def _packed(detail: object) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)  # type: ignore[arg-type]  # every detail is a message
    return packed


def _read_detail(error: SuiteError, detail: any_pb2.Any) -> None:
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    request = error_details_pb2.RequestInfo()
    if detail.Unpack(info) and info.domain == DOMAIN:
        error.reason = _reason(info.reason, error.reason)
        error.metadata = dict(info.metadata)
    elif detail.Unpack(bad_request):
        error.violations = tuple(
            Violation(v.field, v.description, _reason(v.reason, error.reason))
            for v in bad_request.field_violations
        )
    elif detail.Unpack(retry):
        error.retry_after_seconds = retry.retry_delay.ToNanoseconds() / 1e9
    elif detail.Unpack(request):
        error.request_id = request.request_id


def _reason(name: str, default: ErrorReason.ValueType) -> ErrorReason.ValueType:
    # A newer server may know reasons that this process does not.
    return dict(ErrorReason.items()).get(_PREFIX + name, default)
