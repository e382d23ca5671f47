"""Big pictures wait for each other, so that memory stays bounded; small ones wait for none."""

import threading
import time

import pytest

from pupila.server.gate import FREE, PixelGate
from pupila.server.scheduler import DeadlineError

BIG = 4 * FREE


def later(seconds: float = 60) -> float:
    return time.monotonic() + seconds


def test_big_pictures_together_stay_within_the_budget() -> None:
    gate, lock, inside, seen = PixelGate(10 * FREE), threading.Lock(), [0], list[int]()

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
    assert len(seen) == 10 and max(seen) == 2


def test_picture_over_the_budget_passes_alone() -> None:
    gate = PixelGate(2 * FREE)
    with gate.enter(BIG, later()), pytest.raises(DeadlineError), gate.enter(BIG, later(0.05)):
        pass
    with gate.enter(BIG, later()):
        pass


def test_small_pictures_wait_for_nobody() -> None:
    gate = PixelGate(FREE)
    with gate.enter(BIG, later()), gate.enter(FREE, later(-1)):
        pass


def test_picture_that_fails_leaves_the_gate_open() -> None:
    gate = PixelGate(FREE)
    with pytest.raises(ValueError, match="broken"), gate.enter(BIG, later()):
        raise ValueError("broken")
    with gate.enter(BIG, later(0.05)):
        pass
