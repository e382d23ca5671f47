"""New connections are shared evenly: who has more leaves them for a moment to who has fewer."""

import resource
import socket
import time
from collections.abc import Iterator

import pytest

from pupila.server.process.scoreboard import CONNECTIONS, HEARTBEAT, READY, Scoreboard
from pupila.server.transport import admission
from pupila.server.transport.admission import STEP_BACK, Listener
from pupila.server.transport.connection import START, ConnectionTable

ALL = 3
FLOOD = 700


@pytest.fixture
def scoreboard() -> Scoreboard:
    """Return a scoreboard with another worker, who is alive for the time of a test."""
    scoreboard = Scoreboard(2)
    scoreboard.row(1)[READY], scoreboard.row(1)[HEARTBEAT] = 1.0, time.monotonic() + 600
    return scoreboard


@pytest.fixture
def listener(scoreboard: Scoreboard) -> Iterator[Listener]:
    """Yield a listener to which three clients have connected."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        clients = [socket.create_connection(sock.getsockname()) for _ in range(ALL)]
        pool = ConnectionTable(scoreboard.row(0), 60.0, 1000)
        yield Listener(sock, pool, scoreboard, 10)
        [end.close() for end in (*clients, *pool.open.values(), pool.selector)]


def test_second_connection_is_left_to_a_worker_that_has_none(listener: Listener) -> None:
    listener.watch(time.monotonic())
    listener.accept()
    assert len(listener.pool) == 1
    listener.watch(listener.away_until - 0.01)
    assert not listener.watched


def test_rest_is_taken_once_the_other_has_caught_up(listener: Listener, scoreboard: Scoreboard) -> None:
    listener.accept()
    scoreboard.row(1)[CONNECTIONS] = 3
    listener.watch(listener.away_until - 0.01)
    assert listener.watched
    listener.accept()
    assert len(listener.pool) == ALL


def test_all_is_taken_at_last_though_the_other_takes_none(listener: Listener) -> None:
    limit = time.monotonic() + 60
    while len(listener.pool) < ALL and time.monotonic() < limit:
        listener.accept()
    assert len(listener.pool) == ALL


def test_flood_of_connections_is_taken_in_short_stretches(
    scoreboard: Scoreboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of too many each takes another's place; a heartbeat has to come in between."""
    monkeypatch.setattr(admission, "ACCEPT_SECONDS", 0.002)  # in which no machine takes all
    scoreboard.row(1)[CONNECTIONS] = 10**6
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], min(4096, limits[1])), limits[1]))
    clients: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=FLOOD) as sock:
        sock.setblocking(False)
        pool = ConnectionTable(scoreboard.row(0), 60.0, 1000)
        listener = Listener(sock, pool, scoreboard, FLOOD)
        clients += [socket.create_connection(sock.getsockname()) for _ in range(FLOOD)]
        listener.take_all()
        time.sleep(2 * START)
        clients += [socket.create_connection(sock.getsockname()) for _ in range(FLOOD - 100)]
        listener.accept()
        sock.accept()[0].close()  # raises BlockingIOError if all were taken at once
        assert len(pool) == FLOOD
        [end.close() for end in (*clients, *pool.open.values(), pool.selector)]
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_client_connects_again_if_another_worker_has_two_fewer(listener: Listener, scoreboard: Scoreboard) -> None:
    listener.take_all()
    for theirs, now, expected in ((2, 1.0, False), (1, 2.0, True), (1, 2.0 + STEP_BACK / 2, False), (1, 3.0, True)):
        scoreboard.row(1)[CONNECTIONS] = theirs
        assert listener.sheds(now) is expected
    scoreboard.row(1)[READY] = 0.0
    assert not listener.sheds(4.0)  # there is nobody who would take it


def test_all_is_taken_by_a_worker_that_drains(listener: Listener) -> None:
    listener.watch(time.monotonic())
    listener.take_all()
    listener.close(time.monotonic())
    assert len(listener.pool) == ALL and not listener.watched
