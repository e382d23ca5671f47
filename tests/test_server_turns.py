"""Whose a connection is, and what one turn of it can do to the others: real sockets, an intake that takes notes."""

import math
import socket
from collections.abc import Iterator

import pytest

from pupila.server.process.scoreboard import Board
from pupila.server.transport.admission import Intake
from pupila.server.transport.connection import Connection, Request
from pupila.server.transport.connections import READ, Pool
from pupila.server.transport.handoff import Door, Doors
from pupila.server.transport.reactor import Turns

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"


class Noting(Intake):
    """Hands requests to nobody, and notes them."""

    def __init__(self) -> None:
        self.requests: list[str] = []

    def begin(self, *_: object) -> bool:
        return True

    def reserve(self, *_: object) -> bool:
        return True

    def hand_over(self, connection: Connection, request: Request) -> None:
        connection.request = request
        self.requests.append(request.head.path)


class Room:
    """A pool with one connection, and its turns."""

    def __init__(self) -> None:
        board, self.doors = Board(1), Doors(1)
        self.pool = Pool(board.row(0), 60.0, 1000)
        self.turns = Turns(self.pool, Door(self.doors, 0, self.pool, board), 60.0, 10.0)
        self.intake = Noting()
        self.turns.start(self.intake)
        sock, self.client = socket.socketpair()
        self.pool.add(sock, "127.0.0.1")
        (self.connection,) = self.pool.open.values()

    def close(self) -> None:
        ends = [end for pair in self.doors.pairs for end in pair]
        for end in (*ends, self.client, self.connection, self.pool.selector):
            end.close()
        self.turns.wake_reader.close()
        self.turns.wake_writer.close()


@pytest.fixture
def room() -> Iterator[Room]:
    room = Room()
    yield room
    room.close()


def test_next_request_waits_until_the_connection_is_given_back_whatever_comes_meanwhile(room: Room) -> None:
    room.client.sendall(GET % 1)
    room.turns.take(1)
    room.client.sendall(GET % 2)
    for _ in range(3):
        room.turns.take(0)
    assert room.intake.requests == ["/1"]
    room.turns.post(room.connection)
    room.turns.take(0)
    assert room.intake.requests == ["/1", "/2"]


def test_client_that_closes_while_its_request_is_in_work_is_dropped_when_that_is_done(room: Room) -> None:
    room.client.sendall(GET % 1)
    room.turns.take(1)
    assert room.connection.request is not None
    room.connection.request.taken = True
    room.client.shutdown(socket.SHUT_WR)
    room.turns.take(1)
    assert room.connection in room.pool
    room.turns.post(room.connection)
    room.turns.take(0)
    assert room.connection not in room.pool


def test_client_that_ends_its_side_gets_answers_to_all_that_it_has_asked(room: Room) -> None:
    """As `nc -N` does: to end one's own side is not to be gone."""
    room.client.sendall(GET % 1 + GET % 2 + b"GET /never")
    room.client.shutdown(socket.SHUT_WR)
    for taken in (1, 2):
        for _ in range(3):  # whatever nobody works on yet is not dropped
            room.turns.take(0)
        assert room.intake.requests == ["/1", "/2"][:taken] and room.connection in room.pool
        room.turns.post(room.connection)
    room.turns.take(0)
    assert room.intake.requests == ["/1", "/2"] and room.connection not in room.pool


def test_client_that_ends_while_what_it_has_asked_waits_for_its_turn_gets_the_answer(room: Room) -> None:
    room.connection.buffer += GET % 1
    room.client.shutdown(socket.SHUT_WR)
    room.turns.take(1)
    assert room.intake.requests == ["/1"] and room.connection in room.pool


@pytest.mark.parametrize("begun", [b"", b"GET /1", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"])
def test_client_that_ends_before_its_request_is_complete_is_dropped(room: Room, begun: bytes) -> None:
    room.client.sendall(begun)
    room.client.shutdown(socket.SHUT_WR)
    for _ in range(2):
        room.turns.take(0)
    assert room.connection not in room.pool and not room.intake.requests


def test_response_that_is_being_written_is_not_sent_before_it_is_posted(room: Room) -> None:
    room.client.sendall(GET % 1)
    room.turns.take(1)
    room.connection.buffer += GET % 2
    room.turns.post(room.connection)
    room.client.sendall(GET % 3)
    for _ in range(3):
        room.turns.take(0)
    assert room.intake.requests == ["/1", "/2"]
    room.connection.out = b"what a thread has made"
    room.turns.take(0)
    room.client.setblocking(False)
    with pytest.raises(BlockingIOError):
        room.client.recv(1)
    room.turns.post(room.connection)
    room.turns.take(0)
    assert room.client.recv(99) == b"what a thread has made"
    room.turns.take(0)
    assert room.intake.requests == ["/1", "/2", "/3"]


def test_requests_sent_at_once_are_taken_up_one_a_turn(room: Room) -> None:
    room.client.sendall(GET % 1 + GET % 2 + GET % 3)
    for taken in (1, 2, 3):
        room.turns.take(1)
        assert len(room.intake.requests) == taken
        room.turns.post(room.connection)


def test_turn_that_fails_costs_nobody_else_theirs(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError

    room.client.sendall(GET % 1)
    room.turns.due.append((fail, READ))
    room.turns.due.append((room.connection, READ))
    room.turns.take(math.inf)
    assert room.intake.requests == ["/1"] and "a turn has failed" in caplog.text
