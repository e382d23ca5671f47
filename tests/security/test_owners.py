"""What is kept belongs to the key that sent it: a real server, and clients that claim what is not so."""

import contextlib
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from server_kit import COLOURS, Running, picture, serving, wait_until, write_model

from pupila.feedback import Answered, Store
from pupila.feedback.store import SAME_REQUEST
from pupila.server import Settings
from pupila.server.api.auth import digest_of
from pupila.server.api.feedback_writer import Collector, mark_of
from pupila.server.process.scoreboard import MARKS

LINES = [
    f"anna:{digest_of('anna')}:scope=predict,feedback",
    f"ben:{digest_of('ben')}",
    f"rita:{digest_of('rita')}:scope=review",
    f"eye:{digest_of('eye')}:scope=predict",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "colours.onnx")


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[Running]:
    settings = {"port": 0, "workers": 1, "feedback_dir": str(tmp_path / "kept"), "api_keys": LINES}
    with serving(model, tmp_path / "log", json.dumps(settings)) as running:
        yield running


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server without keys keeps."""
    return tmp_path_factory.mktemp("keyless") / "kept"


@pytest.fixture(scope="module")
def keyless(model: Path, kept: Path) -> Iterator[Running]:
    settings = {"port": 0, "workers": 1, "feedback_dir": str(kept)}
    with serving(model, kept.with_name("log"), json.dumps(settings)) as running:
        yield running


def ask(server: Running, who: str, method: str, path: str, **options: object) -> requests.Response:
    headers = {"Authorization": f"Bearer {who}"} if who else {}
    headers |= options.pop("headers", {})  # type: ignore[arg-type]
    return requests.request(method, server.url + path, headers=headers, timeout=20, **options)  # type: ignore[arg-type]


def send(server: Running, who: str, colour: str, name: str = "", side: int = 40, **headers: str) -> str:
    """Send a picture; return its request's id."""
    given = {"X-Request-Id": name} if name else {}
    files = {"file": picture(colour, size=(side, 33))}
    answer = ask(server, who, "POST", "/predict", files=files, headers={**given, **headers})
    assert answer.status_code == 200, answer.text
    return answer.headers["X-Request-Id"]


def listed(server: Running, who: str) -> list[dict[str, object]]:
    found = [ask(server, who, "GET", f"/review/pictures?show={show}").json() for show in ("uncertain", "corrected")]
    return [one for document in found for one in document["pictures"]]


def kept_by(server: Running, who: str, count: int) -> list[dict[str, object]]:
    """Wait until a key sees so many pictures; return them."""
    wait_until(lambda: len(listed(server, who)) >= count, 20)
    return listed(server, who)


def say(server: Running, who: str, category: str | None, **named: object) -> requests.Response:
    return ask(server, who, "POST", "/feedback", json={**named, "category": category})


