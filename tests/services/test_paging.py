"""Page sizes and page tokens."""

import pytest

from services.paging import decode_token, encode_token, next_token, page_size, position
from services.rpc.errors import InvalidRequest


def test_no_page_size_means_the_default():
    """
    0 is the default; anything up to 1000 is itself.
    """
    assert page_size(0) == 50
    assert page_size(0, default=10) == 10
    assert page_size(1000) == 1000


@pytest.mark.parametrize("requested", [-1, 1001])
def test_a_page_size_out_of_range_names_the_range(requested):
    """
    The error says what may be asked for.
    """
    with pytest.raises(InvalidRequest, match="1 to 1000"):
        page_size(requested)


@pytest.mark.parametrize("parts", [("1", "a"), ("jobs/5f0c",), ("1", "2", "x y")])
def test_a_token_gives_back_its_parts(parts):
    """
    What is encoded is decoded.
    """
    assert decode_token(encode_token(*parts), len(parts)) == parts


@pytest.mark.parametrize(
    "token",
    [
        "!",
        "é",
        "a",
        "bnVsbA",
        "WzEsMl0",
        encode_token("1"),
        encode_token("1", "\ud800"),
        encode_token("1", "x" * 201),
    ],
)
def test_a_foreign_token_is_refused(token):
    """
    What this list did not give is an error of page_token.
    """
    with pytest.raises(InvalidRequest) as caught:
        decode_token(token, 2)

    assert caught.value.violations[0].field == "page_token"


def test_the_empty_token_is_the_first_page():
    """
    Nothing continues nowhere.
    """
    assert decode_token("", 2) == ()
    assert position("") is None


def test_the_token_of_a_page_is_the_position_of_its_last_entry():
    """
    The next page begins behind the last entry that was shown; the last page has no next.
    """
    found = [(1, "a"), (2, "b"), (3, "c")]

    assert position(next_token(found, 2)) == (2, "b")
    assert next_token(found, 3) == ""


@pytest.mark.parametrize("moment", ["x", "-1", "9" * 30, "٣"])
def test_a_position_has_a_moment(moment):
    """
    A token whose first part is no number of microseconds is refused before any database sees it.
    """
    with pytest.raises(InvalidRequest):
        position(encode_token(moment, "a"))
