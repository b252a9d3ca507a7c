import pytest

from services.inference.leases import Leases

LEASE_SECONDS = 6.0


class Clock:
    """Shows what the test says."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def leases(clock):
    return Leases(LEASE_SECONDS, clock)


def test_a_heartbeat_that_stands_still_for_a_lease_is_gone(leases, clock):
    """
    Not earlier, and by the observer's own clock: what any wall clock says plays no part.
    """
    assert leases.gone({"one": 7}) == set()
    clock.now += LEASE_SECONDS - 0.1
    assert leases.gone({"one": 7}) == set()
    clock.now += 0.1
    assert leases.gone({"one": 7}) == {"one"}


@pytest.mark.parametrize("phase", [0.0, 0.01, 0.25, 0.49])
def test_the_end_of_a_process_is_known_a_sixth_of_a_lease_late_at_most(leases, clock, phase):
    """
    Wherever between two looks it has beaten for the last time.
    """
    leases.gone({"one": 6})
    ended = clock.now + phase
    while "one" not in leases.gone({"one": 7 if clock.now > ended else 6}):
        clock.now += leases.look_seconds

    assert LEASE_SECONDS < clock.now - ended <= LEASE_SECONDS * 7 / 6


def test_a_heartbeat_that_counts_lives(leases, clock):
    """
    However long it has been watched.
    """
    for beat in range(100):
        clock.now += LEASE_SECONDS - 0.1
        assert leases.gone({"one": beat}) == set()


def test_who_was_gone_and_beats_again_lives(leases, clock):
    """
    A process that was only paused is not gone for ever.
    """
    leases.gone({"one": 7})
    clock.now += LEASE_SECONDS
    assert leases.gone({"one": 7}) == {"one"}
    assert leases.gone({"one": 8}) == set()


def test_a_process_knows_that_it_has_lost_its_lease_before_others_do(leases, clock):
    """
    It counts from when the heartbeat was sent, they from when they saw it.
    """
    others = Leases(LEASE_SECONDS, clock)
    sent = leases.now()
    clock.now += 0.5
    others.gone({"one": 1})
    leases.acknowledge(sent)

    clock.now += LEASE_SECONDS - 0.5
    assert leases.left_seconds <= 0
    assert others.gone({"one": 1}) == set()


def test_an_old_acknowledgement_shortens_nothing(leases, clock):
    """
    Answers may overtake each other.
    """
    clock.now += 2
    leases.acknowledge(clock.now)
    leases.acknowledge(clock.now - 1)

    assert leases.left_seconds == LEASE_SECONDS
