"""Whose a connection is, and what one of them can do to the others: real sockets, an admission that takes notes."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pupila.server.api.auth import Access, new_key
from pupila.server.process.scoreboard import Scoreboard
from pupila.server.transport.admission import AdmissionControl
from pupila.server.transport.connection import READ, WRITE, Connection, ConnectionTable, Request
from pupila.server.transport.event_loop import Reactor

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"


class Noting(AdmissionControl):
    """Hands requests to nobody, and notes them."""

    def __init__(self) -> None:
        self.requests: list[str] = []

    def begin(self, *_: object) -> bool:
        return True

    def reserve(self, *_: object) -> bool:
        return True

    def dispatch(self, connection: Connection, request: Request) -> None:
        connection.request = request
        self.requests.append(request.head.path)


class Fixture:
    """A pool with one connection, and its turns."""

    def __init__(self) -> None:
        self.pool = ConnectionTable(Scoreboard(1).row(0), 60.0, 1000)
        self.reactor = Reactor(self.pool, 60.0, 10.0)
        self.admission = Noting()
        self.reactor.start(self.admission)
        sock, self.client = socket.socketpair()
        self.pool.add(sock, "127.0.0.1")
        (self.connection,) = self.pool.open.values()

    def close(self) -> None:
        for end in (self.client, self.connection, self.pool.selector):
            end.close()
        self.reactor.wake_reader.close()
        self.reactor.wake_writer.close()


@pytest.fixture
def loop() -> Iterator[Fixture]:
    loop = Fixture()
    yield loop
    loop.close()


def test_next_request_waits_until_the_connection_is_given_back_whatever_comes_meanwhile(loop: Fixture) -> None:
    loop.client.sendall(GET % 1)
    loop.reactor.take(1)
    loop.client.sendall(GET % 2)
    for _ in range(3):
        loop.reactor.take(0)
    assert loop.admission.requests == ["/1"]
    loop.reactor.post(loop.connection)
    loop.reactor.take(0)
    assert loop.admission.requests == ["/1", "/2"]


def test_client_that_closes_while_its_request_is_in_work_is_dropped_when_that_is_done(loop: Fixture) -> None:
    loop.client.sendall(GET % 1)
    loop.reactor.take(1)
    assert loop.connection.request is not None
    loop.connection.request.taken = True
    loop.client.shutdown(socket.SHUT_WR)
    loop.reactor.take(1)
    assert loop.connection in loop.pool
    loop.reactor.post(loop.connection)
    loop.reactor.take(0)
    assert loop.connection not in loop.pool


def test_client_that_ends_its_side_gets_answers_to_all_that_it_has_asked(loop: Fixture) -> None:
    """As `nc -N` does: to end one's own side is not to be gone."""
    loop.client.sendall(GET % 1 + GET % 2 + b"GET /never")
    loop.client.shutdown(socket.SHUT_WR)
    for taken in (1, 2):
        for _ in range(3):  # whatever nobody works on yet is not dropped
            loop.reactor.take(0)
        assert loop.admission.requests == ["/1", "/2"][:taken] and loop.connection in loop.pool
        loop.reactor.post(loop.connection)
    loop.reactor.take(0)
    assert loop.admission.requests == ["/1", "/2"] and loop.connection not in loop.pool


def test_client_that_ends_while_what_it_has_asked_waits_for_its_turn_gets_the_answer(loop: Fixture) -> None:
    loop.connection.buffer += GET % 1
    loop.client.shutdown(socket.SHUT_WR)
    loop.reactor.take(1)
    assert loop.admission.requests == ["/1"] and loop.connection in loop.pool


