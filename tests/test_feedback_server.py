"""A real server keeps the pictures that it answers, takes corrections, and shows the pictures to the right people."""

import contextlib
import http.client
import json
import random
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from server_kit import CLASSES, Running, encode, picture, serving, signal_worker, wait_until, write_model

from pupila.errors import ImageError
from pupila.feedback import Answered, Store
from pupila.feedback.store import SAME_PICTURE
from pupila.images.strip import Clean, clean
from pupila.prediction import Prediction
from pupila.predictor import Predictor
from pupila.server import Settings, create_app
from pupila.server.api.auth import ApiKey, digest_of
from pupila.server.api.feedback_writer import (
    DROPPED,
    KEPT,
    MARKS,
    PENDING,
    PLACES,
    QUEUE_BYTES,
    QUEUE_PICTURES,
    Collector,
    Waiting,
    mark_of,
    new_table,
)
from pupila.server.api.multipart import Part

ME = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    keys = [f"me:{digest_of('secret')}:scope=admin"]
    settings = json.dumps({"port": 0, "workers": 2, "feedback_dir": str(folder / "kept"), "api_keys": keys})
    with serving(write_model(folder / "colours.onnx"), folder / "log", settings) as running:
        running.headers = ME
        yield running
        assert "Traceback" not in running.log.read_text()


def feedback(server: Running, request_id: str, picture: int, category: str | None) -> requests.Response:
    body: dict[str, str | int | None] = {"request_id": request_id, "picture": picture, "category": category}
    return requests.post(f"{server.url}/feedback", json=body, headers=server.headers, timeout=20)


