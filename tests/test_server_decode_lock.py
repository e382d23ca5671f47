"""Big pictures wait for each other, so that memory stays bounded; small ones wait for none."""

import threading
import time

import pytest

from pupila.server.api.errors import DeadlineError
from pupila.server.inference import SMALL, LargeImageLock

BIG = 4 * SMALL


def later(seconds: float = 60) -> float:
    return time.monotonic() + seconds


def test_big_pictures_are_decoded_one_at_a_time() -> None:
    lock, counting, inside, seen = LargeImageLock(), threading.Lock(), [0], list[int]()

    def decode() -> None:
        with lock.acquire(BIG, later()):
            with counting:
                inside[0] += 1
                seen.append(inside[0])
            time.sleep(0.02)
            with counting:
                inside[0] -= 1

    threads = [threading.Thread(target=decode) for _ in range(10)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert seen == [1] * 10


def test_waiting_ends_at_the_deadline() -> None:
    lock = LargeImageLock()
    with lock.acquire(BIG, later()), pytest.raises(DeadlineError), lock.acquire(BIG, later(0.05)):
        pass
    with lock.acquire(BIG, later()):
        pass


def test_small_pictures_wait_for_nobody() -> None:
    lock = LargeImageLock()
    with lock.acquire(BIG, later()), lock.acquire(SMALL, later(-1)):
        pass


def test_picture_that_fails_releases_the_lock() -> None:
    lock = LargeImageLock()
    with pytest.raises(ValueError, match="broken"), lock.acquire(BIG, later()):
        raise ValueError("broken")
    with lock.acquire(BIG, later(0.05)):
        pass
