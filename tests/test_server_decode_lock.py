"""Big pictures wait for each other, so that memory stays bounded; small ones wait for none."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from server_kit import encode

from pupila.feedback import Answered, Store
from pupila.prediction import Choice, Prediction
from pupila.server import Settings
from pupila.server.api.errors import DeadlineError
from pupila.server.api.feedback_writer import Collector
from pupila.server.api.multipart import Part
from pupila.server.inference import SMALL, large_image_lock

BIG = 4 * SMALL


def later(seconds: float = 60) -> float:
    return time.monotonic() + seconds


def test_big_pictures_are_decoded_one_at_a_time() -> None:
    counting, inside, seen = threading.Lock(), [0], list[int]()

    def decode() -> None:
        with large_image_lock(BIG, later()):
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
    with large_image_lock(BIG, later()), pytest.raises(DeadlineError), large_image_lock(BIG, later(0.05)):
        pass
    with large_image_lock(BIG, later()):
        pass


def test_small_pictures_wait_for_nobody() -> None:
    with large_image_lock(BIG, later()), large_image_lock(SMALL, later(-1)):
        pass


def test_picture_that_fails_releases_the_lock() -> None:
    with pytest.raises(ValueError, match="broken"), large_image_lock(BIG, later()):
        raise ValueError("broken")
    with large_image_lock(BIG, later(0.05)):
        pass


LARGE = Image.new("RGB", (1000, 700), "red")
ANEW = {
    "PNG": encode(LARGE, "PNG"),
    "TIFF": encode(LARGE, "TIFF"),
    "animation": encode(LARGE, "WEBP", save_all=True, append_images=[Image.new("RGB", LARGE.size)]),
}
"""Pictures that are kept by writing their pixels anew."""


@pytest.mark.parametrize("kind", ANEW)
def test_store_holds_the_lock_while_it_decodes(kind: str, tmp_path: Path) -> None:
    held: list[int] = []

    @contextmanager
    def lock(pixels: int) -> Iterator[None]:
        held.append(pixels)
        yield

    store = Store(tmp_path / "kept", create=True)
    assert store.add([Answered("r", 0, ANEW[kind], "red", 1.0, False, "m", 0.0)], lock=lock) == 1
    store.close()
    assert held == [50_000_000 if kind == "TIFF" else 1000 * 700]  # a rare format counts as the largest picture


def test_collector_waits_until_no_other_thread_decodes_a_large_picture(tmp_path: Path) -> None:
    collector = Collector(Settings(feedback_dir=tmp_path / "kept"))
    result = Prediction((Choice("red", 0, 1.0),), False)
    with large_image_lock(BIG, later()):
        collector.offer("r", [Part("", ANEW["PNG"])], [result], "m")
        time.sleep(1)
        assert collector.store.counts().answers == 0
    limit = later()
    while not collector.store.counts().answers:
        assert time.monotonic() < limit
        time.sleep(0.02)
    collector.close()
