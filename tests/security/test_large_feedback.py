"""Kept pictures that take long to read keep no others from being written, nor feedback on them waiting."""

import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest
from PIL import Image
from server_kit import picture, serving, write_model


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
