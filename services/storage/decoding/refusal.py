"""Why an image is not taken, as the child says it to the service."""

from collections.abc import Mapping


class Refusal(Exception):
    """
    The image is not taken.

    Attributes:
        reason: Of pictor.errors.v1.ErrorReason, without ``ERROR_REASON_``.
        message: The sentence for the caller.
        metadata: Of the error.
    """

    def __init__(
        self, reason: str, message: str, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
