"""Where new connections come in: shared evenly among the workers, each of which takes its own. Knows no HTTP."""

import contextlib
import socket
import time

from pupila.server.board import Board
from pupila.server.clock import TICK
from pupila.server.pool import READ, Pool

STEP_BACK = 0.05
"""Seconds for which a worker leaves new connections to another that has fewer: it may be computing a batch."""
LOOK = 0.002
"""Seconds between two looks in that time whether the other has caught up."""
EVEN = 1.25
"""A worker with so many times the connections of another steps back: four are two and two, and many are soon taken."""


class Listener:
    """One worker's end of the socket that all workers listen on; used by the loop."""

    def __init__(self, sock: socket.socket, pool: Pool, board: Board, most: int) -> None:
        self.sock = sock
        self.pool = pool
        self.board = board
        self.most = most
        """Connections that this worker may have."""
        self.watched = False
        self.away_until = 0.0
        """Until when this worker steps back."""

    def watch(self, now: float, wanted: bool = True) -> None:
        """Have the selector report new connections, unless there shall be none or another worker should take them."""
        if now < self.away_until and len(self.pool) < self.most and not self.has_more():
            self.away_until = 0.0
        wanted = wanted and now >= self.away_until
        if wanted and not self.watched:
            self.pool.selector.register(self.sock, READ, self.accept)
        elif self.watched and not wanted:
            self.pool.selector.unregister(self.sock)
        self.watched = wanted

    def patience(self, now: float, seconds: float) -> float:
        """Return how long the selector may wait, of so many seconds."""
        return seconds if now >= self.away_until else min(seconds, LOOK)

    def has_more(self) -> bool:
        """Return whether another worker has clearly fewer connections."""
        return len(self.pool) > EVEN * self.board.fewest_connections()

    def accept(self) -> None:
        """Take the connections that wait, but give a worker that has fewer a start, once for each."""
        given = time.monotonic() < self.away_until + TICK
        while given or not self.has_more():
            if len(self.pool) >= self.most and not self.pool.evict():
                self.away_until = time.monotonic() + TICK
                return
            self.away_until = 0.0
            if not self.pool.accept(self.sock):
                return
            given = False
        self.away_until = time.monotonic() + STEP_BACK

    def take_all(self) -> None:
        """Take what has been connected already: there is nobody else who could."""
        with contextlib.suppress(OSError):
            while self.pool.accept(self.sock):
                pass

    def close(self, now: float) -> None:
        """Take nothing more."""
        self.watch(now, wanted=False)
        self.sock.close()
