"""Kept pictures that take long to read or to write keep no others from being written, nor feedback on them waiting."""

import contextlib
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from server_kit import encode, picture, serving, wait_until, write_model

from pupila.images.strip import clean
from pupila.prediction import Choice, Prediction
from pupila.server import Settings
from pupila.server.api.errors import QueueFullError
from pupila.server.api.feedback_writer import BATCH_PICTURES, Collector, mark_of
from pupila.server.api.multipart import Part
from pupila.server.inference import LargeImageError, reject_large
from pupila.server.process.scoreboard import MARKS


def ask(port: int, address: str, path: str, kind: str, body: bytes, name: str = "") -> tuple[int, float]:
    """Return the status of an answer, and after how many seconds it came."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60, source_address=(address, 0))
    begun = time.monotonic()
    try:
        connection.request("POST", path, body, {"Content-Type": kind, "X-Request-Id": name})
        return connection.getresponse().status, time.monotonic() - begun
    finally:
        connection.close()


def say(port: int, address: str, name: str) -> tuple[int, float]:
    said = json.dumps({"request_id": name, "picture": 0, "category": "red"}).encode()
    return ask(port, address, "/feedback", "application/json", said)


@pytest.mark.alone
def test_large_pictures_of_one_client_keep_no_feedback_of_others_waiting(tmp_path: Path) -> None:
    """What another had sent was not written before them: its feedback was told after two seconds that there is none."""
    noise = Image.effect_noise((256, 256), 50).convert("P").resize((6000, 6000), Image.Resampling.NEAREST)
    file, over = io.BytesIO(), threading.Event()
    noise.save(file, "GIF")
    settings = json.dumps({"port": 0, "workers": 1, "feedback_dir": str(tmp_path / "kept")})
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server:

        def send(thread: int) -> None:
            number = 0
            while not over.is_set():
                number += 1
                ask(server.port, "127.0.0.2", "/predict", "image/gif", file.getvalue(), f"many-{thread}-{number}")

        def correct(thread: int) -> None:
            while not over.is_set():
                for number in range(9):
                    say(server.port, "127.0.0.2", f"many-{thread}-{number}")

        with ThreadPoolExecutor(4) as pool:
            try:
                threads = [pool.submit(call, thread) for call in (send, correct) for thread in range(2)]
                time.sleep(4)
                for number in range(3):
                    ask(server.port, "127.0.0.3", "/predict", "image/png", picture(), f"one-{number}")
                    status, seconds = say(server.port, "127.0.0.3", f"one-{number}")
                    assert (status, seconds < 1.5) == (200, True), seconds
                assert not any(one.done() for one in threads)
            finally:
                over.set()


def noise(side: int, levels: int = 2, seed: int = 1) -> bytes:
    """Return a gray PNG of so many levels at random: of few, zlib's highest level compares for seconds."""
    drawn = np.random.default_rng(seed).integers(0, levels, (side, side)) * (255 // (levels - 1))
    return encode(Image.fromarray(drawn.astype(np.uint8)), "PNG")


@pytest.mark.parametrize("levels", [2, 3, 4, 16, 256])
def test_picture_of_little_to_read_is_written_anew_soon(levels: int) -> None:
    """Noise of two levels took 1.9 s."""
    taken = 0.0
    for side in range(100, 1_000, 100):
        data, begun = noise(side, levels), time.thread_time()
        with contextlib.suppress(LargeImageError):
            assert clean(data, lock=reject_large) is not None
            taken = max(taken, time.thread_time() - begun)
    assert 0 < taken < 0.25


def test_pictures_that_are_made_are_written_before_all_of_a_batch_are(tmp_path: Path) -> None:
    collector, result = Collector(Settings(feedback_dir=tmp_path / "kept")), Prediction((Choice("red", 0, 1.0),), False)
    parts = [Part("", noise(380, seed=seed)) for seed in range(BATCH_PICTURES)]
    collector.offer("r", parts, [result] * len(parts), "m")
    wait_until(lambda: collector.store.counts().answers)
    assert collector.store.counts().answers < BATCH_PICTURES
    wait_until(lambda: collector.store.counts().answers == BATCH_PICTURES)
    collector.close()


@pytest.mark.alone
def test_pictures_that_are_long_to_write_keep_no_feedback_of_others_waiting(tmp_path: Path) -> None:
    """Twenty of one client kept all others from correcting for 45 seconds."""
    settings = json.dumps({"port": 0, "workers": 1, "feedback_dir": str(tmp_path / "kept")})
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server:
        for number in range(20):
            ask(server.port, "127.0.0.2", "/predict", "image/png", noise(540, seed=number), f"many-{number}")
        for number in range(5):
            ask(server.port, "127.0.0.3", "/predict", "image/png", picture(), f"one-{number}")
            status, seconds = say(server.port, "127.0.0.3", f"one-{number}")
            assert (status, seconds < 1.5) == (200, True), seconds


def test_one_request_waits_long_for_pictures_that_are_to_be_written(tmp_path: Path) -> None:
    """Each waited two seconds, so that two of one client took both threads of all feedback."""
    collector = Collector(Settings(feedback_dir=tmp_path / "kept"))
    for number in range(3):
        collector._row[MARKS + number] = mark_of("r", number, "")  # and never are

    def find(number: int) -> tuple[bool, float]:
        begun = time.monotonic()
        try:
            collector.find("r", number, "", begun + 30)
        except QueueFullError:
            return False, time.monotonic() - begun
        return True, time.monotonic() - begun

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(find, range(3)))
    assert sorted(waited for waited, _ in found) == [False, False, True]
    assert all((seconds > 1.5) == waited for waited, seconds in found), found