@pytest.mark.parametrize("begun", [b"", b"GET /1", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"])
def test_client_that_ends_before_its_request_is_complete_is_dropped(loop: Fixture, begun: bytes) -> None:
    loop.client.sendall(begun)
    loop.client.shutdown(socket.SHUT_WR)
    for _ in range(2):
        loop.reactor.take(0)
    assert loop.connection not in loop.pool and not loop.admission.requests


def test_response_that_is_being_written_is_not_sent_before_it_is_posted(loop: Fixture) -> None:
    loop.client.sendall(GET % 1)
    loop.reactor.take(1)
    loop.connection.buffer += GET % 2
    loop.reactor.post(loop.connection)
    loop.client.sendall(GET % 3)
    for _ in range(3):
        loop.reactor.take(0)
    assert loop.admission.requests == ["/1", "/2"]
    loop.connection.out = b"what a thread has made"
    loop.reactor.take(0)
    loop.client.setblocking(False)
    with pytest.raises(BlockingIOError):
        loop.client.recv(1)
    loop.reactor.post(loop.connection)
    loop.reactor.take(0)
    assert loop.client.recv(99) == b"what a thread has made"
    loop.reactor.take(0)
    assert loop.admission.requests == ["/1", "/2", "/3"]


def test_requests_sent_at_once_are_taken_up_one_a_turn(loop: Fixture) -> None:
    loop.client.sendall(GET % 1 + GET % 2 + GET % 3)
    for taken in (1, 2, 3):
        loop.reactor.take(1)
        assert len(loop.admission.requests) == taken
        loop.reactor.post(loop.connection)


def test_turn_that_fails_costs_nobody_else_theirs(loop: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError

    loop.client.sendall(GET % 1)
    loop.reactor.dispatch(fail, READ)
    loop.reactor.take(1)
    assert loop.admission.requests == ["/1"] and "a dispatch has failed" in caplog.text


def added(loop: Fixture, peer: str) -> tuple[Connection, socket.socket]:
    sock, client = socket.socketpair()
    loop.pool.add(sock, peer)
    return loop.pool.open[sock.fileno()], client


def test_address_with_many_connections_has_one_turn_where_others_have_one(loop: Fixture) -> None:
    crowd = [added(loop, "10.0.0.1") for _ in range(20)]
    for number in (1, 2):
        for _, client in crowd:
            client.sendall(GET % number)
    loop.reactor.take(0)
    other, client = added(loop, "10.0.0.2")
    for connection, _ in crowd:
        loop.reactor.post(connection)
    client.sendall(GET % 7)
    loop.admission.requests.clear()
    loop.reactor.take(0)
    assert loop.admission.requests.index("/7") <= 2 < len(loop.admission.requests)
    for connection, end in [*crowd, (other, client)]:
        loop.pool.drop(connection)
        end.close()


def test_key_has_turns_of_its_own_beside_those_of_its_address(loop: Fixture) -> None:
    first, client = added(loop, "10.0.0.1")
    second, other = added(loop, "10.0.0.1")
    assert first.line == second.line
    second.access = Access(new_key("ann")[1])
    assert first.line != second.line
    for connection, end in ((first, client), (second, other)):
        loop.pool.drop(connection)
        end.close()


def test_answer_that_a_thread_may_be_sending_is_left_to_it(loop: Fixture) -> None:
    """A client that asked too often got parts of its answer twice, as the loop sent them, too."""
    loop.client.sendall(GET % 1)
    loop.reactor.take(1)
    loop.client.sendall(GET % 2)
    loop.connection.out = b"an answer"
    loop.reactor.put_in_line(loop.connection, WRITE)
    loop.reactor.take(1)
    assert loop.connection.out == b"an answer" and loop.connection.watched == READ
    loop.reactor.take(1)
    assert loop.connection.buffer and loop.admission.requests == ["/1"]


class Pieces(socket.socket):
    """Takes 16 KiB at a time, as TLS does, and sends them nowhere."""

    def send(self, data: Any, _: int = 0, /) -> int:
        return min(len(memoryview(data)), 16 * 1024)


def test_long_answer_is_copied_once_however_small_the_pieces() -> None:
    """What was left was copied for each: 20 MB stopped the loop for a second."""
    with Pieces() as sock:
        connection = Connection(sock, "10.0.0.1", 0.0, 60.0, 1000)
        connection.out = bytes(20 * 2**20)
        begun = time.process_time()
        assert connection.send(b"the end") and not connection.out
        assert time.process_time() - begun < 0.2


class Sips(socket.socket):
    """Takes 16 KiB and then nothing, as a client that reads little at a time has it."""

    is_full = True

    def send(self, data: Any, _: int = 0, /) -> int:
        self.is_full = not self.is_full
        if self.is_full:
            raise BlockingIOError
        return min(len(memoryview(data)), 16 * 1024)


def test_long_answer_that_is_read_in_sips_is_copied_once() -> None:
    """All that was left was copied at each of them: 20 MB took the loop six seconds."""
    with Sips() as sock:
        connection = Connection(sock, "10.0.0.1", 0.0, 60.0, 1000)
        connection.out = bytes(20 * 2**20)
        begun, sips = time.process_time(), 0
        while connection.out:
            assert connection.send(b"")
            sips += 1
            assert len(connection.out) <= 2 * max(0, 20 * 2**20 - sips * 16 * 1024)
        assert sips == 1280 and time.process_time() - begun < 0.2
