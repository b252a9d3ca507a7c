"""
Which HTTP status an error becomes, unless a dialect documents another one.

One table of all gRPC codes, and one of the few reasons for which HTTP has a more exact word than
for their code.
"""

from collections.abc import Mapping

import grpc

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.errors.v1.error_reason_pb2 import ErrorReason
from services.rpc.errors import DeadlineExceeded, SuiteError


class RequestTimeout(DeadlineExceeded):
    """The caller took too long to send its request, of which gRPC knows nothing."""


# 408 invites to send it again, on a new connection.
TIMEOUT = 408

OF_CODE: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.OK: 200,
    # nginx's word for a client that went away; no standard status says it.
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    # FAILED_PRECONDITION is deliberately not 412: no precondition header was sent.
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    # OUT_OF_RANGE is not 416, which speaks of byte ranges only.
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
}

OF_REASON: dict[ErrorReason.ValueType, int] = {
    reasons.ERROR_REASON_METHOD_NOT_ALLOWED: 405,
    reasons.ERROR_REASON_REQUEST_TOO_LARGE: 413,
    reasons.ERROR_REASON_INPUT_IMAGE_TOO_LARGE: 413,
    reasons.ERROR_REASON_MEDIA_TYPE_UNSUPPORTED: 415,
    # The caller has done nothing too often; trying a smaller picture or another model helps.
    reasons.ERROR_REASON_DEVICE_OUT_OF_MEMORY: 500,
    # What HTTP has kept this status for.
    reasons.ERROR_REASON_INSUFFICIENT_CREDITS: 402,
    reasons.ERROR_REASON_REQUEST_IN_PROGRESS: 409,
    # Its metadata can still be asked for, so it is known that it was there.
    reasons.ERROR_REASON_ASSET_EXPIRED: 410,
    # A state conflict is with what the server holds, not with the request.
    reasons.ERROR_REASON_JOB_STATE_CONFLICT: 409,
}


def status_of(error: SuiteError, departures: Mapping[ErrorReason.ValueType, int]) -> int:
    """Return the HTTP status of an error: the dialect's, else the reason's, else the code's."""
    if isinstance(error, RequestTimeout):
        return TIMEOUT
    fallback = OF_REASON.get(error.reason, OF_CODE[error.code])
    return departures.get(error.reason, fallback)
