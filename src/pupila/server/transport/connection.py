"""Connections of one worker: bytes in, whole requests out, keep-alive, and what the selector watches of each."""

import contextlib
import heapq
import itertools
import math
import selectors
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import InitVar, dataclass, field
from operator import itemgetter
from selectors import EVENT_READ
from typing import Any

from pupila.server.addresses import NOBODY, UNIX, TrustedProxies, network_part
from pupila.server.api.auth import Access, route_of
from pupila.server.api.request_context import RequestContext
from pupila.server.process.scoreboard import CONNECTIONS
from pupila.server.transport.parser import HEAD_END, MAX_HEAD, Chunks, Head, ProtocolError, check_start, parse_head
from pupila.server.transport.tls import HANDSHAKE, Certificate, TlsSocket

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(slots=True, eq=False)
class Request:
    """A request that has arrived completely."""

    head: Head
    context: RequestContext
    taken: bool = False
    """A thread works on it."""
    stuck_at: float = math.inf
    """From when on that thread counts as one that hangs."""
    claim: threading.Lock = field(default_factory=threading.Lock)
    """Who takes it answers the request: a thread that is done, or the event loop when the deadline has passed."""

    @property
    def waits(self) -> bool:
        """No thread works on it, and it is not answered."""
        return not (self.taken or self.claim.locked())

    def give_up(self) -> bool:
        """Claim the request for the event loop; what waits in a queue holds no memory then. False if it is answered."""
        if not self.claim.acquire(blocking=False):
            return False
        self.context.body, self.context.decoding = b"", None
        return True


