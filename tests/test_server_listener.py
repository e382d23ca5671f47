"""New connections are shared evenly: who has more leaves them for a moment to who has fewer."""

import socket
import time
from collections.abc import Iterator

import pytest

from pupila.server.board import BEAT, CONNECTIONS, READY, Board
from pupila.server.listener import Listener
from pupila.server.pool import Pool

ALL = 3


@pytest.fixture
def board() -> Board:
    """Return a board with another worker, who is alive for the time of a test."""
    board = Board(2)
    board.row(1)[READY], board.row(1)[BEAT] = 1.0, time.monotonic() + 600
    return board


@pytest.fixture
def listener(board: Board) -> Iterator[Listener]:
    """Yield a listener to which three clients have connected."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        clients = [socket.create_connection(sock.getsockname()) for _ in range(ALL)]
        pool = Pool(board.row(0), 60.0, 1000)
        yield Listener(sock, pool, board, 10)
        [end.close() for end in (*clients, *pool.open.values(), pool.selector)]


def test_second_connection_is_left_to_a_worker_that_has_none(listener: Listener) -> None:
    listener.watch(time.monotonic())
    listener.accept()
    assert len(listener.pool) == 1
    listener.watch(listener.away_until - 0.01)
    assert not listener.watched


def test_rest_is_taken_once_the_other_has_caught_up(listener: Listener, board: Board) -> None:
    listener.accept()
    board.row(1)[CONNECTIONS] = 3
    listener.watch(listener.away_until - 0.01)
    assert listener.watched
    listener.accept()
    assert len(listener.pool) == ALL


def test_all_is_taken_at_last_though_the_other_takes_none(listener: Listener) -> None:
    limit = time.monotonic() + 60
    while len(listener.pool) < ALL and time.monotonic() < limit:
        listener.accept()
    assert len(listener.pool) == ALL


def test_all_is_taken_by_a_worker_that_drains(listener: Listener) -> None:
    listener.watch(time.monotonic())
    listener.take_all()
    listener.close(time.monotonic())
    assert len(listener.pool) == ALL and not listener.watched
