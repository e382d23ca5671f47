"""The batcher on its own: order, fairness, deadlines, and that a poisoned item spoils nobody else's answer."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pupila.server.inference import Batcher, Computation, DeadlineError, QueueFullError


def run(batcher: Batcher, items: Sequence[int], lane: str, deadline: float) -> list[int]:
    return batcher.run(items, lane, deadline).found()


def soon(seconds: float = 10) -> float:
    return time.monotonic() + seconds


def double(items: Sequence[int], _: str) -> list[int]:
    if any(item < 0 for item in items):
        raise ValueError("poison")
    return [2 * item for item in items]


def gated(gate: threading.Event, log: list[list[int]]) -> Callable[[Sequence[int], str], list[int]]:
    """Compute only once the gate is open, and note each batch."""

    def compute(items: Sequence[int], lane: str) -> list[int]:
        log.append(list(items))
        assert gate.wait(10)
        return double(items, lane)

    return compute


def waiting(batcher: Batcher) -> int:
    """Pictures of requests that have begun which are not yet computed."""
    return sum(computation.left for computation in tuple(batcher._active))


def wait_until(condition: Callable[[], bool]) -> None:
    limit = soon(5)
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


def test_results_come_in_order() -> None:
    assert run(Batcher(double, batch=3), range(10), "", soon()) == [2 * i for i in range(10)]


@given(st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=12), min_size=1, max_size=16), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_every_request_gets_its_own_results_in_order_under_concurrency(requests: list[list[int]], batch: int) -> None:
    batcher = Batcher(double, batch=batch, max_waiting=1000)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda items: run(batcher, items, "", soon()), requests))
    assert answers == [[2 * item for item in items] for items in requests]
    assert waiting(batcher) == 0


def test_only_the_culprit_fails() -> None:
    gate, log = threading.Event(), list[list[int]]()
    batcher = Batcher(gated(gate, log), batch=32)
    with ThreadPoolExecutor(33) as pool:
        first = pool.submit(run, batcher, [0], "", soon())
        wait_until(lambda: len(log) == 1)
        rest = [pool.submit(run, batcher, [-1 if i == 13 else i], "", soon()) for i in range(32)]
        wait_until(lambda: waiting(batcher) == 32)
        gate.set()
        assert first.result() == [0]
        for i, future in enumerate(rest):
            if i == 13:
                with pytest.raises(ValueError, match="poison"):
                    future.result()
            else:
                assert future.result() == [2 * i]
    assert max(len(items) for items in log) == 32


def test_many_pictures_do_not_starve_a_single_one() -> None:
    gate, log = threading.Event(), list[list[int]]()
    batcher = Batcher(gated(gate, log), batch=4, max_waiting=1000)
    with ThreadPoolExecutor(2) as pool:
        many = pool.submit(run, batcher, list(range(100)), "", soon())
        wait_until(lambda: len(log) == 1)
        single = pool.submit(run, batcher, [777], "", soon())
        wait_until(lambda: waiting(batcher) == 97)
        gate.set()
        assert single.result() == [1554]
        assert many.result() == [2 * i for i in range(100)]
    assert 777 in log[1]


def test_lanes_are_never_computed_together() -> None:
    gate, log = threading.Event(), list[list[int]]()
    batcher = Batcher(gated(gate, log), batch=8)
    with ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(run, batcher, [0], "a", soon())]
        wait_until(lambda: len(log) == 1)
        futures += [pool.submit(run, batcher, [10 * (i % 2) + 1], "ab"[i % 2], soon()) for i in range(4)]
        wait_until(lambda: waiting(batcher) == 4)
        gate.set()
        [future.result() for future in futures]
    assert sorted(map(sorted, log[1:])) == [[1, 1], [11, 11]]


def test_of_a_slow_model_fewer_pictures_are_computed_together() -> None:
    gate, log = threading.Event(), list[list[int]]()
    gate.set()
    batcher = Batcher(gated(gate, log), batch=8, most=lambda lane: 2 if lane == "slow" else 100)
    for lane in ("slow", "quick"):
        run(batcher, range(9), lane, soon())
    assert [len(batch) for batch in log] == [2, 2, 2, 2, 1, 8, 1]


def test_picture_that_could_not_be_done_by_its_deadline_is_not_begun() -> None:
    gate, log = threading.Event(), list[list[int]]()
    gate.set()
    batcher = Batcher(gated(gate, log), seconds=lambda lane: 2.0 if lane == "slow" else 0.01)
    with pytest.raises(DeadlineError):
        run(batcher, [1], "slow", soon(1.5))
    assert run(batcher, [2], "slow", soon(3)) == [4] and run(batcher, [3], "quick", soon(1.5)) == [6]
    assert log == [[2], [3]]


def test_no_more_pictures_are_begun_than_may_be_done_in_time() -> None:
    gate, log = threading.Event(), list[list[int]]()
    gate.set()
    batcher = Batcher(gated(gate, log), batch=8, seconds=lambda _: 0.3)
    assert run(batcher, range(4), "", soon(1)) == [0, 2, 4, 6]
    assert [len(batch) for batch in log] == [3, 1]
    batcher._seconds_per_picture = 60.0  # a process that was stopped for a minute forgets it
    assert run(batcher, [1], "", soon(1)) == [2]


def test_requests_that_come_while_a_batch_is_chosen_do_not_end_the_compute_thread() -> None:
    batcher, until = Batcher(double, batch=8, max_waiting=10_000, seconds=lambda _: 0.005), soon(4)

    def client() -> None:
        while time.monotonic() < until:
            with contextlib.suppress(DeadlineError, QueueFullError):
                run(batcher, [1], "", soon())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(7) as pool:
            for done in [pool.submit(client) for _ in range(7)]:
                done.result()
    finally:
        sys.setswitchinterval(interval)
    assert not batcher.has_ended and run(batcher, [2], "", soon()) == [4]


def test_batch_that_fails_is_computed_one_by_one_until_the_deadline() -> None:
    gate, log = threading.Event(), list[int]()

    def compute(items: Sequence[int], lane: str) -> list[int]:
        if 100 in items:
            assert gate.wait(10)
        else:
            log.append(len(items))
            time.sleep(0.1 * len(items))
        return double(items, lane)

    batcher = Batcher(compute, batch=8)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(run, batcher, [100], "", soon())
        wait_until(lambda: waiting(batcher) == 0 and len(batcher._active) == 1)
        answers = [pool.submit(run, batcher, [item], "", soon(1.3)) for item in (-1, *range(7))]
        wait_until(lambda: waiting(batcher) == 8)
        gate.set()
        errors = [type(answer.exception()) for answer in answers]
    assert first.result() == [200] and log[0] == 8 and set(log[1:]) == {1} and 1 < len(log) < 9
    assert ValueError in errors or DeadlineError == errors[0]
    assert DeadlineError in errors


def test_deadline_ends_the_waiting_and_leaves_nothing_behind() -> None:
    gate, log = threading.Event(), list[list[int]]()
    batcher = Batcher(gated(gate, log))
    with ThreadPoolExecutor(2) as pool:
        stuck = pool.submit(run, batcher, [1], "", soon())
        wait_until(lambda: len(log) == 1)
        started = time.monotonic()
        with pytest.raises(DeadlineError):
            run(batcher, [2], "", soon(0.1))
        assert time.monotonic() - started < 0.5
        assert waiting(batcher) == 0
        gate.set()
        assert stuck.result() == [2]
    assert run(batcher, [3], "", soon()) == [6]
    assert log == [[1], [3]]


def test_request_past_its_deadline_is_given_up_while_others_go_on() -> None:
    def slow(items: Sequence[int], lane: str) -> list[int]:
        time.sleep(0.05)
        return double(items, lane)

    batcher = Batcher(slow, max_waiting=1000)
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(run, batcher, list(range(100)), "", soon(0.2))
        time.sleep(0.02)
        assert run(batcher, [5], "", soon()) == [10]
        with pytest.raises(DeadlineError):
            long.result()
    assert waiting(batcher) == 0


def test_full_queue_is_said_at_once() -> None:
    gate, log = threading.Event(), list[list[int]]()
    batcher = Batcher(gated(gate, log), max_waiting=3)
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(run, batcher, [1], "", soon())]
        wait_until(lambda: len(log) == 1)
        futures += [pool.submit(run, batcher, [1, 2], "", soon())]
        wait_until(lambda: waiting(batcher) == 2)
        with pytest.raises(QueueFullError):
            run(batcher, [1, 2], "", soon())
        gate.set()
        [future.result() for future in futures]


def test_requests_of_many_items_do_not_keep_a_single_one_out() -> None:
    gate, log = threading.Event(), list[list[int]]()
    batcher = Batcher(gated(gate, log), batch=4, max_waiting=20)
    with ThreadPoolExecutor(3) as pool:
        many = [pool.submit(run, batcher, [number] * 12, "", soon()) for number in (1, 2)]
        wait_until(lambda: waiting(batcher) == 20)
        with pytest.raises(QueueFullError):
            run(batcher, [3] * 12, "", soon())
        single = pool.submit(run, batcher, [4], "", soon())
        wait_until(lambda: waiting(batcher) == 21)
        gate.set()
        assert single.result() == [8]
        assert [future.result() for future in many] == [[2] * 12, [4] * 12]
    assert 4 in log[1]


def test_expired_request_is_not_computed() -> None:
    log = list[list[int]]()
    gate = threading.Event()
    gate.set()
    with pytest.raises(DeadlineError):
        run(Batcher(gated(gate, log)), [1], "", soon(-1))
    assert log == []


def test_compute_thread_outlives_a_fault_of_those_who_call_it(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    batcher = Batcher(double)
    batcher.after_batch = fail
    batcher.submit([fail, lambda: Computation([1], "", soon(), fail)])
    wait_until(lambda: caplog.text.count("goes on after a fault") >= 3)
    batcher.after_batch = lambda: None
    assert run(batcher, [3], "", soon()) == [6]
