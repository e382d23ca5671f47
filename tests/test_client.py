"""The client against a real server, and against a peer that sends exactly what a test needs."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_kit import Running, picture, serving, write_model

from pupila.client import Client, multipart, part_of
from pupila.errors import ImageError, ServerError
from pupila.prediction import Choice, Prediction


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("server")
    with serving(write_model(folder / "colours.onnx"), folder / "log") as running:
        yield running


class Peer:
    """Answers one request after the other with the bytes that it was given, and notes when each came."""

    def __init__(self, *answers: bytes) -> None:
        self.times: list[float] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self.answer, args=(answers,))
        self.thread.start()

    def answer(self, answers: tuple[bytes, ...]) -> None:
        for answer in answers:
            sock, _ = self.listener.accept()
            with sock:
                received = b""
                while b"--\r\n" not in received and b"GET" not in received:
                    received += sock.recv(65536)
                self.times.append(time.monotonic())
                sock.sendall(answer)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join(10)
        self.listener.close()


def reply(status: int, body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n".encode() + body


GOOD = reply(200, b'{"predictions":[{"category":"red","category_index":0,"confidence":0.9}]}')
BUSY = b'{"error":{"code":"overloaded","message":"Too much to do.","parts":[]}}'


def test_pictures_are_answered_in_order_whatever_they_are_given_as(server: Running, tmp_path: Path) -> None:
    path = tmp_path / "blue.png"
    path.write_bytes(picture("blue"))
    with Client(server.url) as client:
        found = client.predict([picture("red"), path, str(path)], top=2)
        assert [answer.category for answer in found] == ["red", "blue", "blue"]
        assert found[0].top[0] == Choice("red", 0, found[0].confidence) and len(found[0].top) == 2
        assert client.ready()
        assert client.model()["name"] == "colours"


def test_bad_picture_is_raised_with_its_place(server: Running) -> None:
    with Client(server.url) as client, pytest.raises(ServerError) as caught:
        client.predict([picture(), b"text"])
    assert (caught.value.status, caught.value.code) == (415, "image_unrecognised")
    assert [part["index"] for part in caught.value.parts] == [1]


@pytest.mark.parametrize("key", ["secret\n", "secret key", "€"])
def test_key_that_no_header_can_carry_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ServerError) as caught:
        Client("http://127.0.0.1:1", key)
    assert (caught.value.code, "secret" in str(caught.value)) == ("bad_key", False)


def test_busy_server_is_asked_again_after_as_long_as_it_says() -> None:
    with Peer(reply(503, BUSY, "Retry-After: 1\r\n"), GOOD) as peer, Client(peer.url) as client:
        assert client.predict(b"x").category == "red"
    assert 0.9 < peer.times[1] - peer.times[0] < 30


@pytest.mark.parametrize("given", ["\u00b2", "1.5", "-1", "9" * 5000, "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_pause_that_is_no_number_of_seconds_is_one_second(given: str) -> None:
    busy = f"HTTP/1.1 503 X\r\nContent-Length: 0\r\nConnection: close\r\nRetry-After: {given}\r\n\r\n".encode("latin-1")
    with Peer(busy, GOOD) as peer, Client(peer.url) as client:
        assert client.predict(b"x").category == "red"
    assert 0.9 < peer.times[1] - peer.times[0] < 20


def test_busy_server_is_given_up_in_its_own_words() -> None:
    busy = reply(503, BUSY, "Retry-After: 0\r\n")
    with (
        Peer(busy, busy) as peer,
        Client(peer.url, retries=1) as client,
        pytest.raises(ServerError, match="Too much to do"),
    ):
        client.predict(b"x")


def test_dropped_connection_is_opened_again() -> None:
    with Peer(b"", GOOD) as peer, Client(peer.url) as client:
        assert client.predict(b"x").confidence == 0.9


def test_answer_that_is_not_json_is_an_error_with_the_status() -> None:
    with Peer(reply(502, b"<html>")) as peer, Client(peer.url) as client, pytest.raises(ServerError, match="502"):
        client.predict(b"x")


def test_answer_that_breaks_off_is_named() -> None:
    with Peer(GOOD[:-9]) as peer, Client(peer.url) as client, pytest.raises(ServerError, match="IncompleteRead"):
        client.predict(b"x")


def test_answer_without_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pupila.client.MAX_ANSWER", len(GOOD))
    endless = b"HTTP/1.1 200 X\r\n\r\n" + b" " * (len(GOOD) + 1)
    with Peer(GOOD, endless) as peer, Client(peer.url) as client:
        assert client.predict(b"x").category == "red"
        with pytest.raises(ServerError, match="the answer has over 0 MiB") as caught:
            client.predict(b"x")
    assert caught.value.code == "foreign_answer"


def test_unreachable_server_is_not_ready() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client:
        assert not client.ready()


def test_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(ServerError, match="http://127"):
        Client("127.0.0.1:3000")


@pytest.mark.parametrize("url", ["http://h/\u00fc", f"http://{'a' * 64}.example", "http://a..b"])
def test_address_that_no_request_can_carry_is_refused(url: str) -> None:
    """It was Python's UnicodeError, of its codec and of a label."""
    with pytest.raises(ServerError, match="is not an address") as caught:
        Client(url)
    assert caught.value.code == "bad_address"


def test_name_of_a_file_cannot_end_its_header(tmp_path: Path) -> None:
    path = tmp_path / 'a"\r\nb.png'
    path.write_bytes(picture())
    _, body = multipart([part_of(path, 0)])
    assert b'filename="a%22%0D%0Ab.png"\r\n\r\n' in body


def test_partial_answers_have_an_error_in_the_place_of_a_bad_picture(server: Running) -> None:
    with Client(server.url) as client:
        found = client.predict([picture("red"), b"text"], on_error="partial", explain=True)
        assert isinstance(found[0], Prediction) and found[0].explanation
        assert isinstance(found[1], ImageError) and found[1].code == "image_unrecognised"
        with pytest.raises(ValueError, match="'fail' or 'partial'"):
            client.predict([b""], on_error="ignore")


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (413, b"<html>nginx</html>", "proxy_refused"),
        (502, b"<html>nginx</html>", "proxy_failed"),
        (200, b"<html>Welcome</html>", "foreign_answer"),
        (404, b"[]", "foreign_answer"),
        (301, b"", "foreign_answer"),
        (200, b'{"status": "ok"}', "foreign_answer"),
        (200, b'{"predictions": [{"label": "red"}]}', "foreign_answer"),
        (200, b'{"predictions": ["red"]}', "foreign_answer"),
        (200, b'{"predictions": []}', "foreign_answer"),
        (200, b'{"predictions":[{"category":"red","category_index":0,"confidence":null}]}', "foreign_answer"),
        (200, b'{"predictions":[{"error":{"code":"odd","message":null}}]}', "foreign_answer"),
        (400, b'{"error": {"code": "odd", "message": ["a"]}}', "foreign_answer"),
        (400, b'{"error": {"message": null}}', "foreign_answer"),
        (200, b"[" * 100_000, "foreign_answer"),
    ],
)
def test_answers_of_others_than_pupila_are_explained(status: int, body: bytes, code: str) -> None:
    with (
        Peer(reply(status, body)) as peer,
        Client(peer.url, retries=0) as client,
        pytest.raises(ServerError) as caught,
    ):
        client.predict(b"x")
    assert (caught.value.status, caught.value.code) == (status, code)
