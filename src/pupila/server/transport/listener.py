"""The listening socket: binding, accepting evenly among the workers, and load balancing of open connections.

Accepting evenly is not enough: the connections of one worker may all end, and a worker that is started in another's
place finds every client connected elsewhere. So a worker with clearly more connections hands one over, between two
requests, to the worker that has fewest. Its client notices nothing.
"""

import contextlib
import errno
import logging
import math
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from pupila.errors import SettingsError
from pupila.server.addresses import UNIX
from pupila.server.process.scoreboard import HEARTBEAT, WAITING, Scoreboard
from pupila.server.settings import Settings
from pupila.server.transport.connection import READ, START, Connection, ConnectionTable

log = logging.getLogger("pupila.server")

TICK = 0.2
"""Seconds between two looks at the clock: how late a deadline may be noticed."""
STEP_BACK = 0.05
"""Seconds for which a worker leaves new connections to another that has fewer: it may be computing a batch."""
LOOK = 0.002
"""Seconds between two looks in that time whether the other has caught up."""
EVEN = 1.25
"""A worker with so many times the connections of another steps back: four are two and two, and many are soon taken."""
SILENCE = 60.0
"""Seconds between two log entries about connections that the system has no room for."""


class Listener:
    """One worker's end of the socket that all workers listen on; used by the I/O thread."""

    def __init__(self, sock: socket.socket, pool: ConnectionTable, scoreboard: Scoreboard, most: int) -> None:
        self.sock = sock
        self.pool = pool
        self.scoreboard = scoreboard
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
        return len(self.pool) > EVEN * self.scoreboard.fewest_connections()

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


AWAKE = 0.1
"""Seconds since the last heartbeat of a worker that is surely running."""
LONGEST = 256
"""Bytes of a client's address."""


class HandoffSockets:
    """A pair of Unix sockets for each row of the scoreboard, over which client sockets travel. Made before the fork."""

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


class ConnectionHandoff:
    """One worker's; used by the I/O thread."""

    def __init__(self, handoffs: HandoffSockets, slot: int, pool: ConnectionTable, scoreboard: Scoreboard) -> None:
        self.handoffs = handoffs
        self.slot = slot
        self.pool = pool
        self.scoreboard = scoreboard
        self.next_look = 0.0
        pool.selector.register(handoffs.inside(slot), READ, self.take)

    def take(self) -> None:
        """Take the connections that others have handed over."""
        for sock, address in self.handoffs.taken(self.slot):
            self.pool.add(sock, address)

    def rebalance(self, connection: Connection, now: float) -> None:
        """Hand a connection between two requests to another worker, if that one has at least two fewer.

        At most one in STEP_BACK seconds: it may take so long until it shows on the scoreboard. And only to a worker
        whose heartbeat is fresh and that keeps nobody waiting: what is handed to a worker that hangs is lost with it.
        """
        if now < self.next_look or connection.scheme == "https":  # what TLS has agreed on cannot be handed over
            return
        self.next_look = now + STEP_BACK
        fewest, slot = self.scoreboard.least_busy()
        if len(self.pool) < max(fewest + 2, EVEN * fewest):
            return
        row = self.scoreboard.row(slot)
        if now - row[HEARTBEAT] > AWAKE or row[WAITING]:
            return
        if self.handoffs.hand(slot, connection.sock, connection.peer):
            self.pool.drop(connection)


BACKLOG = 1024
OTHERS = 0o117
"""Permissions that a Unix socket does not have: it is for its owner and group (0660)."""


def bind(settings: Settings) -> socket.socket:
    """Return a listening socket; raises SettingsError with the fix if the address cannot be had."""
    if settings.host.startswith(UNIX):
        return bind_unix(Path(settings.host.removeprefix(UNIX)))
    host, port = settings.host, settings.port
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            fix = f"Stop the program that uses it, or choose another port: --port {port + 1}"
            raise SettingsError(f"Port {port} is in use. {fix}") from error
        raise SettingsError(f"Cannot listen on {host} port {port} ({error.strerror}). Choose another.") from error
    return listener


def bind_unix(path: Path) -> socket.socket:
    """Return a listening Unix socket; one that a server has left behind is replaced."""
    remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(OTHERS)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:  # without an errno if the path is too long
        listener.close()
        raise SettingsError(f"{path}: cannot listen there ({error.strerror or error}). Choose another path.") from error
    finally:
        os.umask(before)
    return listener


def remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on; raises SettingsError for one in use, and for any other file."""
    with contextlib.suppress(OSError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SettingsError(f"{path}: is there already, and is no socket. Choose another path for --host unix:")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(1)
            answer = asking.connect_ex(str(path))
        if answer == errno.ECONNREFUSED:
            path.unlink()
        else:
            raise SettingsError(f"{path}: another server listens there. Stop it, or choose another path.")


def url_of(listener: socket.socket, scheme: str) -> str:
    """Return the address to ask, with the port that was chosen if 0 was given."""
    if listener.family == socket.AF_UNIX:
        return f"{UNIX}{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def example(url: str) -> str:
    """Return a command that asks the server."""
    if url.startswith(UNIX):
        return f"curl --unix-socket {url.removeprefix(UNIX)} -F file=@photo.jpg http://localhost/predict"
    return f"curl -F file=@photo.jpg {url}/predict"
