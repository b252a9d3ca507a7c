"""How an operator wants models to be served."""

from dataclasses import dataclass

from pictor.catalog.v1.catalog_service_pb2 import UpdateServingRequest
from pictor.errors.v1 import error_reason_pb2
from services.rpc.errors import invalid

MOST_REPLICAS = 64


@dataclass(frozen=True)
class Target:
    """
    What is wanted of one model.

    Attributes:
        desired_replicas: How many device processes hold it ready; 0: none may. None: every one that
            has the weights and the room.
        pinned: It stays loaded when others need room.
    """

    desired_replicas: int | None = None
    pinned: bool = False


# What holds for models of which nobody has said anything.
DEFAULT = Target()


def target_of(request: UpdateServingRequest) -> Target:
    """
    Read what an operator wants.

    Raises:
        InvalidRequest: With FIELD_OUT_OF_RANGE.
    """
    count = request.desired_replicas if request.HasField("desired_replicas") else None
    if count is not None and not 0 <= count <= MOST_REPLICAS:
        raise invalid(
            "desired_replicas",
            f"desired_replicas {count} is outside 0 to {MOST_REPLICAS}; leave it out for every"
            " process that has the weights",
            error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE,
        )
    return Target(count, request.pinned)
