"""Clients that mean harm, at a real server: they cost themselves, and others are answered as if they were not there."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator

import pytest
from server_kit import Running, picture, serving, write_model

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
