"""More requests than can be answered: the rest are told so at once, and those accepted keep their deadline."""

import contextlib
import http.client
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from server_kit import Running, picture, wait_for_url, write_model

DEADLINE = 3.0
pytestmark = pytest.mark.alone

SLOW = """
import sys, time
from pathlib import Path
from pupila.predictor import Predictor
from pupila.server import Settings, serve
from pupila.server.inference import LARGE_IMAGE, LargeImageError, small_only

class Slow(Predictor):
    def decode(self, source, limits, by):
        if not 50_000 < len(source) < 500_000:
            time.sleep(0.5 if len(source) > 500_000 else 0)
            return super().decode(source, limits, by)
        if by is small_only:
            raise LargeImageError(10**9)
        with LARGE_IMAGE:
            time.sleep(0.5)
        return super().decode(source, limits)

    def scores(self, pictures):
        time.sleep(float(sys.argv[3]) * len(pictures))
        return super().scores(pictures)

serve(Path(sys.argv[1]), Settings(port=0, workers=1, request_timeout=3.0, max_waiting=int(sys.argv[2])), Slow.load)
"""


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    log, model = tmp_path / "log", write_model(tmp_path / "colours.onnx")
    with log.open("w") as output:
        command = [sys.executable, "-c", SLOW, str(model), *map(str, request.param)]
        process = subprocess.Popen(command, stdout=output, stderr=output, text=True)
    try:
        yield Running(process, wait_for_url(process, log), log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()


def flood(server: Running, clients: int, data: bytes = picture()) -> list[tuple[requests.Response, float]]:
    def ask(_: int) -> tuple[requests.Response, float]:
        started = time.monotonic()
        return server.predict(data), time.monotonic() - started

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(ask, range(clients)))


@pytest.mark.parametrize("server", [(4, 0.05)], indirect=True)
def test_full_queue_answers_503_at_once_and_says_when_to_come_back(server: Running) -> None:
    results = flood(server, 40)
    refused = [(response, spent) for response, spent in results if response.status_code == 503]
    assert {response.status_code for response, _ in results} == {200, 503}
    assert all(int(response.headers["Retry-After"]) >= 1 for response, _ in refused)
    assert all(response.json()["error"]["code"] == "overloaded" for response, _ in refused)
    assert min(spent for _, spent in refused) < 0.5
    assert server.predict(picture()).status_code == 200


@pytest.mark.parametrize("server", [(1000, 0.05)], indirect=True)
def test_what_cannot_be_ready_in_time_is_refused_or_ended_by_its_deadline(server: Running) -> None:
    """100 pictures of 50 ms each are 5 s of work, and each request has 3 s."""
    results = flood(server, 100)
    codes = [response.status_code for response, _ in results]
    assert set(codes) <= {200, 503, 504}
    assert codes.count(200) >= 30
    assert max(spent for _, spent in results) < DEADLINE + 1
    assert server.predict(picture()).status_code == 200


@pytest.mark.parametrize("server", [(1000, 0.02)], indirect=True)
def test_slow_requests_do_not_make_short_ones_look_slow(server: Running) -> None:
    """Of requests that take 0.5 s each two are answered at a time: 30 short ones at that pace would take 7 s."""
    with ThreadPoolExecutor(1) as pool:
        heavy = pool.submit(flood, server, 6, picture(kind="JPEG") + bytes(600_000))
        time.sleep(1.2)
        short = [response.status_code for _ in range(3) for response, _ in flood(server, 30)]
        assert Counter(short) == {200: 90}
        assert Counter(response.status_code for response, _ in heavy.result()) == {200: 6}


@pytest.mark.parametrize("size", [600_000, 60_000])
@pytest.mark.parametrize("server", [(1000, 0.001), (4, 0.001)], indirect=True)
def test_large_requests_of_one_address_wait_behind_the_first_of_another(server: Running, size: int) -> None:
    """Each takes 0.5 s, one or two at a time; where only four may wait, one of those gives way."""

    def ask(address: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20, source_address=(address, 0))
        with contextlib.closing(connection):
            connection.request("POST", "/predict", picture() + bytes(size), {"Content-Type": "image/png"})
            return connection.getresponse().status

    with ThreadPoolExecutor(6) as pool:
        many = [pool.submit(ask, "127.0.0.1") for _ in range(6)]
        time.sleep(0.3)
        assert ask("127.0.0.2") == 200
        assert not all(one.done() for one in many)
        assert {one.result() for one in many} <= {200, 503, 504}


@pytest.mark.parametrize("server", [(1000, 0.001)], indirect=True)
def test_big_pictures_that_wait_for_each_other_keep_nobody_else_waiting(server: Running) -> None:
    """Five files of 60 kB that take 0.5 s each, one after the other, and four threads for short work."""

    def ask(_: int) -> int:
        url = f"{server.url}/predictions/colours"
        return requests.post(url, data=picture() + bytes(60_000), timeout=20).status_code

    with ThreadPoolExecutor(5) as pool:
        big = [pool.submit(ask, number) for number in range(5)]
        time.sleep(0.3)
        assert server.get("/model").status_code == 200
        assert sum(one.done() for one in big) <= 1
        assert [one.result() for one in big] == [200] * 5
