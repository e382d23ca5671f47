"""Large JSON is read one document at a time, and nothing but large JSON waits for that."""

import contextlib
import gzip
import http.client
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from server_kit import SIZE, picture, serving, wait_until, write_model

from pupila.server.api import body as bodies
from pupila.server.api.errors import QueueFullError

INFER = "/v2/models/colours/infer"
CLIENTS = 6


def document(pictures: int) -> bytes:
    shape = [pictures, SIZE, SIZE, 3]
    data = list(random.Random(0).randbytes(pictures * SIZE * SIZE * 3))
    entry = {"name": "images", "datatype": "UINT8", "shape": shape, "data": data}
    return json.dumps({"inputs": [entry]}).encode()


def ask(port: int, address: str, path: str, kind: str, body: bytes, coding: str = "identity") -> tuple[int, float]:
    """Return the status of an answer, and after how many seconds it came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60, source_address=(address, 0))
    begun = time.monotonic()
    with contextlib.closing(connection):
        connection.request("POST", path, body, {"Content-Type": kind, "Content-Encoding": coding})
        return connection.getresponse().status, time.monotonic() - begun


@pytest.mark.alone
def test_what_is_no_large_json_does_not_wait_for_that_of_others(tmp_path: Path) -> None:
    """Documents of a million numbers held both threads for large bodies, those of 120,000 all for other protocols."""
    settings = json.dumps({"port": 0, "workers": 1, "request_timeout": 60})
    large, medium, small = document(120), document(40), document(1)
    form, kind = requests.models.RequestEncodingMixin._encode_files(
        {"file": ("a.png", picture() + bytes(600_000))}, None
    )
    with (
        serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server,
        ThreadPoolExecutor(3 * CLIENTS) as pool,
    ):
        others = [
            pool.submit(ask, server.port, f"127.0.0.{number}", INFER, "application/json", body, coding)
            for body, coding in ((large, "identity"), (gzip.compress(medium), "gzip"), (medium, "identity"))
            for number in range(2, 2 + CLIENTS)
        ]
        wait_until(lambda: any(one.done() for one in others))
        took = [
            ask(server.port, "127.0.0.99", "/predict", kind, form),
            ask(server.port, "127.0.0.99", INFER, "application/json", small),
            ask(server.port, "127.0.0.99", "/predict", kind, form),
        ]
        assert not all(one.done() for one in others)
        assert [status for status, _ in took] == [200, 200, 200]
        assert max(seconds for _, seconds in took) < 1.0
        assert {one.result()[0] for one in others} == {200}


def test_few_threads_wait_for_the_document_that_is_read_and_none_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under another server than Pupila's own each of them holds a thread."""
    monkeypatch.setattr(bodies, "PATIENCE", 0.5)

    def refused_after(_: int) -> float:
        begun = time.monotonic()
        with pytest.raises(QueueFullError) as caught:
            bodies.parse(b"[%s0]" % (b"0," * 30_000), 10**6, "")
        assert caught.value.headers() == [("Retry-After", "1")]
        return time.monotonic() - begun

    with bodies.ONE_AT_A_TIME, ThreadPoolExecutor(4) as pool:
        at_once, soon, *late = sorted(pool.map(refused_after, range(4)))
    assert at_once < soon < 0.4 and min(late) > 0.45
    assert bodies.parse(b"[%s0]" % (b"0," * 30_000), 10**6, "")
