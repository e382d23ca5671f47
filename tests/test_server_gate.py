"""Big pictures wait for each other, so that memory stays bounded; small ones wait for none."""

import threading
import time

import pytest

from pupila.server.inference.batcher import DeadlineError
from pupila.server.inference.decode_lock import SMALL, Gate, TooBigError, only_small

BIG = 4 * SMALL


def later(seconds: float = 60) -> float:
    return time.monotonic() + seconds


def test_big_pictures_are_decoded_one_at_a_time() -> None:
    gate, lock, inside, seen = Gate(), threading.Lock(), [0], list[int]()

    def decode() -> None:
        with gate.enter(BIG, later()):
            with lock:
                inside[0] += 1
                seen.append(inside[0])
            time.sleep(0.02)
            with lock:
                inside[0] -= 1

    threads = [threading.Thread(target=decode) for _ in range(10)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert seen == [1] * 10


def test_waiting_ends_at_the_deadline() -> None:
    gate = Gate()
    with gate.enter(BIG, later()), pytest.raises(DeadlineError), gate.enter(BIG, later(0.05)):
        pass
    with gate.enter(BIG, later()):
        pass


def test_small_pictures_wait_for_nobody() -> None:
    gate = Gate()
    with gate.enter(BIG, later()), gate.enter(SMALL, later(-1)), only_small(SMALL, later(-1)):
        pass


def test_big_picture_is_none_for_a_thread_that_others_wait_for() -> None:
    with pytest.raises(TooBigError):
        only_small(SMALL + 1, later())


def test_picture_that_fails_leaves_the_gate_open() -> None:
    gate = Gate()
    with pytest.raises(ValueError, match="broken"), gate.enter(BIG, later()):
        raise ValueError("broken")
    with gate.enter(BIG, later(0.05)):
        pass
