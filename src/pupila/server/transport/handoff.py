"""Doors between workers: who has clearly more connections hands one to who has fewest. Knows sockets, but no HTTP.

Sharing new connections evenly is not enough: those of one worker may all end, and a worker that is started in another's
place finds every client connected elsewhere. A client notices nothing when its connection moves between two requests.
"""

import socket
from collections.abc import Iterator

from pupila.server.process.scoreboard import BEAT, WAITING, Board
from pupila.server.transport.connection import Connection
from pupila.server.transport.connections import READ, Pool
from pupila.server.transport.listener import EVEN, STEP_BACK

AWAKE = 0.1
"""Seconds since the last sign of life of a worker that is surely running."""
LONGEST = 256
"""Bytes of a client's address."""


class Doors:
    """One for each row of the board; whoever has the row takes what comes in. Made before the fork."""

    def __init__(self, rows: int) -> None:
        self.pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(rows)]
        for outside, inside in self.pairs:
            outside.setblocking(False)
            inside.setblocking(False)

    def inside(self, slot: int) -> socket.socket:
        """Return what can be read when something has come in."""
        return self.pairs[slot][1]

    def hand(self, slot: int, sock: socket.socket, address: str) -> bool:
        """Hand a client's socket to another worker, which has its own copy then; False if that has no room."""
        try:
            socket.send_fds(self.pairs[slot][0], [address.encode()], [sock.fileno()])
        except OSError:
            return False
        return True

    def taken(self, slot: int) -> Iterator[tuple[socket.socket, str]]:
        """Yield the sockets that have come in, and their clients' addresses."""
        while True:
            try:
                address, descriptors, _, _ = socket.recv_fds(self.inside(slot), LONGEST, 1)
            except OSError:  # no more
                return
            for descriptor in descriptors:
                yield socket.socket(fileno=descriptor), address.decode()

    def clear(self, slot: int) -> None:
        """Close what nobody has taken: its worker is gone."""
        for sock, _ in self.taken(slot):
            sock.close()


class Door:
    """One worker's; used by the loop."""

    def __init__(self, doors: Doors, slot: int, pool: Pool, board: Board) -> None:
        self.doors = doors
        self.slot = slot
        self.pool = pool
        self.board = board
        self.next_look = 0.0
        pool.selector.register(doors.inside(slot), READ, self.take)

    def take(self) -> None:
        """Take the connections that others have handed over."""
        for sock, address in self.doors.taken(self.slot):
            self.pool.add(sock, address)

    def hand_over(self, connection: Connection, now: float) -> None:
        """Hand a connection between two requests to another worker, if that one has at least two fewer.

        At most one in STEP_BACK seconds: it may take so long until it shows on the board. And only to one that has just
        shown a sign of life, and keeps nobody waiting: what is handed to a worker that hangs is lost with it.
        """
        if now < self.next_look or connection.scheme == "https":  # what TLS has agreed on cannot be handed over
            return
        self.next_look = now + STEP_BACK
        fewest, slot = self.board.least_busy()
        if len(self.pool) < max(fewest + 2, EVEN * fewest):
            return
        row = self.board.row(slot)
        if now - row[BEAT] > AWAKE or row[WAITING]:
            return
        if self.doors.hand(slot, connection.sock, connection.peer):
            self.pool.drop(connection)
