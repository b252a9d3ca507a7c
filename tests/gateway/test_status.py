import grpc
import pytest

from gateway.status import OF_CODE, status_of
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.errors import InvalidRequest, Unsupported


def test_every_grpc_code_has_a_status():
    """
    No error is without an answer.
    """
    assert set(OF_CODE) == set(grpc.StatusCode)


@pytest.mark.parametrize(
    ("departures", "status"),
    [({}, 413), ({reasons.ERROR_REASON_REQUEST_TOO_LARGE: 400}, 400)],
)
def test_a_dialects_departure_wins_over_the_reasons_status(departures, status):
    """
    What an API documents comes first.
    """
    error = InvalidRequest("", reason=reasons.ERROR_REASON_REQUEST_TOO_LARGE)

    assert status_of(error, departures) == status


def test_a_wrong_method_is_405_and_not_501():
    """
    The route is there.
    """
    assert status_of(Unsupported(""), {}) == 405