def error(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_two_keys_do_not_see_label_or_delete_each_others_pictures(server: Running) -> None:
    named = {"request_id": send(server, "anna", "red"), "picture": 0}
    (own,) = kept_by(server, "anna", 1)
    path = f"/review/pictures/{own['id']}"
    assert listed(server, "ben") == []
    for answer in (ask(server, "ben", "GET", path), ask(server, "ben", "DELETE", path)):
        assert error(answer) == (404, "picture_unknown")
    assert error(say(server, "ben", "blue", id=own["id"])) == (404, "picture_unknown")
    assert error(say(server, "ben", "blue", **named)) == (404, "picture_unknown")
    assert ask(server, "ben", "GET", "/review/pictures").json()["kept"] == 0
    assert say(server, "anna", "green", **named).json()["answered"] == "red"
    assert ask(server, "anna", "GET", path).status_code == 200
    assert ask(server, "anna", "DELETE", path).json() == {"deleted": 1}
    assert error(ask(server, "anna", "GET", path)) == (404, "picture_unknown")


def test_reviewer_sees_labels_and_deletes_all_and_sends_none(server: Running) -> None:
    first, second = send(server, "anna", "red"), send(server, "ben", "blue", side=41)
    seen = {one["key"]: one for one in kept_by(server, "rita", 2)}
    assert seen.keys() == {"anna", "ben"}
    assert say(server, "rita", "green", id=seen["anna"]["id"]).json()["request_id"] == first
    assert say(server, "rita", "green", request_id=second, picture=0).status_code == 200
    assert ask(server, "rita", "DELETE", f"/review/pictures/{seen['ben']['id']}").json() == {"deleted": 1}
    assert error(ask(server, "rita", "POST", "/predict", data=picture())) == (403, "scope_missing")


def test_key_that_may_only_predict_reaches_nothing_that_is_kept(server: Running) -> None:
    named = send(server, "eye", "red")
    (kept,) = kept_by(server, "rita", 1)
    for answer in (
        say(server, "eye", "blue", request_id=named, picture=0),
        ask(server, "eye", "GET", "/review/pictures"),
        ask(server, "eye", "DELETE", f"/review/pictures/{kept['id']}"),
    ):
        assert error(answer) == (403, "scope_missing")


def test_same_request_id_sent_again_does_not_capture_a_correction(server: Running) -> None:
    for who, colour, side in (("anna", "red", 40), ("ben", "blue", 41), ("anna", "white", 42)):
        send(server, who, colour, "photo-1", side)
    pictures = kept_by(server, "rita", 3)
    assert say(server, "anna", "green", request_id="photo-1", picture=0).json()["answered"] == "red"
    assert [(one["category"], one["key"]) for one in listed(server, "rita") if one["corrected"]] == [("red", "anna")]
    assert error(say(server, "rita", "green", request_id="photo-1", picture=0)) == (409, "request_ambiguous")
    (bens,) = (one["id"] for one in pictures if one["key"] == "ben")
    assert say(server, "rita", "green", id=bens).json()["answered"] == "blue"


CLAIMS: dict[str, dict[str, str]] = {
    "nothing": {},
    "localhost": {"Host": "localhost"},
    "loopback": {"Host": "127.0.0.1:3000"},
    "forwarded": {
        "Forwarded": "for=127.0.0.1;host=localhost",
        "X-Forwarded-For": "127.0.0.1",
        "X-Real-IP": "127.0.0.1",
    },
    "own origin": {"Host": "localhost", "Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
    "a wrong key": {"Authorization": "Bearer admin"},
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_without_keys_nothing_kept_is_shown_whatever_a_request_claims(keyless: Running, claim: str) -> None:
    named = send(keyless, "", "red")
    stored = say(keyless, "", "blue", request_id=named, picture=0)
    assert stored.json() == {"request_id": named, "picture": 0, "category": "blue"}  # and not what was answered
    for method, path in (("GET", ""), ("GET", "/1"), ("DELETE", "/1")):
        answer = ask(keyless, "", method, f"/review/pictures{path}", headers=CLAIMS[claim])
        assert error(answer) == (403, "review_closed")
        assert "pupila feedback review" in answer.json()["error"]["message"]
    assert error(say(keyless, "", "red", id=1)) == (403, "review_closed")


def test_http_1_0_without_a_host_gets_what_strangers_get(keyless: Running) -> None:
    send(keyless, "", "red")
    with socket.create_connection(("127.0.0.1", keyless.port), 20) as client:
        client.sendall(b"GET /review/pictures HTTP/1.0\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 403 ")


def test_prefix_that_a_proxy_names_does_not_change_which_scope_is_needed(model: Path, tmp_path: Path) -> None:
    settings = {"port": 0, "workers": 1, "forwarded_allow": ["*"], "api_keys": LINES}
    with serving(model, tmp_path / "log", json.dumps(settings)) as server:
        for prefix in ("/predict", "/page", "/predict/x", "/predict%2Fx"):
            answer = ask(server, "eye", "GET", f"{prefix}/metrics", headers={"X-Forwarded-Prefix": prefix})
            assert b"pupila_" not in answer.content
            assert answer.status_code in (403, 404), (prefix, answer.status_code)


def test_key_that_has_used_a_request_id_often_hides_no_other_from_a_reviewer(model: Path, tmp_path: Path) -> None:
    """Of the first 100 answers all were its own: the reviewer's feedback went to its picture, without a word."""
    store = Store(tmp_path / "kept", create=True)
    for owner, count in (("anna", SAME_REQUEST), ("ben", 1)):
        pictures = [picture(list(COLOURS)[number % 3], size=(40, 33)) for number in range(count)]
        store.add([Answered("shared", 0, data, "red", 0.5, False, "m1", 1.0, owner) for data in pictures])
    store.add([Answered("hers", 0, picture("white"), "red", 0.5, False, "m1", 1.0, "anna")])
    settings = {"port": 0, "workers": 1, "feedback_dir": str(store.path), "api_keys": LINES}
    with serving(model, tmp_path / "log", json.dumps(settings)) as server:
        assert error(say(server, "rita", "blue", request_id="shared", picture=0)) == (409, "request_ambiguous")
        assert store.corrected() == []
        for who, named in (("rita", "hers"), ("ben", "shared")):
            assert say(server, who, "blue", request_id=named, picture=0).status_code == 200
    assert {one.owner for one in store.corrected()} == {"anna", "ben"}
    store.close()


FOREIGN = (
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "null"},
)


def test_picture_that_a_page_of_another_site_sends_is_answered_and_not_kept(keyless: Running, kept: Path) -> None:
    foreign = []
    for number, headers in enumerate(FOREIGN):
        foreign.append(send(keyless, "", "red", side=50 + number, **headers))
        named = {"request_id": "r", "picture": 0, "category": "red"}
        assert error(ask(keyless, "", "POST", "/feedback", json=named, headers=headers)) == (403, "cross_site")
    own = {"Origin": keyless.url, "Sec-Fetch-Site": "same-origin"}
    named = send(keyless, "", "blue", **own)
    wait_until(lambda: Store(kept).of_request(named, 0), 20)
    assert [Store(kept).of_request(one, 0) for one in foreign] == [[]] * len(FOREIGN)


def test_pictures_kept_without_keys_are_the_reviewers_once_there_are_keys(
    model: Path, tmp_path: Path, keyless: Running, kept: Path
) -> None:
    named = send(keyless, "", "red", side=60)
    wait_until(lambda: Store(kept).of_request(named, 0), 20)
    settings = {"port": 0, "workers": 1, "feedback_dir": str(kept), "api_keys": LINES}
    with serving(model, tmp_path / "log2", json.dumps(settings)) as server:
        assert listed(server, "anna") == []
        assert error(say(server, "anna", "blue", request_id=named, picture=0)) == (404, "picture_unknown")
        found = listed(server, "rita")
        assert named in [one["request_id"] for one in found]
        assert {one["key"] for one in found} == {None}


def test_one_command_serves_the_review_page_to_this_machine(model: Path, kept: Path, keyless: Running) -> None:
    named = send(keyless, "", "red", side=61)
    wait_until(lambda: Store(kept).of_request(named, 0), 20)
    command = [sys.executable, "-m", "pupila", "feedback", "review", str(kept), str(model), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = read_until(process, lambda text: "Listening on" in text)
            (url,) = re.findall(r"Listening on (http://\S+)", said)
            (key,) = re.findall(r"Ctrl-C: (\S+)", said)
            headers = {"X-API-Key": key}
            found = requests.get(f"{url}/review/pictures", headers=headers, timeout=20).json()["pictures"]
            assert named in [one["request_id"] for one in found]
            assert requests.get(f"{url}/review/pictures", timeout=20).status_code == 401
        finally:
            process.send_signal(signal.SIGINT)


def read_until(process: "subprocess.Popen[str]", condition: Callable[[str], bool]) -> str:
    """Return what a process prints until something is in it."""
    text, limit = "", time.monotonic() + 60
    assert process.stdout is not None
    while not condition(text):
        assert time.monotonic() < limit
        text += process.stdout.readline()
    return text


def test_worker_that_waits_for_the_disk_of_what_is_kept_stays(model: Path, tmp_path: Path) -> None:
    settings = {"port": 0, "workers": 1, "feedback_dir": str(tmp_path / "kept"), "api_keys": LINES}
    settings["request_timeout"] = 1.0
    with serving(model, tmp_path / "log", json.dumps(settings)) as server:
        name = send(server, "anna", "red")
        kept_by(server, "anna", 1)
        before = server.workers()
        with contextlib.closing(sqlite3.connect(tmp_path / "kept" / "feedback.sqlite")) as database:
            database.execute("BEGIN IMMEDIATE")
            assert say(server, "anna", "blue", request_id=name, picture=0).status_code == 504
            time.sleep(2.5)
        assert server.workers() == before and "long past" not in server.log.read_text()


def test_nobody_waits_for_the_picture_of_another_key(tmp_path: Path) -> None:
    """Its mark shows that it is about to be written, which here it never is."""
    collector = Collector(Settings(feedback_dir=tmp_path / "kept"))
    collector._row[MARKS] = mark_of("r", 0, "anna")
    for owner, waits in (("ben", False), ("", False), ("anna", True)):
        begun = time.monotonic()
        assert collector.find("r", 0, owner, begun + 0.5) == []
        assert (time.monotonic() - begun > 0.4) == waits