@dataclass(slots=True, eq=False)
class Connection:
    """Reads requests off one socket, one after the other."""

    sock: Any
    """A socket, or a TlsSocket."""
    peer: str
    """Who is connected."""
    since: float
    """From when on it has been idle."""
    idle: InitVar[float]
    max_body: int
    proxies: TrustedProxies = NOBODY
    scheme: str = "http"
    buffer: bytearray = field(default_factory=bytearray)
    request: Request | None = None
    """The request in work; the next one is not taken up before it is answered."""
    out: bytes = b""
    """What the socket did not take at once, and what it has taken of it since."""
    sent: int = 0
    """Bytes of `out` that it has taken."""
    closing: bool = False
    """The connection ends once `out` is sent."""
    lingers: bool = False
    """After that the client may go on sending for a while, which is read and thrown away."""
    ended: bool = False
    """The client will send nothing more."""
    started: float = 0.0
    """When the first byte of the request that is arriving came; 0 between requests."""
    deadline: float = 0.0
    watched: int = 0
    """Events that the loop's selector watches for."""
    body_bytes: int = 0
    """Bytes of body that are reserved in the worker's memory for this connection."""
    access: Access | None = None
    """What was decided about the arriving request when its head was there."""
    head: Head | None = None
    """Of the request that is arriving, once it is there."""
    judged: bool = False
    """Whether that has been let in, or refused."""
    chunks: Chunks | None = None
    searched: int = 0
    """Bytes of the buffer in which there is no end of a head."""
    source: str = ""
    """With what it shares places, see `ConnectionTable.source_of`."""
    fd: int = field(init=False)
    address: str = field(init=False)
    """Who asks: not the peer, if that is a trusted proxy."""
    taken: float = field(init=False)
    """When the client last took a part of an answer."""
    expires: float = field(init=False)

    def __post_init__(self, idle: float) -> None:
        self.fd = self.sock.fileno()
        self.address = self.peer
        self.taken = self.since
        self.expires = self.since + idle

    def begin(self, now: float, deadline: float) -> None:
        """Start the clock of the request whose first bytes are in the buffer."""
        self.started = now
        self.deadline = now + deadline
        self.address = self.peer

    def finish(self, now: float, idle: float) -> None:
        """Make ready for the next request."""
        self.started = 0.0
        self.body_bytes = 0
        self.since = now
        self.expires = now + (min(idle, LINGER) if self.lingers else idle)
        self.request = self.head = self.chunks = None
        self.judged = False

    @property
    def line(self) -> str:
        """With what it shares turns: a key, once it has shown a valid one, else its source."""
        return self.source if self.access is None or self.access.key is None else self.access.key.digest

    @property
    def asker(self) -> str:
        """Who asks, as far as a client cannot choose it; a named proxy asks for its clients."""
        return network_part(self.address if self.proxies.names(self.peer) else self.peer)

    @property
    def queue_line(self) -> str:
        """With what its requests share turns in a queue: a key, else who asks."""
        return self.asker if self.access is None or self.access.key is None else self.access.key.digest

    @property
    def fresh(self) -> bool:
        """No byte of a request is here, and none is in work."""
        return self.is_between and not self.buffer

    @property
    def is_between(self) -> bool:
        """The request before is answered and the next one not begun, though it may be here."""
        return not self.started and self.request is None

    @property
    def is_unread(self) -> bool:
        """The client has not taken all of an answer, whatever else it has sent."""
        return bool(self.out) and self.is_between

    @property
    def is_held(self) -> bool:
        """It has its place for what the client has not ended: a request half sent, or an answer half read."""
        return self.request is None and not self.lingers and bool(self.started or self.out)

    @property
    def held_since(self) -> float:
        """When that has begun."""
        return self.started or self.since

    @property
    def held_until(self) -> float:
        """Until when it is closed for no other of an address that holds few."""
        return self.started + UPLOAD if self.started else self.since + READ_ALL

    @property
    def needs_loop(self) -> bool:
        """There is more to do than to wait for the next request."""
        return self.closing or bool(self.out) or bool(self.buffer) or self.ended or self.watched != EVENT_READ

    @property
    def paused(self) -> bool:
        """More of the arriving request is here, and left for the next dispatch."""
        return self.chunks is not None and self.chunks.paused

    @property
    def in_head(self) -> bool:
        """A part of a request's head is here, and no more."""
        return bool(self.started) and self.request is None and self.head is None

    @property
    def received(self) -> int:
        """Bytes of the arriving request's body that are here, and of what came with them."""
        return len(self.buffer) + (len(self.chunks.body) if self.chunks is not None else 0)

    def head_arrived(self) -> Head | None:
        """Return the head of the arriving request when it is complete, until it is judged. Raises ProtocolError."""
        if self.head is not None:
            return None if self.judged else self.head
        check_start(self.buffer)
        end = self.buffer.find(HEAD_END, max(0, self.searched - 3))
        if end > MAX_HEAD or (end < 0 and len(self.buffer) >= MAX_HEAD + len(HEAD_END)):
            raise ProtocolError(431, "head_too_large", f"The request's head is over {MAX_HEAD:,} bytes.")
        if end < 0:
            self.searched = len(self.buffer)
            return None
        head = parse_head(self.buffer, end + 2)
        del self.buffer[: end + 4]
        head.scheme = self.scheme
        if self.proxies is not NOBODY:
            self.address = self.proxies.apply(head, self.peer)
        self.head = head
        self.chunks = Chunks(self.max_body) if head.chunked else None
        return head

    def take(self, now: float) -> Request | None:
        """Return the arriving request if all of its body is here. Raises ProtocolError."""
        head, chunks = self.head, self.chunks
        if head is None:
            return None
        if chunks is not None:
            chunks.feed(self.buffer)
            if not chunks.done:
                return None
            body = bytes(chunks.body)
        else:
            if len(self.buffer) < head.length:
                return None
            body = bytes(self.buffer) if len(self.buffer) == head.length else bytes(self.buffer[: head.length])
            del self.buffer[: head.length]
        self.head = self.chunks = None
        self.searched = 0
        return self.request_of(head, body, now)

    def leave_body(self, head: Head, now: float) -> Request:
        """Return the arriving request without its body, which is not read: the connection ends with the answer."""
        head.keep_alive, self.lingers = False, True
        self.head = self.chunks = None
        self.buffer.clear()
        return self.request_of(head, b"", now)

    def request_of(self, head: Head, body: bytes, now: float) -> Request:
        """Return a request of this connection that has arrived, or whose body will not be read."""
        context = RequestContext(
            route_of(head.path).name,
            self.deadline,
            self.address,
            self.queue_line,
            body,
            started=self.started,
            arrived=now,
            access=self.access,
        )
        return Request(head, context)

    def send(self, data: bytes) -> bool:
        """Send what the socket takes now, and keep the rest; False if the client is gone."""
        if data:
            self.out, self.sent = self.out[self.sent :] + data, 0
        try:
            while self.sent < len(self.out):
                self.sent += self.sock.send(memoryview(self.out)[self.sent :])
                self.taken = time.monotonic()
        except BlockingIOError:
            pass
        except OSError:
            return False
        if self.sent >= len(self.out) / 2:  # each byte is copied once, however small the pieces
            self.out, self.sent = self.out[self.sent :], 0
        return True

    def close(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            self.sock.close()


START = 0.05
"""Seconds that a client has for the first byte of a request before its connection may be closed for another."""
UPLOAD = 1.0
"""Seconds that it has for a request's body, or to read an answer, before that may happen."""
UNREAD = 3.0
"""Seconds in which it must take a part of an answer that waits for it ..."""
READ_ALL = 10.0
"""... and all of it, where places are scarce."""
LINGER = 5.0
"""Seconds in which a client that is refused may go on sending, so that it sees the answer and not a broken pipe."""
SCARCE = 8
"""Where places are scarce, an address keeps one of so many places of its share."""
LOOK = 20
"""A look for connections to close finds up to one in so many: it goes through all of them, which takes milliseconds."""
STAYS = 4
"""Rank of connections that are closed for no other, see `rank_of`."""
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@dataclass(eq=False)
class ConnectionTable:
    """The open connections of one worker; used by the I/O thread only."""

    row: "memoryview[float]"
    idle: float
    max_body: int
    proxies: TrustedProxies = NOBODY
    certificate: Certificate | None = None
    """For TLS; None where clients speak plain HTTP."""
    share: int = 128
    """Places that one address may have for requests half sent and answers half read together."""
    max_buffered: int = 2**28
    """Bytes of all bodies together, and of all answers together that their clients have not read yet."""
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    open: dict[int, Connection] = field(default_factory=dict)
    places: Counter[str] = field(default_factory=Counter)
    """How many of those each source has."""
    leaving: "deque[tuple[int, object]]" = field(default_factory=deque)
    """Whom the last look found to close for others, by number, and in what state; who goes first is first."""
    looked: float = 0.0
    """When that was."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while memory for a body is reserved."""

    def __len__(self) -> int:
        return len(self.open)

    def __contains__(self, connection: Connection) -> bool:
        return self.open.get(connection.fd) is connection

    def accept(self, listener: socket.socket) -> bool:
        """Accept one connection; False if none waits. Raises OSError if the system has no resources for it."""
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
        connection.source = self.source_of(peer) or str(connection.fd)
        try:
            if self.certificate is not None:
                connection.scheme = "https"
                connection.sock = TlsSocket(sock, self.certificate.current())
                connection.expires = time.monotonic() + min(HANDSHAKE, self.idle)  # a slow handshake is an idle one
        except OSError:  # the client is gone
            return
        self.open[connection.fd] = connection
        self.places[connection.source] += 1
        self.row[CONNECTIONS] = len(self.open)
        self.watch(connection, READ)

    def source_of(self, peer: str) -> str:
        """Return what a peer's connections share, its network address; nothing for a proxy, which sends for many."""
        return "" if peer == UNIX or self.proxies.names(peer) else network_part(peer)

    def evict(self) -> bool:
        """Close a connection in favour of another; False if there is none that may be closed.

        Those of the address that has most places, if that is more than its share, before any of others. First go those
        that were refused, then half-sent heads, answers of which nothing is taken, and those between two requests; of
        each the oldest, not before START. Then the oldest of the address that holds most places, or of all.

        What a look has found holds for START seconds, of each connection as long as it stays as it was.
        """
        now = time.monotonic()
        if now > self.looked + START:
            self.leaving.clear()
        while self.leaving or self.look(now):
            fd, state = self.leaving.popleft()
            connection = self.open.get(fd)
            if connection is not None and state_of(connection, now) == state:
                self.drop(connection)
                return True
        return False

    def look(self, now: float) -> bool:
        """Find connections to close in favour of others; return whether there are any."""
        most = max(1, len(self) // LOOK)
        source, count = max(self.places.items(), key=itemgetter(1), default=("", 0))
        crowd = [one for one in self.open.values() if one.source == source] if count > self.share else []
        chosen = self.closable(crowd, now, min(most, count - self.share))
        if not crowd:
            chosen = self.closable(self.open.values(), now, most)
        chosen = chosen or self.longest_held(now, most) or self.closable(self.open.values(), now, most)
        self.leaving.extend((connection.fd, state_of(connection, now)) for connection in chosen)
        self.looked = now
        return bool(chosen)

    def closable(self, among: Iterable[Connection], now: float, most: int) -> list[Connection]:
        """Return up to so many of these connections that may be closed for others: those that go first, of one rank."""
        ranked = ((*rank_of(connection, now), connection.fd) for connection in among)
        first = heapq.nsmallest(most, (found for found in ranked if found[0] < STAYS and found[1] <= now - START))
        return [self.open[fd] for rank, _, fd in first if rank == first[0][0]]

    def held(self) -> dict[str, list[Connection]]:
        """Return the connections that each address holds, see `Connection.is_held`; of each the oldest first.

        A named proxy holds nothing itself: its clients do.
        """
        found: dict[str, list[Connection]] = {}
        for connection in self.open.values():
            if connection.is_held:
                found.setdefault(connection.asker, []).append(connection)
        return {address: sorted(mine, key=lambda one: one.held_since) for address, mine in found.items()}

    def longest_held(self, now: float, most: int) -> list[Connection]:
        """Return up to so many, each the oldest of the address that then holds most places.

        If none holds more than it may keep, the oldest of all. Who began less than UPLOAD seconds ago is spared; beyond
        its share, less than START.
        """
        held, keeps = self.held(), max(1, self.share // SCARCE)
        sizes = ((len(mine) - gone, one) for mine in held.values() for gone, one in enumerate(mine))
        first = heapq.nlargest(most, (found for found in sizes if found[0] > keeps), key=itemgetter(0))
        if first:
            late = itertools.takewhile(
                lambda found: found[1].held_since <= now - (START if found[0] > self.share else UPLOAD), first
            )
            return [one for _, one in late]
        over = (one for mine in held.values() for one in mine if one.held_until < now)
        return heapq.nsmallest(most, over, key=lambda one: one.held_until)

    def limit_shares(self, now: float) -> None:
        """Drop what addresses hold beyond their share, the oldest first; bodies and answers have UPLOAD seconds.

        Named proxies are excepted: they send for many.
        """
        for mine in self.held().values():
            for connection in mine[: max(0, len(mine) - self.share)]:
                if self.source_of(connection.peer) and (connection.in_head or connection.held_since <= now - UPLOAD):
                    self.drop(connection)

    def limit_unsent(self) -> None:
        """Drop unread answers, each the oldest of who then has most, until the others fit into `max_buffered` bytes."""
        unread = [connection for connection in self.open.values() if connection.out and connection.request is None]
        size = sum(len(connection.out) for connection in unread)
        if size <= self.max_buffered:
            return
        sizes: Counter[str] = Counter()
        lines: dict[str, list[Connection]] = {}
        for connection in sorted(unread, key=lambda connection: -connection.since):
            sizes[connection.queue_line] += len(connection.out)
            lines.setdefault(connection.queue_line, []).append(connection)
        while size > self.max_buffered:
            most = max(sizes, key=sizes.__getitem__)
            oldest = lines[most].pop()
            sizes[most] -= len(oldest.out)
            size -= len(oldest.out)
            self.drop(oldest)

    def settle(self, connection: Connection) -> None:
        """Bring a connection into the state that it should be in: sending, closing, lingering or reading.

        One whose client has ended is not watched: the selector would only report that again.
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
        if connection in self:  # and not another one that has its number by now
            del self.open[connection.fd]
            self.places[connection.source] -= 1
            if not self.places[connection.source]:
                del self.places[connection.source]
        self.row[CONNECTIONS] = len(self.open)
        connection.close()

    def has_room(self, connection: Connection, wanted: int) -> bool:
        """Return whether memory for so many bytes of a connection's body is left."""
        reserved = sum(one.body_bytes for one in list(self.open.values())) - connection.body_bytes
        return reserved + wanted <= self.max_buffered

    def reserve(self, connection: Connection, wanted: int) -> bool:
        """Reserve memory for so many bytes of a connection's body if it is left. Any thread may call this."""
        with self.lock:
            if self.has_room(connection, wanted):
                connection.body_bytes = wanted
                return True
        return False

    def gives_way(self, connection: Connection, wanted: int) -> Connection | None:
        """Return the largest body of who has most reserved, if that is more than the asker of a connection would have.

        What a thread works on is none of them. Any thread may call this.
        """
        holding = [one for one in list(self.open.values()) if one.body_bytes]
        held = Counter({connection.queue_line: wanted - connection.body_bytes})
        for one in holding:
            held[one.queue_line] += one.body_bytes
        giving = (one for one in holding if (request := one.request) is None or request.waits)
        found = max(giving, key=lambda one: (held[one.queue_line], one.body_bytes), default=None)
        return found if found is not None and held[found.queue_line] > held[connection.queue_line] else None


def state_of(connection: Connection, now: float) -> object:
    """Return what changes with anything that a client does and that has to do with closing its connection."""
    rank, _ = rank_of(connection, now)
    return rank, connection.is_held, connection.started, connection.since, connection.taken


def rank_of(connection: Connection, now: float) -> tuple[int, float]:
    """Return in which order connections are closed in favour of others, and since when each could be.

    0 is one that was refused, 1 a half-sent head, 2 one whose client takes nothing of its answer, 3 one between two
    requests, idle or not, and STAYS any other.
    """
    if connection.lingers and connection.request is None:
        return 0, 0.0
    if connection.in_head:
        return 1, connection.started
    if connection.is_unread:
        last = max(connection.since, connection.taken)
        return (2, last) if last <= now - UNREAD else (STAYS, 0.0)
    return (3, connection.since) if connection.is_between else (STAYS, 0.0)
