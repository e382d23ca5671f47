"""Clients that mean harm, at a real server: they cost themselves, and others are answered as if they were not there."""

import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator

import pytest
from server_kit import Running, picture, serving, wait_until, write_model

GET = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yield a server with one worker, so that every client meets the same one."""
    folder = tmp_path_factory.mktemp("server")
    with serving(write_model(folder / "colours.onnx"), folder / "log", '{"port": 0, "workers": 1}') as running:
        yield running


def connect(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), 30)


def gauge(server: Running, name: str) -> float:
    """Return one of the server's gauges."""
    found = re.search(rf"(?m)^{name} (\S+)$", server.get("/metrics").text)
    return float(found[1]) if found else 0.0


def answer(sock: socket.socket) -> bytes:
    """Return the first answer's beginning, or nothing if the connection ends without one."""
    try:
        return sock.recv(65536)
    except OSError:
        return b""


class Flood(threading.Thread):
    """Sends one blob, and counts how many answers come."""

    def __init__(self, server: Running, blob: bytes) -> None:
        super().__init__(daemon=True)
        self.sock = connect(server)
        self.answers = 0
        self.started = threading.Event()
        self.start()
        self.sender = threading.Thread(target=self.send, args=(blob,), daemon=True)
        self.sender.start()

    def send(self, blob: bytes) -> None:
        with contextlib.suppress(OSError):  # closed by the test, which has seen enough
            self.sock.sendall(blob)

    def run(self) -> None:
        while received := answer(self.sock):
            self.answers += received.count(b"HTTP/1.1 200")
            self.started.set()

    def stop(self) -> None:
        with contextlib.suppress(OSError):  # closed by the server
            self.sock.shutdown(socket.SHUT_RDWR)
        self.join(30)
        self.sender.join(30)
        self.sock.close()


def test_thousands_of_requests_sent_at_once_are_answered_in_turn_with_those_of_others(server: Running) -> None:
    flood = Flood(server, GET % b"/metrics" * 6000)
    assert flood.started.wait(30)
    workers = server.workers()
    assert server.predict(picture()).status_code == 200
    assert server.get("/readyz").status_code == 200
    assert flood.answers < 3000
    flood.stop()
    assert server.workers() == workers


def test_requests_sent_at_once_are_all_answered_in_order(server: Running) -> None:
    with connect(server) as sock:
        paths = [b"/healthz", b"/readyz", b"/nowhere"] * 40
        sock.sendall(b"".join(GET % path for path in paths) + b"GET / HTTP/1.0\r\n\r\n")
        received = b""
        while part := answer(sock):
            received += part
    codes = [int(piece[:3]) for piece in received.split(b"HTTP/1.1 ")[1:]]
    assert codes == [200, 200, 404] * 40 + [200]


def test_body_in_chunks_of_one_byte_is_refused(server: Running) -> None:
    with connect(server) as sock:
        sock.sendall(CHUNKED + b"1\r\nx\r\n" * 30_000)
        assert answer(sock).startswith(b"HTTP/1.1 400")


def test_body_in_many_small_chunks_is_read_over_many_turns(server: Running) -> None:
    data = picture() + bytes(80_000)
    with connect(server) as sock:
        pieces = (data[at : at + 8] for at in range(0, len(data), 8))
        sock.sendall(CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n")
        head, _, body = answer(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    assert json.loads(body)["predictions"][0]["category"] == "red"


MEBIBYTE = 2**20
LIMITS = {"port": 0, "workers": 1, "max_body_bytes": MEBIBYTE, "max_buffered_bytes": 4 * MEBIBYTE}
UPLOAD = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % MEBIBYTE


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yield a server with memory for four of its largest bodies."""
    folder = tmp_path_factory.mktemp("narrow")
    with serving(write_model(folder / "colours.onnx"), folder / "log", json.dumps(LIMITS)) as running:
        yield running


@contextlib.contextmanager
def uploads(server: Running, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """Begin so many uploads and send so much of each; the server has read it all when the block begins."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(server)) for _ in range(count)]
        for sock in socks:
            sock.sendall(UPLOAD + sent)
        wait_until(lambda: gauge(server, "pupila_connections") >= count)
        assert server.predict(picture()).status_code == 200  # small, and read after what was there before
        yield socks


def test_who_announces_much_and_sends_little_leaves_room_for_others(narrow: Running) -> None:
    with uploads(narrow, 40, b"x"):
        assert narrow.predict(picture() + bytes(100_000)).status_code == 200


def test_uploads_that_have_come_half_way_end_and_the_next_one_is_told_to_come_back(narrow: Running) -> None:
    data = picture() + bytes(MEBIBYTE - len(picture()))
    half = 3 * MEBIBYTE // 4
    with uploads(narrow, 4, data[:half]) as socks:
        wait_until(lambda: narrow.predict(picture() + bytes(100_000)).status_code == 503)
        for sock in socks:
            sock.sendall(data[half:])
        assert [answer(sock)[:12] for sock in socks] == [b"HTTP/1.1 200"] * 4
    wait_until(lambda: narrow.predict(picture() + bytes(100_000)).status_code == 200)
