"""How long a queue will take is foretold from what was answered while others waited."""

import pytest

from pupila.server.clock import Pace


def looked(*looks: tuple[float, int, bool]) -> Pace:
    pace = Pace()
    for now, answered, busy in looks:
        pace.look(now, answered, busy)
    return pace


def test_nothing_is_foretold_before_anything_has_waited() -> None:
    assert looked((1.0, 0, False), (2.0, 100, False)).delay(50) == 0.0


def test_steady_answers_give_their_rate() -> None:
    pace = looked((0.0, 0, False), *[(0.2 * i, 20 * i, True) for i in range(1, 30)])
    assert pace.rate == pytest.approx(100) and pace.delay(50) == pytest.approx(0.5)


def test_answers_that_take_seconds_each_do_not_look_like_none() -> None:
    """One answer in 2 s, looked at every 0.2 s: ten looks in a row see nothing."""
    pace = looked((0.0, 0, False), *[(0.2 * i, i // 10, True) for i in range(1, 100)])
    assert pace.rate == pytest.approx(0.5, rel=0.01)
    assert pace.delay(2) == pytest.approx(4, rel=0.01)


def test_time_in_which_nothing_waited_does_not_count() -> None:
    pace = looked((0.0, 0, False), (1.0, 10, True), (60.0, 11, False), (61.0, 21, True))
    assert pace.rate == pytest.approx(10)
