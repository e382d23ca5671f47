"""How long a queue will take is estimated from what was taken up while others waited, for each queue by itself."""

import time

import pytest

from pupila.server.transport.executor import FORGET, HALVED, RequestQueue, Turns


def measured(*looks: tuple[float, int, bool]) -> RequestQueue:
    """Return a queue that was looked at: when, how many had been taken up by then, and whether one waited."""
    queue = RequestQueue(most=1000)
    for now, taken, waiting in looks:
        while len(queue):
            queue.get()
        if waiting:
            queue.put("a", object())
        queue.taken = taken
        queue.measure(now)
    return queue


def delay(queue: RequestQueue, waiting: int) -> float:
    while len(queue) < waiting:
        queue.put("a", object())
    return queue.delay("a")


def steady(rate: int) -> RequestQueue:
    """A queue that was never empty for 6 s, looked at every 0.2 s."""
    return measured((0.0, 0, True), *[(0.2 * i, rate * i // 5, True) for i in range(1, 30)])


def test_nothing_is_foretold_before_anything_has_waited() -> None:
    assert delay(measured((1.0, 0, False), (2.0, 100, False)), 50) == 0.0


def test_steady_work_gives_its_rate() -> None:
    queue = steady(100)
    assert queue.rate == pytest.approx(100) and delay(queue, 50) == pytest.approx(0.5)


def test_requests_that_take_seconds_each_do_not_look_like_none() -> None:
    """One request in 2 s, looked at every 0.2 s: ten looks in a row see nothing."""
    queue = measured((0.0, 0, True), *[(0.2 * i, i // 10, True) for i in range(1, 100)])
    assert queue.rate == pytest.approx(0.5, rel=0.01)
    assert delay(queue, 2) == pytest.approx(4, rel=0.01)


def test_time_in_which_nothing_waited_does_not_count() -> None:
    queue = measured((0.0, 0, True), (1.0, 10, True), (1.5, 11, False), (2.0, 12, True), (3.0, 22, True))
    assert queue.rate == pytest.approx(10)


def test_what_was_foretold_is_forgotten_once_nothing_has_waited_for_a_while() -> None:
    queue, last = steady(2), 0.2 * 29
    queue.get()
    queue.measure(last + 0.5 * FORGET)
    assert queue.rate == pytest.approx(2, rel=0.01)
    queue.measure(last + 1.1 * FORGET)
    assert delay(queue, 50) == 0.0


def test_queue_refuses_what_it_cannot_answer_in_time_and_says_when_to_come_back() -> None:
    queue, now = RequestQueue(most=10), time.monotonic()
    queue.rate = 2.0
    assert queue.retry_after("a", now + 1) is None
    for job in range(6):
        queue.put("a", job)
    assert queue.retry_after("a", now + 30) is None
    assert queue.retry_after("a", now + 2.5) == pytest.approx(3.0)
    for job in range(6, 10):
        queue.put("a", job)
    assert queue.retry_after("a", now + 60) == pytest.approx(5.0)
    assert [queue.get() for _ in range(3)] == [0, 1, 2]


def test_tenth_request_of_one_client_waits_behind_the_first_of_another() -> None:
    queue, now = RequestQueue(most=20), time.monotonic()
    queue.rate = 1.0
    for number in range(10):
        queue.put("many", number)
    assert queue.retry_after("many", now + 5) == 10.0 and queue.retry_after("one", now + 5) is None
    queue.put("one", "first")
    assert [queue.get() for _ in range(3)] == [0, "first", 1] and len(queue) == 8


def test_who_has_most_in_a_full_queue_gives_way_to_who_has_less() -> None:
    queue, later = RequestQueue(most=4), time.monotonic() + 60
    for number in range(4):
        queue.put("many", number)
    assert queue.retry_after("many", later) is not None and queue.give_way("many") is None
    for given, number in ((3, 0), (2, 1)):
        assert queue.retry_after("few", later) is None and queue.give_way("few") == given
        queue.put("few", f"few {number}")
    assert queue.retry_after("few", later) is not None and queue.give_way("few") is None
    assert [queue.get() for _ in range(6)] == [0, "few 0", 1, "few 1", None, None]


def test_request_of_many_turns_counts_with_all_of_them_and_shares_them_with_others() -> None:
    queue, now = RequestQueue(most=20), time.monotonic()
    queue.rate = 1.0
    queue.put("many", "40", turns=40)
    assert queue.delay("many") == 40.0 and queue.delay("one") == 1.0 and queue.delay("few", turns=3) == 5.0
    assert queue.retry_after("one", now + 5) is None and queue.retry_after("many", now + 5) == 40.0
    queue.put("many", "2", turns=2)
    queue.put("one", "1")
    assert queue.get() == "40"
    queue.put("many", "40", turns=39, first=True)
    assert [queue.get(), queue.get(), queue.get()] == ["1", "40", "2"]


def test_client_whose_turns_took_seconds_lets_others_go_first() -> None:
    queue = RequestQueue(most=20)
    queue.rate = 0.2
    for number in range(3):
        queue.put("slow", f"slow {number}")
    assert queue.get() == "slow 0"
    queue.put("new", "new")
    queue.charge("slow", 5.0)
    assert queue.delay("new") == 5.0 and queue.delay("other") == 5.0 and queue.delay("slow") == 15.0
    got = []
    for number in range(4):  # of the new one one after the other, with one of the slow between two
        got.append(queue.get())
        queue.charge(str(got[-1]).split()[0], 5.0 if got[-1].startswith("slow") else 0.1)
        queue.put("new", f"new {number}")
    assert got == ["new", "slow 1", "new 0", "slow 2"]


def test_who_is_charged_next_to_nothing_keeps_nobody_out() -> None:
    turns: Turns[str] = Turns()
    turns.charge("victim", 5.0, now=0.0)
    turns.add("victim", "large")
    for number in range(10):
        turns.add("many", f"small {number}")
    assert "large" in [turns.next(), turns.next()]
    for number in range(200):  # a millisecond each, but none is for nothing
        turns.charge("many", 0.001, now=0.0)
        turns.charge(f"other {number}", 0.001, now=0.0)
    assert turns._charge_of("many") > 1


def test_time_that_was_charged_is_forgotten() -> None:
    turns: Turns[str] = Turns()
    turns.charge("a", 5.0, now=100.0)
    turns.charge("b", 4.0, now=100.0 + HALVED)  # of the 5 seconds 2.5 are left
    turns.add("b", "later")
    turns.add("a", "sooner")
    assert turns.next() == "sooner"
    turns.charge("c", 1.0, now=200.0 + 100 * HALVED)
    assert turns._charge_of("a") == turns._charge_of("b") == 0.0