def error(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def review(server: Running, show: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = server.get(f"/review/pictures?show={show}&limit=200").json()["pictures"]
    return found


def test_correction_is_stored_and_seen_at_once_whichever_worker_is_asked(server: Running) -> None:
    for number in range(10):  # a new connection each: the workers take turns
        answer = server.predict(picture("red"), picture("blue", size=(40, 30 + number)))
        request_id = answer.headers["X-Request-Id"]
        stored = feedback(server, request_id, 1, "green")
        assert stored.status_code == 200, stored.text
        assert stored.json() == {"request_id": request_id, "picture": 1, "category": "green", "answered": "blue"}
        newest = review(server, "corrected")[0]
        assert (newest["request_id"], newest["picture"], newest["correction"]) == (request_id, 1, "green")


def test_place_is_counted_with_bad_pictures_in_the_request(server: Running) -> None:
    answer = server.predict(b"junk", picture("blue", size=(90, 90)), query="?on_error=partial")
    request_id = answer.headers["X-Request-Id"]
    assert error(feedback(server, request_id, 0, "blue")) == (404, "picture_unknown")
    assert feedback(server, request_id, 1, None).json()["answered"] == "blue"


def test_last_correction_wins_and_the_same_again_changes_nothing(server: Running) -> None:
    request_id = server.predict(picture("white", size=(33, 44))).headers["X-Request-Id"]
    for category in ("red", "green", "green"):
        assert feedback(server, request_id, 0, category).status_code == 200
    found = [entry["correction"] for entry in review(server, "corrected") if entry["request_id"] == request_id]
    assert found == ["green"]


def test_client_may_name_its_request(server: Running) -> None:
    files = {"file": picture("green", size=(34, 45))}
    requests.post(f"{server.url}/predict", files=files, headers={**ME, "X-Request-Id": "photo.17"}, timeout=20)
    assert feedback(server, "photo.17", 0, "green").status_code == 200


def test_kept_picture_is_shown_without_its_metadata(server: Running) -> None:
    exif = Image.Exif()
    exif[0x010E] = "Rua das Flores 1"
    data = encode(Image.new("RGB", (50, 40), (20, 20, 200)), "JPEG", exif=exif, comment=b"Flores")
    request_id = server.predict(data).headers["X-Request-Id"]
    feedback(server, request_id, 0, None)
    newest = review(server, "corrected")[0]
    shown = server.get(f"/review/pictures/{newest['id']}")
    assert shown.headers["Content-Type"] == "image/jpeg"
    assert shown.headers["X-Content-Type-Options"] == "nosniff"
    assert shown.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert b"Flores" not in shown.content
    assert error(server.get("/review/pictures/999999")) == (404, "picture_unknown")
    assert error(server.get(f"/review/pictures/{10**30}")) == (404, "picture_unknown")
    for number in ("9" * 5000, "seven", "%D9%A3"):
        assert error(server.get(f"/review/pictures/{number}")) == (404, "picture_unknown")


@pytest.mark.parametrize(
    ("body", "expected", "hint"),
    [
        ({"request_id": "r", "picture": 0, "category": "gren"}, "category_unknown", "Did you mean 'green'?"),
        ({"request_id": "r", "picture": 0, "category": ["\ud800"]}, "category_unknown", "GET /model"),
        ({"request_id": "r", "picture": 0}, "feedback_invalid", "category is missing"),
        ({"request_id": "r", "picture": 0, "categry": None, "x": 1}, "feedback_invalid", "did you mean 'category'?"),
        ({"request_id": "r", "picture": True, "category": None}, "feedback_invalid", "whole number"),
        ({"request_id": "r", "picture": -1, "category": None}, "feedback_invalid", "whole number"),
        ({"request_id": "r r", "picture": 0, "category": None}, "feedback_invalid", "X-Request-Id"),
        (["r"], "feedback_invalid", "not an object"),
        ({"id": [], "category": None}, "feedback_invalid", "id is not a whole number"),
        ({"id": None, "category": None}, "feedback_invalid", "id is not a whole number"),
        ({"id": 1, "picture": 0, "category": None}, "feedback_invalid", "no field 'picture'"),
    ],
)
def test_feedback_that_cannot_be_used_says_why(server: Running, body: Any, expected: str, hint: str) -> None:
    answer = requests.post(f"{server.url}/feedback", json=body, headers=ME, timeout=20)
    assert error(answer) == (400, expected)
    assert hint in answer.json()["error"]["message"]


def test_feedback_that_is_no_json_or_not_called_so_is_refused(server: Running) -> None:
    url = f"{server.url}/feedback"
    kind = {**ME, "Content-Type": "application/json"}
    assert error(requests.post(url, data=b"{", headers=kind, timeout=20)) == (400, "json_malformed")
    assert error(requests.post(url, data=b"[" * 50_000, headers=kind, timeout=20)) == (400, "json_malformed")
    assert error(requests.post(url, data=b"[" * 70_000, headers=kind, timeout=20)) == (413, "body_too_large")
    plain = requests.post(url, data=b"{}", headers={**ME, "Content-Type": "text/plain"}, timeout=20)
    assert error(plain) == (415, "content_type_unsupported")  # what a form of a foreign web page could send


def test_unknown_request_is_answered_without_waiting(server: Running) -> None:
    time.sleep(0.5)  # nothing is on its way any more
    begun = time.monotonic()
    assert error(feedback(server, "no-such-request", 0, "red")) == (404, "picture_unknown")
    assert time.monotonic() - begun < 1.5


@pytest.mark.parametrize("query", ["shw=corrected", "show=all", "limit=0", "limit=201", "limit=x", "offset=-1"])
def test_listing_with_a_typo_is_refused(server: Running, query: str) -> None:
    assert error(server.get(f"/review/pictures?{query}")) == (400, "query_invalid")


def test_listing_goes_on_where_it_ended(server: Running) -> None:
    server.predict(*[picture("red", size=(60 + side, 33)) for side in range(5)])
    while len(whole := review(server, "uncertain")) < 5:
        time.sleep(0.05)
    pages = [server.get(f"/review/pictures?limit=2&offset={at}").json()["pictures"] for at in (0, 2)]
    assert [*pages[0], *pages[1]] == whole[:4]


def test_many_clients_at_once_lose_nothing(server: Running) -> None:
    def one(number: int) -> int:
        while (answer := server.predict(picture("red", size=(40 + number, 77)))).status_code == 503:
            time.sleep(0.2)  # a busy machine may send clients away
        return feedback(server, answer.headers["X-Request-Id"], 0, CLASSES[number % 4]).status_code

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(60))) == [200] * 60
    limit = time.monotonic() + 30
    while (counts := collected(server))["kept"] < 60 and time.monotonic() < limit:
        time.sleep(0.05)  # a batch is counted a moment after it can be corrected
    assert counts["kept"] >= 60
    assert counts["dropped"] == 0


