"""Where new connections come in: shared evenly among the workers, each of which takes its own. Knows no HTTP."""

import contextlib
import logging
import math
import socket
import time

from pupila.server.process.scoreboard import Board
from pupila.server.transport.connections import READ, START, Pool
from pupila.server.transport.watchdog import TICK

log = logging.getLogger("pupila.server")

STEP_BACK = 0.05
"""Seconds for which a worker leaves new connections to another that has fewer: it may be computing a batch."""
LOOK = 0.002
"""Seconds between two looks in that time whether the other has caught up."""
EVEN = 1.25
"""A worker with so many times the connections of another steps back: four are two and two, and many are soon taken."""
SILENCE = 60.0
"""Seconds between two log entries about connections that the system has no room for."""


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
        self.full_until = 0.0
        """Until when it takes none, as none of its connections could make room ..."""
        self.full_at = 0
        """... unless it has fewer than so many before that."""
        self.silent_until = -math.inf

    def watch(self, now: float, wanted: bool = True) -> None:
        """Have the selector report new connections, unless there shall be none or another worker should take them."""
        if now < self.away_until and not self.has_more():
            self.away_until = 0.0
        full = now < self.full_until and len(self.pool) >= self.full_at
        wanted = wanted and now >= self.away_until and not full
        if wanted and not self.watched:
            self.pool.selector.register(self.sock, READ, self.accept)
        elif self.watched and not wanted:
            self.pool.selector.unregister(self.sock)
        self.watched = wanted

    def patience(self, now: float, seconds: float) -> float:
        """Return how long the selector may wait, of so many seconds."""
        if now < self.away_until:
            return min(seconds, LOOK)
        return min(seconds, self.full_until - now) if now < self.full_until else seconds

    def has_more(self) -> bool:
        """Return whether another worker has clearly fewer connections."""
        return len(self.pool) > EVEN * self.board.fewest_connections()

    def accept(self) -> None:
        """Take the connections that wait, but give a worker that has fewer a start, once for each."""
        given = time.monotonic() < self.away_until + TICK
        while given or not self.has_more():
            self.away_until = 0.0
            try:
                if not self.has_room() or not self.pool.accept(self.sock):
                    return
            except OSError as error:
                if not self.pool.evict():
                    self.complain(error)
                    self.rest()
                    return
                continue
            given = False
        self.away_until = time.monotonic() + STEP_BACK

    def has_room(self) -> bool:
        """Return whether one more connection may be had; the one that has been idle longest makes room for it."""
        if len(self.pool) < self.most or self.pool.evict():
            return True
        self.rest()
        return False

    def rest(self) -> None:
        """Take nothing until there may be room: what waits would be reported again and again."""
        self.full_until, self.full_at = time.monotonic() + START, len(self.pool)

    def complain(self, error: OSError) -> None:
        """Log why clients have to wait, now and then."""
        now = time.monotonic()
        if now >= self.silent_until:
            self.silent_until = now + SILENCE
            log.error("new connections have to wait, since the system has no room for them: %s", error.strerror)

    def take_all(self) -> None:
        """Take what has been connected already: there is nobody else who could."""
        with contextlib.suppress(OSError):
            while self.pool.accept(self.sock):
                pass

    def close(self, now: float) -> None:
        """Take nothing more."""
        self.watch(now, wanted=False)
        self.sock.close()
