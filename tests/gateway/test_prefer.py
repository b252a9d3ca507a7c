import pytest

from gateway.prefer import EARLY_HINTS, HANDLING_STRICT, preferences_of


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], []),
        (["handling=strict"], [HANDLING_STRICT]),
        (['Handling = "Strict"'], [HANDLING_STRICT]),
        (["early-hints, handling=strict; why=tests"], [EARLY_HINTS, HANDLING_STRICT]),
        (["early-hints", "respond-async"], [EARLY_HINTS, "respond-async"]),
        (["handling=lenient, handling=strict"], ["handling=lenient"]),
        (['x="a, handling=strict"'], ["x=a, handling=strict"]),
        (["x=" + "a" * 2000 + ", handling=strict"], ["x=" + "a" * 998]),
    ],
)
def test_preferences_are_read_as_the_rfc_has_them(lines, found):
    """
    Lists, quotes, parameters, letters of any case; of two that contradict each other, the first.
    """
    assert preferences_of(lines) == found


@pytest.mark.parametrize("junk", [",,;=,", '"', '\\"', '"' * 999, "," * 60_000, '"\\' * 400, "=a"])
def test_junk_prefers_nothing(junk):
    """
    Anybody may send anything, and nothing takes long to read.
    """
    assert not set(preferences_of([junk])) & {EARLY_HINTS, HANDLING_STRICT}
