import math

import pytest

from services.inference.worker.order import RISE_AFTER, Timings, choose
from services.inference.worker.rows import Row, Standing


class Waiting(Row):
    """A row that waits for a forward of some key."""

    def __init__(self, name, key="a", **standing):
        super().__init__(lambda _: None, Standing(**{"remaining_steps": 50, **standing}))
        self.name, self.own_key = name, key

    @property
    def key(self):
        return self.own_key


def chosen(rows, most=8, seconds=(), now=0.0):
    timings = Timings()
    for key in "ab":
        timings.note(key, 0, 1.0)
    for count, taken in dict(seconds).items():
        timings.note("a", count, taken)
    return [row.name for row in choose(rows, lambda _: most, timings, lambda: now)]


def test_rows_of_one_key_go_together():
    """
    Those that can share the most urgent one's forward share it.
    """
    rows = [Waiting("one"), Waiting("other", key="b"), Waiting("two")]

    assert chosen(rows) == ["one", "two"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [({1: 1.0, 3: 5.0}, ["short"]), ({1: 1.0, 3: 1.5}, ["short", "long", "long too"])],
    ids=["slow", "quick"],
)
def test_long_ones_go_along_where_that_costs_little(seconds, expected):
    """
    Where a forward takes as much longer as it has more rows, a short picture is drawn by itself;
    where rows are all but free, none is left out.
    """
    rows = [Waiting("long"), Waiting("long too"), Waiting("short", remaining_steps=4)]

    assert chosen(rows, seconds=seconds) == expected


def test_no_more_go_than_fit():
    """
    A batch has a limit; who has the least left to do goes first.
    """
    rows = [Waiting(str(steps), remaining_steps=steps) for steps in (50, 4, 20)]

    assert chosen(rows, most=2) == ["4", "20"]


def test_a_short_picture_of_another_size_is_not_held_up():
    """
    Four steps of another size go before fifty, whoever came first.
    """
    rows = [Waiting("long"), Waiting("long too"), Waiting("short", key="b", remaining_steps=4)]

    assert chosen(rows) == ["short"]


def test_priority_goes_before_everything_else():
    """
    A higher priority beats fewer steps.
    """
    rows = [Waiting("short", key="b", remaining_steps=1), Waiting("important", priority=1)]

    assert chosen(rows) == ["important"]


def test_a_near_deadline_goes_before_fewer_steps():
    """
    Of equal priority, whoever would be late otherwise goes first; a far deadline changes nothing.
    """
    for deadline, expected in ((80.0, "due"), (500.0, "short")):
        rows = [Waiting("short", key="b", remaining_steps=4), Waiting("due", deadline=deadline)]

        assert chosen(rows) == [expected]


@pytest.mark.parametrize("priority", [0, 3])
def test_nobody_starves(priority):
    """
    Under an endless stream of more urgent rows, a step is still taken in so many.
    """
    patient, turns = Waiting("patient", key="b"), []
    for _ in range(6 * RISE_AFTER * (priority + 1)):
        urgent = Waiting("urgent", remaining_steps=1, priority=priority)
        turns += chosen([urgent, patient])

    assert turns.count("patient") >= 4
    assert turns.count("urgent") >= 4


def test_who_is_chosen_waits_anew():
    """
    Being passed over counts from the last turn only.
    """
    row, other = Waiting("row"), Waiting("other", key="b", priority=9)
    row.standing.passed_over = 10 * RISE_AFTER
    chosen([row, other])

    assert row.standing.passed_over == 0
    assert other.standing.passed_over == 1
    assert row.standing.deadline == math.inf