def collected(server: Running) -> dict[str, float]:
    found = re.findall(r'pupila_collected_total\{outcome="(\w+)"\} (\S+)', server.get("/metrics").text)
    return {outcome: float(count) for outcome, count in found}


def test_folder_is_the_owners_alone(server: Running, folder: Path) -> None:
    assert server.url
    assert stat.S_IMODE((folder / "kept").stat().st_mode) == 0o700


def test_worker_that_drains_writes_what_it_has_answered(tmp_path: Path) -> None:
    settings = json.dumps({"port": 0, "workers": 1, "feedback_dir": str(tmp_path / "kept")})
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server:
        server.predict(*[picture("red", size=(30 + side, 31)) for side in range(40)])
    assert Store(tmp_path / "kept").counts().pictures == 40


def test_new_worker_deletes_what_a_killed_one_has_left(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    settings = json.dumps({"port": 0, "workers": 1, "feedback_dir": str(kept)})
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server:
        request_id = server.predict(picture("red")).headers["X-Request-Id"]
        assert feedback(server, request_id, 0, "red").status_code == 200
        whole = set((kept / "pictures").iterdir())
        for name in (f"{'ab' * 32}.png", f".{'cd' * 32}.png"):
            (kept / "pictures" / name).write_bytes(picture("blue"))
        for pid in server.workers():
            signal_worker(pid, signal.SIGKILL)
        limit = time.monotonic() + 60
        while set((kept / "pictures").iterdir()) != whole and time.monotonic() < limit:
            time.sleep(0.05)
        assert set((kept / "pictures").iterdir()) == whole
        assert "2 files of an interrupted write are deleted" in server.log.read_text()


ANSWERS = ["/", "/page/main.js", "/review", "/review/pictures", "/card", "/model", "/healthz", "/readyz", "/metrics"]


@pytest.mark.parametrize("path", [*ANSWERS, "/openapi.json", "/predict", "/nothing", "/page/nothing.js"])
def test_no_header_of_an_answer_occurs_twice(server: Running, path: str) -> None:
    for method, body in (("GET", None), ("HEAD", None), ("OPTIONS", None), ("POST", b"{}")):
        check_headers(*exchange(server, path, method, body))
    _, headers = exchange(server, path)
    if etag := dict(headers).get("ETag"):
        status, headers = exchange(server, path, tag=etag)
        assert status == 304
        check_headers(status, headers)


def exchange(
    server: Running, path: str, method: str = "GET", body: bytes | None = None, tag: str = ""
) -> tuple[int, list[tuple[str, str]]]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request(method, path, body, {**server.headers, **({"If-None-Match": tag} if tag else {})})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheaders()


def check_headers(status: int, headers: list[tuple[str, str]]) -> None:
    names = [name.lower() for name, _ in headers]
    assert sorted(names) == sorted(set(names)), status
    assert "date" in names


def test_key_is_needed_for_feedback_and_pictures_but_not_for_the_page(tmp_path: Path) -> None:
    settings = Settings(feedback_dir=tmp_path / "kept", api_keys=(ApiKey("me", digest_of("secret")),))
    client = create_app(Predictor.load(write_model(tmp_path / "colours.onnx")), settings).test_client()
    assert client.post("/feedback", json={}).status_code == 401
    assert client.get("/review/pictures").status_code == 401
    assert client.get("/review/pictures/1").status_code == 401
    assert client.get("/review/pictures", headers={"X-API-Key": "secret"}).status_code == 200
    assert client.get("/review").status_code == 200


def test_server_that_keeps_nothing_says_so(tmp_path: Path) -> None:
    client = create_app(Predictor.load(write_model(tmp_path / "colours.onnx"))).test_client()
    for answer in (client.post("/feedback", json={}), client.get("/review/pictures")):
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (404, "feedback_off")
    assert "--feedback-dir" in answer.get_json()["error"]["message"]


def test_folder_that_cannot_be_used_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    model = write_model(tmp_path / "colours.onnx")
    settings = json.dumps({"port": 0, "workers": 1, "feedback_dir": str(tmp_path)})
    with (
        pytest.raises(AssertionError, match=r"SettingsError: --feedback-dir: .* holds other files"),
        serving(model, tmp_path.parent / "log", settings),
    ):
        pass


def test_disk_that_takes_nothing_costs_pictures_and_no_answers(tmp_path: Path) -> None:
    """Who may write anywhere, as root may, cannot be refused: so the database itself refuses."""
    settings = json.dumps({"port": 0, "workers": 1, "feedback_dir": str(tmp_path / "kept")})
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server:
        with contextlib.closing(sqlite3.connect(tmp_path / "kept" / "feedback.sqlite")) as database:
            full = "CREATE TRIGGER full BEFORE INSERT ON answers BEGIN SELECT RAISE(ABORT, 'disk full'); END"
            database.execute(full)
            database.commit()
        for number in range(5):
            answer = server.predict(picture("red", size=(40, 40 + number)))
            assert answer.status_code == 200
            assert error(feedback(server, answer.headers["X-Request-Id"], 0, "red")) == (404, "picture_unknown")
        with contextlib.closing(sqlite3.connect(tmp_path / "kept" / "feedback.sqlite")) as database:
            database.execute("DROP TRIGGER full")
            database.commit()
        answer = server.predict(picture("red", size=(41, 41)))
        assert feedback(server, answer.headers["X-Request-Id"], 0, "red").status_code == 200
        assert server.log.read_text().count("disk full") == 1


@pytest.mark.slow
def test_requests_made_up_from_openapi_find_no_fault(server: Running, tmp_path: Path) -> None:
    """All of schemathesis's checks but one: it believes that every request id is one that was answered."""
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{server.url}/openapi.json"]
    command += ["--max-examples", "4", "--seed", "1", "--exclude-checks", "positive_data_acceptance"]
    command += ["--include-path-regex", "^/(feedback|review)", "--header", "Authorization: Bearer secret"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=170, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stdout[-3000:]


class Slow(Store):
    """A store on a slow disk."""

    delay = 0.4

    def add(self, *args: Any, **options: Any) -> int:
        time.sleep(self.delay)
        return super().add(*args, **options)


def red(folder: Path) -> tuple[Part, Prediction]:
    """A picture and its answer."""
    predictor = Predictor.load(write_model(folder / "colours.onnx"))
    part = Part("", picture("red"))
    return part, predictor.predict(part.data)


def test_feedback_waits_for_a_picture_that_is_being_written_even_if_nothing_else_waits(tmp_path: Path) -> None:
    collector = Collector(Settings(feedback_dir=tmp_path / "kept"))
    collector._writer = Slow(tmp_path / "kept")
    part, answer = red(tmp_path)
    collector.offer("r", [part], [answer], "m1")
    time.sleep(0.1)  # the thread has taken it by now
    collector.offer("bad", [part], [ImageError("image_truncated", "cut off")], "m1")
    found = collector.find("r", 0, "", time.monotonic() + 60)
    assert len(found) == 1
    assert found[0].category == "red"
    collector.close()


def test_picture_whose_cleaning_fails_takes_no_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(data: bytes, *_: Any) -> Clean | None:
        if data == picture("blue"):
            raise TypeError("a fault of ours")
        return clean(data)

    monkeypatch.setattr("pupila.server.api.feedback_writer.clean", failing)
    collector = Collector(Settings(feedback_dir=tmp_path / "kept"))
    part, answer = red(tmp_path)
    collector.offer("r", [part, Part("", picture("blue")), part], [answer, answer, answer], "m1")
    assert len(collector.find("r", 0, "", time.monotonic() + 60)) == 1
    assert len(collector.find("r", 2, "", time.monotonic() + 60)) == 1
    assert not collector.find("r", 1, "", time.monotonic() + 60)
    collector.close()


def test_feedback_on_what_no_worker_is_about_to_write_does_not_wait(tmp_path: Path) -> None:
    table = new_table(2)
    one, other = (Collector(Settings(feedback_dir=tmp_path / "kept"), table, slot) for slot in (0, 1))
    one._writer = Slow(tmp_path / "kept")
    part, answer = red(tmp_path)
    one.offer("r", [part], [answer], "m1")
    assert table.holds(MARKS, mark_of("r", 0, ""))
    start = time.monotonic()
    assert other.find("never-given-out", 0, "", start + 60) == other.find("r", 1, "", start + 60) == []
    assert one._row[PENDING] == 1
    assert len(other.find("r", 0, "", time.monotonic() + 60)) == 1
    one.close()
    assert not any(one._row[MARKS:])


def test_names_of_what_waits_go_once_it_is_written_or_its_worker_is_gone(tmp_path: Path) -> None:
    table = new_table(1)
    table.row(0)[MARKS] = mark_of("lost", 0, "")
    collector = Collector(Settings(feedback_dir=tmp_path / "kept"), table)
    part, answer = red(tmp_path)
    for number in range(10):
        collector.offer(f"r{number}", [part] * 70, [answer] * 70, "m1")
        assert len(collector.find(f"r{number}", 69, "", time.monotonic() + 60)) == 1
    collector.close()
    assert not any(collector._row[MARKS:])


def test_queue_is_bounded_and_what_does_not_fit_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = new_table(1)
    table.row(0)[DROPPED] = 5  # by a worker that was killed, and of which this one does not know
    collector = Collector(Settings(feedback_dir=tmp_path / "kept"), table)
    collector._writer = slow = Slow(tmp_path / "kept")
    slow.delay = 0.02
    part, answer = red(tmp_path)
    collector.offer("many", [part] * 1000, [answer] * 1000, "m1")
    assert caplog.text.count("pictures come faster than they can be kept") == 1
    assert len(collector._waiting) <= QUEUE_PICTURES
    while collector._row[PENDING] > 0:
        time.sleep(0.05)
    assert collector._row[KEPT] <= QUEUE_PICTURES
    assert collector.store.counts().answers == min(collector._row[KEPT], SAME_PICTURE)
    assert collector._row[KEPT] + collector._row[DROPPED] == 1005
    collector.close()


def test_request_that_does_not_fit_wakes_a_writer_that_waits(tmp_path: Path) -> None:
    collector = Collector(Settings(feedback_dir=tmp_path / "kept"))
    part, answer = red(tmp_path)
    collector.offer("first", [part], [answer], "m1")
    assert wait_until(lambda: not collector._row[PENDING]) < 20
    huge = Part("", part.data + bytes(QUEUE_BYTES // 3))
    collector.offer("second", [huge] * 4, [answer] * 4, "m1")
    assert wait_until(lambda: not collector._row[PENDING]) < 20
    assert (collector._row[KEPT], collector._row[DROPPED]) == (3, 2)
    collector.close()


def test_writer_goes_on_where_a_name_is_missing_of_what_waits(tmp_path: Path) -> None:
    collector = Collector(Settings(feedback_dir=tmp_path / "kept"))
    collector._writer = Slow(tmp_path / "kept")
    part, answer = red(tmp_path)
    collector.offer("first", [part], [answer], "m1")
    with collector._changed:
        collector._row[MARKS : MARKS + PLACES] = memoryview(bytes(8 * PLACES)).cast("d")
    assert wait_until(lambda: collector._row[KEPT] == 1) < 20
    collector.offer("second", [part], [answer], "m1")
    assert wait_until(lambda: collector._row[KEPT] == 2) < 20
    collector.close()


def test_one_client_keeps_no_others_pictures_out(tmp_path: Path) -> None:
    table = new_table(1)
    collector = Collector(Settings(feedback_dir=tmp_path / "kept"), table)
    collector._writer = Slow(tmp_path / "kept")
    part, answer = red(tmp_path)
    huge = Part("", part.data + bytes(QUEUE_BYTES // 3))
    for number in range(3):
        collector.offer(f"many{number}", [part] * 300, [answer] * 300, "m1", "flood")
        collector.offer(f"huge{number}", [huge] * 4, [answer] * 4, "m1", "huge")
    collector.offer("one", [part], [answer], "m1", "anna")
    assert table.holds(MARKS, mark_of("one", 0, "anna"))
    assert [one.request for one in collector._waiting.queues["anna"]] == ["one"]
    assert len(collector._waiting) <= QUEUE_PICTURES and collector._waiting.bytes <= QUEUE_BYTES
    assert wait_until(lambda: collector.store.of_request("one", 0, "anna")) < 20
    with collector._changed:
        assert "flood" in collector._waiting.queues  # which came long before
    collector.close()


def waiting(line: str, size: int) -> Answered:
    return Answered("r", 0, bytes(size), "red", 0.5, False, "m1", 0.0, line=line)


def test_picture_that_finds_the_queue_full_costs_no_look_at_all_that_wait() -> None:
    """128 pictures onto 256 lines took 23 ms in the thread that computes."""
    queue, calls = Waiting(256, QUEUE_BYTES), 0
    for number in range(256):
        queue.add(waiting(f"line{number}", 10))

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        for _ in range(128):
            queue.add(waiting("one", 10))
    finally:
        sys.setprofile(None)
    assert len(queue) == 256
    assert calls < 20 * 128


def test_who_takes_most_room_gives_way_however_pictures_came_and_went() -> None:
    queue, draw = Waiting(20, 20_000), random.Random(7)
    for _ in range(2000):
        if draw.random() < 0.3 and len(queue):
            queue.next()
            continue
        most = {line: sum(max(1000, len(one.data)) for one in kept) for line, kept in queue.queues.items()}
        item = waiting(f"line{draw.randrange(6)}", draw.randrange(5000))
        most[item.line] = most.get(item.line, 0) + max(1000, len(item.data))
        for given in queue.add(item):
            assert most[given.line] == max(most.values())
            most[given.line] -= max(1000, len(given.data))
        assert len(queue) == sum(map(len, queue.queues.values())) <= 20
        assert queue.bytes == sum(len(one.data) for kept in queue.queues.values() for one in kept) <= 20_000


def test_without_keys_one_address_keeps_no_others_pictures_out(tmp_path: Path) -> None:
    collector = Collector(Settings(feedback_dir=tmp_path / "kept"))
    collector._writer = Slow(tmp_path / "kept")
    part, answer = red(tmp_path)
    for number in range(3):
        collector.offer(f"many{number}", [part] * 300, [answer] * 300, "m1", line="10.0.0.1")
    collector.offer("one", [Part("", picture("blue"))], [answer], "m1", line="10.0.0.2")
    assert collector.table.holds(MARKS, mark_of("one", 0, ""))
    assert wait_until(lambda: collector.store.of_request("one", 0, "")) < 20
    collector.close()


def test_what_comes_while_a_worker_ends_is_counted_and_blamed_on_no_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    collector = Collector(Settings(feedback_dir=tmp_path / "kept"))
    part, answer = red(tmp_path)
    collector.close()
    collector.offer("late", [part], [answer], "m1")
    assert collector._row[DROPPED] == 1
    assert caplog.text == ""


def test_corrections_over_http_keep_to_the_limit_while_nobody_sends_pictures(tmp_path: Path) -> None:
    store = Store(tmp_path / "kept", create=True)
    store.add(
        [
            Answered(f"r{i}", 0, encode(Image.new("RGB", (8 + i, 8)), "PNG"), "red", 0.5, False, "m1", 0.0)
            for i in range(20)
        ]
    )
    most = store.counts().bytes
    settings = Settings(feedback_dir=store.path, feedback_max_bytes=most)
    client = create_app(Predictor.load(write_model(tmp_path / "colours.onnx")), settings).test_client()
    for i in range(20):
        body = {"request_id": f"r{i}", "picture": 0, "category": "blue"}
        assert client.post("/feedback", json=body).status_code == 200
    assert [kept.request for kept in store.corrected()] == [f"r{i}" for i in range(19, 4, -1)]
    store.close()
