from __future__ import annotations

import pytest

from qatlab.system.terminal import clock
from qatlab.training.time_left import TimeLeft


def test_before_anything_is_known_nothing_is_told() -> None:
    left = TimeLeft([2, 3])
    assert left.seconds(0.5, 10.0) is None
    left.begin(0, 0.0, is_whole=True)
    assert left.seconds(0.0, 0.0) is None


def test_the_first_epoch_promises_what_the_others_take() -> None:
    left = TimeLeft([2, 3])
    left.begin(0, 100.0, is_whole=True)
    # A quarter took 5 s: 15 s are left of this epoch, and four more take 20 s each.
    assert left.seconds(0.25, 105.0) == pytest.approx((15.0, 95.0))


def test_each_phase_counts_at_its_own_speed() -> None:
    left = TimeLeft([2, 3])
    left.begin(0, 0.0, is_whole=True)
    left.begin(1, 10.0, is_whole=True)  # an epoch of the first phase takes 10 s
    assert left.seconds(0.5, 14.0) == pytest.approx((6.0, 6.0 + 3 * 10.0))
    left.begin(2, 20.0, is_whole=True)
    assert left.seconds(0.0, 20.0) == pytest.approx((10.0, 30.0))  # as nothing else is known
    left.begin(3, 50.0, is_whole=True)  # one of the second takes 30 s
    assert left.seconds(0.0, 50.0) == pytest.approx((30.0, 60.0))
    assert left.seconds(0.9, 90.0) == pytest.approx((0.0, 30.0))  # never below zero


def test_an_epoch_that_was_begun_by_a_killed_run_tells_nothing() -> None:
    left = TimeLeft([5])
    left.begin(2, 0.0, is_whole=False)
    assert left.seconds(0.9, 1.0) is None
    left.begin(3, 2.0, is_whole=True)
    assert left.seconds(0.5, 5.0) == pytest.approx((3.0, 9.0))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (723, "12:03"), (93840, "26:04:00")]
)
def test_a_clock_has_hours_where_there_are_some(seconds: float, text: str) -> None:
    assert clock(seconds) == text
