"""
What may go wrong with a request, by what is done on its way.

Each cause is the error as it is raised somewhere, with a sentence for people. A kind of operation
lists its causes, a dialect's statuses make them into HTTP, and so the documented statuses of a
route are those that it has.
"""

from gateway.status import RequestTimeout
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.errors import (
    AlreadyExists,
    Canceled,
    DeadlineExceeded,
    Exhausted,
    Internal,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    StateConflict,
    SuiteError,
    Unauthenticated,
    Unavailable,
)

Causes = tuple[SuiteError, ...]

_CREDITS = StateConflict(
    "the balance does not cover the price", reason=reasons.ERROR_REASON_INSUFFICIENT_CREDITS
)
_NOT_SERVING = Unavailable(
    "nothing serves the model now",
    reason=reasons.ERROR_REASON_MODEL_NOT_SERVING,
    retry_after_seconds=1,
)

ANYWHERE: Causes = (
    Internal("a defect, of which the logs know more"),
    Unavailable("a part of the suite does not answer", retry_after_seconds=1),
    DeadlineExceeded("a part of the suite took too long"),
)
KEY: Causes = (
    Unauthenticated("no API key", reason=reasons.ERROR_REASON_API_KEY_MISSING),
    Unauthenticated("an API key that opens nothing"),
    PermissionDenied("the key lacks the scope"),
    Exhausted(
        "the key asks too often",
        reason=reasons.ERROR_REASON_RATE_LIMITED,
        retry_after_seconds=1,
    ),
)
NAMES: Causes = (NotFound("nothing has such a name"),)
BODY: Causes = (
    InvalidRequest("the body cannot be read", reason=reasons.ERROR_REASON_BODY_INVALID),
    InvalidRequest("the body is too large", reason=reasons.ERROR_REASON_REQUEST_TOO_LARGE),
    RequestTimeout("the body arrives too slowly"),
)
VALUES: Causes = (
    InvalidRequest("a field is missing", reason=reasons.ERROR_REASON_FIELD_REQUIRED),
    InvalidRequest("a field has a wrong value"),
    InvalidRequest("a number is out of range", reason=reasons.ERROR_REASON_FIELD_OUT_OF_RANGE),
    InvalidRequest("this cannot be done here", reason=reasons.ERROR_REASON_FIELD_UNSUPPORTED),
    InvalidRequest("a field is retired", reason=reasons.ERROR_REASON_FIELD_RETIRED),
)
IMAGES: Causes = (
    InvalidRequest("too many images, or too few", reason=reasons.ERROR_REASON_INPUT_IMAGE_COUNT),
    InvalidRequest("an image that is none", reason=reasons.ERROR_REASON_INPUT_IMAGE_INVALID),
    InvalidRequest(
        "an image is not found under its URL",
        reason=reasons.ERROR_REASON_INPUT_IMAGE_UNREACHABLE,
    ),
    InvalidRequest("an image is too large", reason=reasons.ERROR_REASON_INPUT_IMAGE_TOO_LARGE),
    InvalidRequest(
        "an image of a type that is not accepted",
        reason=reasons.ERROR_REASON_MEDIA_TYPE_UNSUPPORTED,
    ),
)
REPEATED: Causes = (
    InvalidRequest(
        "the Idempotency-Key came with another request",
        reason=reasons.ERROR_REASON_IDEMPOTENCY_KEY_REUSED,
    ),
    StateConflict(
        "the first request with this Idempotency-Key is being answered",
        reason=reasons.ERROR_REASON_REQUEST_IN_PROGRESS,
        retry_after_seconds=1,
    ),
)
_FULL = Exhausted(
    "too many jobs wait already",
    reason=reasons.ERROR_REASON_QUEUE_FULL,
    retry_after_seconds=1,
)
DRAWING: Causes = (
    *VALUES,
    *IMAGES,
    *REPEATED,
    InvalidRequest("the prompt is too long", reason=reasons.ERROR_REASON_PROMPT_TOO_LONG),
    InvalidRequest("the model does not do this", reason=reasons.ERROR_REASON_OPERATION_UNSUPPORTED),
    InvalidRequest(
        "with Prefer: handling=strict, something would be clamped or ignored",
        reason=reasons.ERROR_REASON_PARAMETER_NOT_HONOURED,
    ),
    NotFound("no such model", reason=reasons.ERROR_REASON_MODEL_NOT_FOUND),
    AlreadyExists("the id that was chosen for the job is taken"),
    _CREDITS,
    _FULL,
    _NOT_SERVING,
)
WAITING: Causes = (
    Canceled("the job was canceled"),
    DeadlineExceeded("the job takes longer than this API waits; it goes on"),
    Exhausted("the device has not enough memory"),
    Internal("the device was lost", reason=reasons.ERROR_REASON_DEVICE_LOST),
    Internal("the model's output is no picture", reason=reasons.ERROR_REASON_OUTPUT_NOT_FINITE),
    Internal("the weights cannot be read", reason=reasons.ERROR_REASON_WEIGHTS_UNREADABLE),
    Internal("the picture cannot be stored", reason=reasons.ERROR_REASON_STORAGE_FAILED),
)
JOB: Causes = (NotFound("no such job", reason=reasons.ERROR_REASON_JOB_NOT_FOUND),)
ENDED: Causes = (StateConflict("the job has ended already"),)
AGAIN: Causes = (
    *REPEATED,
    StateConflict("the job goes on, or has succeeded"),
    NotFound("an input image is gone", reason=reasons.ERROR_REASON_ASSET_NOT_FOUND),
    NotFound("the model is gone", reason=reasons.ERROR_REASON_MODEL_NOT_FOUND),
    _CREDITS,
    _FULL,
    _NOT_SERVING,
)
ASSET: Causes = (
    NotFound("no such image", reason=reasons.ERROR_REASON_ASSET_NOT_FOUND),
    NotFound("the image has expired", reason=reasons.ERROR_REASON_ASSET_EXPIRED),
    PermissionDenied(
        "the URL's signature is not valid, or has expired",
        reason=reasons.ERROR_REASON_URL_SIGNATURE_INVALID,
    ),
    InvalidRequest(
        "there are no thumbnails of this width", reason=reasons.ERROR_REASON_FIELD_OUT_OF_RANGE
    ),
)
MODEL: Causes = (NotFound("no such model", reason=reasons.ERROR_REASON_MODEL_NOT_FOUND),)
NATIVE: Causes = (
    *ANYWHERE,
    *VALUES,
    *JOB,
    *ENDED,
)
MAKING: Causes = (AlreadyExists("the name is taken"),)
