"""What is kept of large pictures is made one at a time, in a process of its own."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from server_kit import encode

from pupila.feedback import Answered, Store
from pupila.images.strip import clean
from pupila.prediction import Choice, Prediction
from pupila.server import Settings
from pupila.server.api.feedback_writer import Collector
from pupila.server.api.multipart import Part
from pupila.server.inference import LARGE_IMAGE


def later(seconds: float = 60) -> float:
    return time.monotonic() + seconds


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
    answered = Answered("r", 0, ANEW[kind], "red", 1.0, False, "m", 0.0)
    assert store.add([answered], cleaner=lambda data: clean(data, lock=lock)) == 1
    store.close()
    if kind == "TIFF":
        assert held == [50_000_000] * 2  # rare: as the largest one, header and all
    else:
        assert len(held) == 1 and 1000 * 700 < held[0] < 2.1 * 1000 * 700


def test_collector_waits_until_no_other_thread_decodes_a_large_picture(tmp_path: Path) -> None:
    collector = Collector(Settings(feedback_dir=tmp_path / "kept"))
    result = Prediction((Choice("red", 0, 1.0),), False)
    with LARGE_IMAGE:
        collector.offer("r", [Part("", ANEW["PNG"])], [result], "m")
        time.sleep(1)
        assert collector.store.counts().answers == 0
    limit = later()
    while not collector.store.counts().answers:
        assert time.monotonic() < limit
        time.sleep(0.02)
    collector.close()


@pytest.mark.parametrize("ends", [True, False])
def test_large_pictures_of_a_batch_that_take_too_long_take_no_others_along(
    ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pupila.server.api.feedback_writer.LARGE_SECONDS", 60 if ends else 1)
    collector = Collector(Settings(feedback_dir=tmp_path / "kept"))
    result, small = Prediction((Choice("red", 0, 1.0),), False), encode(Image.new("RGB", (64, 64)), "PNG")
    with LARGE_IMAGE:
        collector.offer("r", [Part("", data) for data in [*ANEW.values(), small]], [result] * 4, "m")
        begun = time.monotonic()
        if ends:
            collector.close()
        while not collector.store.counts().answers:
            assert time.monotonic() < begun + 2.5
            time.sleep(0.02)
    collector.close()
    assert [kept.picture for kept in collector.store.of_request("r", 3)] == [3]


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG"])
def test_collector_decodes_no_large_picture_itself(kind: str, tmp_path: Path) -> None:
    collector = Collector(Settings(feedback_dir=tmp_path / "kept"))
    data = encode(Image.effect_noise((1500, 1400), 90).convert("RGB"), kind)
    begun, limit = time.process_time(), later()
    collector.offer("r", [Part("", data)], [Prediction((Choice("red", 0, 1.0),), False)], "m")
    while not collector.store.counts().answers:
        assert time.monotonic() < limit
        time.sleep(0.02)
    assert time.process_time() - begun < 0.2  # decoding it and writing it anew takes half a second and more
    kept = collector.store.read(collector.store.of_request("r", 0)[0])
    assert kept is not None and kept == clean(data).data  # type: ignore[union-attr]
    collector.close()
