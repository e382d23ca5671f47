"""The open connections of one worker, and what the selector watches of each. Knows sockets, but not HTTP."""

import contextlib
import selectors
import socket
import time

from pupila.server.process.scoreboard import CONNECTIONS
from pupila.server.transport.connection import Connection
from pupila.server.transport.forwarded import NOBODY, UNIX, TrustedProxies
from pupila.server.transport.tls import Certificate

START = 0.05
"""Seconds that a client has for the first byte of a request before its connection may have to make room for another."""
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Pool:
    """Used by the loop's thread only."""

    def __init__(
        self,
        row: "memoryview[float]",
        idle: float,
        max_body: int,
        proxies: TrustedProxies = NOBODY,
        certificate: Certificate | None = None,
        max_half_heads: int = 128,
    ) -> None:
        self.proxies = proxies
        self.certificate = certificate
        """For TLS; None where clients speak plain HTTP."""
        self.max_half_heads = max_half_heads
        """Half-sent heads that one address may have."""
        self.half_heads: dict[str, dict[int, Connection]] = {}
        """By peer, the oldest first."""
        self.row = row
        self.max_body = max_body
        self.idle = idle
        self.selector = selectors.DefaultSelector()
        self.open: dict[int, Connection] = {}

    def __len__(self) -> int:
        return len(self.open)

    def __contains__(self, connection: Connection) -> bool:
        return self.open.get(connection.fd) is connection

    def accept(self, listener: socket.socket) -> bool:
        """Accept one connection; False if none waits. Raises OSError if there is no room for it in the system."""
        try:
            sock, address = listener.accept()
        except (BlockingIOError, ConnectionError):  # taken by another worker, or gone
            return False
        self.add(sock, str(address[0]) if address else UNIX)
        return True

    def add(self, sock: socket.socket, peer: str) -> None:
        """Make a client's socket one of the open connections."""
        sock.setblocking(False)
        connection = Connection(sock, peer, time.monotonic(), self.idle, self.max_body, self.proxies)
        if self.certificate is not None:
            connection.encrypt(self.certificate.current(), self.idle)
        self.open[connection.fd] = connection
        self.row[CONNECTIONS] = len(self.open)
        self.watch(connection, READ)

    def evict(self) -> bool:
        """Close one connection to make room for another; False if there is none that may be closed.

        First go those that were refused, then half-sent heads, then idle ones; of each the oldest, not before START.
        """
        now = time.monotonic()
        ranked = ((*rank_of(connection), connection.fd) for connection in self.open.values())
        rank, since, fd = min(ranked, default=(3, 0.0, 0))
        if rank == 3 or since > now - START:
            return False
        self.drop(self.open[fd])
        return True

    def head_begun(self, connection: Connection) -> None:
        """Note a half-sent head; where an address has more than its share, its oldest one is dropped.

        Proxies are excepted: they send for many.
        """
        mine = self.half_heads.setdefault(connection.peer, {})
        mine[connection.fd] = connection
        if len(mine) > self.max_half_heads and connection.peer != UNIX and not self.proxies.trusts(connection.peer):
            self.drop(next(iter(mine.values())))

    def head_ended(self, connection: Connection) -> None:
        """Note that a head is whole, or that its connection is gone."""
        mine = self.half_heads.get(connection.peer, {})
        if mine.get(connection.fd) is connection:
            del mine[connection.fd]
            if not mine:
                del self.half_heads[connection.peer]

    def settle(self, connection: Connection) -> None:
        """Bring a connection into the state that it should be in: sending, closing, lingering or reading.

        One whose client has ended is not watched: it could only be told that again.
        """
        if connection.out and not connection.send(b""):
            self.drop(connection)
        elif connection.out:
            self.watch(connection, WRITE)
        elif connection.closing and not connection.lingers:
            self.drop(connection)
        elif connection.closing:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_WR)
            self.watch(connection, READ)
        else:
            self.watch(connection, 0 if connection.ended else READ)

    def watch(self, connection: Connection, events: int) -> None:
        """Have the selector report these events of a connection, and no others."""
        if events == connection.watched:
            return
        if not connection.watched:
            self.selector.register(connection.sock, events, connection)
        elif not events:
            self.selector.unregister(connection.sock)
        else:
            self.selector.modify(connection.sock, events, connection)
        connection.watched = events

    def drop(self, connection: Connection) -> None:
        """Close a connection and forget it."""
        self.watch(connection, 0)
        self.head_ended(connection)
        if connection in self:  # and not another one that has its number by now
            del self.open[connection.fd]
        self.row[CONNECTIONS] = len(self.open)
        connection.close()

    def body_bytes(self) -> int:
        """Return the memory that is reserved for bodies."""
        return sum(connection.body_bytes for connection in self.open.values())


def rank_of(connection: Connection) -> tuple[int, float]:
    """Return in which order connections are closed to make room, and since when each could be.

    0 is one that was refused, 1 a half-sent head, 2 an idle one, and 3 any other, which stays.
    """
    if connection.lingers:
        return 0, 0.0
    if connection.in_head:
        return 1, connection.started
    return (2, connection.since) if connection.fresh else (3, 0.0)
