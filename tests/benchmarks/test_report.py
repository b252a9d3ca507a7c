import pytest

from benchmarks.report import Row, table


def test_a_value_is_the_median_of_each_repeats_own_ratio():
    """
    A repeat in which the machine was busy with other things counts on both sides.
    """
    row = Row("loop", ours=[1.0, 10.0, 1.2], baseline=[2.0, 20.0, 1.0])

    assert row.value == 0.5


@pytest.mark.parametrize(
    ("goal", "at_least", "verdict"),
    [
        (0.6, False, "reached"),
        (0.4, False, "missed"),
        (0.4, True, "reached"),
        (0.6, True, "missed"),
    ],
)
def test_a_goal_is_a_least_or_a_greatest_ratio(goal, at_least, verdict):
    """
    Times are to be small, and rates to be large.
    """
    row = Row("loop", [1.0], [2.0], goal, at_least=at_least)

    assert row.verdict == verdict
    assert ("≥" if at_least else "≤") in table([row])


def test_both_sides_have_been_repeated_as_often():
    """
    What was not measured beside each other is not compared.
    """
    with pytest.raises(ValueError, match="shorter"):
        table([Row("loop", [1.0, 1.0], [1.0])])


def test_a_note_stands_below_the_table():
    """
    Where the time goes is said under the name of the claim.
    """
    assert table([Row("loop", [1.0], note="all of it is forward")]).splitlines()[-1] == (
        "- loop: all of it is forward"
    )
