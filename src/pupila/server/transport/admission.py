"""Admission: accepts connections evenly among the workers, and decides from a head whether a request is read.

Accepting evenly is not enough: the connections of one worker may all end, and a worker that is started in another's
place finds every client connected elsewhere. So a worker with clearly more connections answers now and then with
`Connection: close` (load balancing): that client connects again, and comes to the worker that has fewest.

Admission control answers, queues or refuses a request. Keys, rate limits, types and sizes are judged before the body
is read. Memory is reserved for twice what has arrived, not for Content-Length, so that idle large uploads hold no
quota. Where none is left, the largest body of who has most reserved gives way to who has less: uploads, and requests
that wait for a thread. An upload that cannot double its reservation even so, or that could not end beside what is
reserved when it begins, is answered with 503 and Retry-After (backpressure).
"""

import contextlib
import logging
import math
import socket
import time
from collections import Counter
from dataclasses import dataclass, field, replace

from pupila.server.api.auth import Access, AccessControl, route_of
from pupila.server.api.body import WINDOW, encoding_unsupported, too_big_body
from pupila.server.api.errors import QueueFullError, RequestError
from pupila.server.api.multipart import is_readable, type_unsupported
from pupila.server.api.request_context import RequestContext, cors_headers
from pupila.server.observability.request_log import RequestLog
from pupila.server.process.scoreboard import Scoreboard
from pupila.server.settings import Settings
from pupila.server.transport.connection import CONTINUE, LINGER, READ, START, Connection, ConnectionTable, Request
from pupila.server.transport.executor import CLOSE, SMALL, Executor, plain_response
from pupila.server.transport.parser import Head, ProtocolError

log = logging.getLogger("pupila.server")

TICK = 0.2
"""Seconds between two looks at the clock: how late a deadline may be noticed."""
STEP_BACK = 0.05
"""Seconds for which a worker leaves new connections to another that has fewer: it may be computing a batch."""
LOOK = 0.002
"""Seconds between two looks in that time whether the other has caught up."""
EVEN = 1.25
"""A worker with so many times the connections of another steps back: four are two and two, and many are soon taken."""
ACCEPT_SECONDS = 0.02
"""Seconds for which connections are taken at a stretch: a flood of them must not stop the heartbeat."""
SILENCE = 60.0
"""Seconds between two log entries about connections that the system has no resources for."""


@dataclass(eq=False)
class Listener:
    """One worker's end of the socket that all workers listen on; used by the I/O thread."""

    sock: socket.socket
    pool: ConnectionTable
    scoreboard: Scoreboard
    most: int
    """Connections that this worker may have."""
    watched: bool = False
    away_until: float = 0.0
    """Until when this worker steps back."""
    full_until: float = 0.0
    """Until when it takes none, as none of its connections may be closed ..."""
    full_at: int = 0
    """... unless it has fewer than so many before that."""
    silent_until: float = -math.inf
    next_shed: float = 0.0

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
        return len(self.pool) > 0 and len(self.pool) > EVEN * self.scoreboard.least_busy()[0]

    def sheds(self, now: float) -> bool:
        """Return whether one client should connect again, as another worker has clearly fewer: one in STEP_BACK s."""
        if now < self.next_shed:
            return False
        self.next_shed = now + STEP_BACK
        return self.has_more() and len(self.pool) >= self.scoreboard.least_busy()[0] + 2

    def accept(self) -> None:
        """Take the connections that wait, but give a worker that has fewer a start, once for each.

        For ACCEPT_SECONDS at a stretch, as making room looks at all others; the rest is reported again.
        """
        begun = time.monotonic()
        given = begun < self.away_until + TICK
        while given or not self.has_more():
            self.away_until = 0.0
            if time.monotonic() >= begun + ACCEPT_SECONDS:
                return
            try:
                if len(self.pool) >= self.most and not self.pool.evict():  # the one that has been idle longest
                    self.rest()
                    return
                if not self.pool.accept(self.sock):
                    return
            except OSError as error:
                if not self.pool.evict():
                    self.rest(error)
                    return
                continue
            given = False
        self.away_until = time.monotonic() + STEP_BACK

    def rest(self, error: OSError | None = None) -> None:
        """Take nothing for START seconds: what waits would be reported again and again. Log an error now and then."""
        now = time.monotonic()
        self.full_until, self.full_at = now + START, len(self.pool)
        if error is not None and now >= self.silent_until:
            self.silent_until = now + SILENCE
            log.error("new connections have to wait, since the system has no room for them: %s", error.strerror)

    def take_all(self) -> None:
        """Take what has been connected already: there is nobody else who could."""
        with contextlib.suppress(OSError):
            while len(self.pool) < self.most and self.pool.accept(self.sock):
                pass

    def close(self, now: float) -> None:
        """Take nothing more."""
        self.watch(now, wanted=False)
        self.sock.close()


SENDING = ("POST", "PUT")
"""Methods with which bodies are read."""
UNKEYED = 100
"""On a server with keys, requests without one, or that are refused, which an address or a key may send in a TICK: more
have to wait. Each takes the event loop half a millisecond, and with it the one core of all other threads."""
IN_WORK = 7 / 8
"""Of all places, what requests in work may have: their connections are closed for no other ..."""
UNKEYED_IN_WORK = 3 / 4
"""... and what those without a key may have where there are keys, so that they keep none with a key out."""


@dataclass(eq=False)
class AdmissionControl:
    """One event loop's; used by the I/O thread only."""

    pool: ConnectionTable
    listener: Listener
    executor: Executor
    request_log: RequestLog
    settings: Settings
    access: AccessControl
    unkeyed: Counter[str] = field(default_factory=Counter)
    """Such requests by who asks, of this TICK."""
    parked: list[Connection] = field(default_factory=list)
    """Whose request comes after as many: they are not watched, and go on with the next TICK."""

    def begin_tick(self) -> list[Connection]:
        """Return the connections that go on."""
        self.unkeyed.clear()
        parked, self.parked = self.parked, []
        return parked

    def begin(self, connection: Connection, head: Head) -> bool:
        """Return whether a request goes on whose head has arrived; else it is refused before its body is read.

        It goes on later where its client does not take `100 Continue` at once, or has asked too often. What is refused
        and here to its end is answered like any other request, and its connection lives on.
        """
        connection.access = self.access.decide(head.method, head.path, head.headers)
        unproven = connection.access.key is None or connection.access.refusal is not None
        if self.access.keys and unproven and self._asks_too_often(connection):
            self.parked.append(connection)
            self.pool.watch(connection, 0)
            return False
        connection.judged = True
        if connection.chunks is not None:
            connection.chunks.limit = body_limit(head.path, self.settings)
        elif len(connection.buffer) >= head.length <= body_limit(head.path, self.settings):
            return True
        refusal = connection.access.refusal or body_refusal(head, self.settings)
        if refusal is not None or head.method not in SENDING or not route_of(head.path).body:
            connection.access = replace(connection.access, refusal=refusal)
            self.dispatch(connection, connection.leave_body(head, time.monotonic()))
            return False
        wanted, pool = head.length, self.pool
        if wanted > SMALL and not pool.has_room(connection, wanted) and pool.gives_way(connection, wanted) is None:
            self.refuse(connection, too_many_uploads())
            return False
        if head.expects_continue:
            connection.send(CONTINUE)
            pool.settle(connection)
        return connection in pool and not connection.out  # what comes after is read once that is sent

    def _asks_too_often(self, connection: Connection) -> bool:
        """Count what comes without a key, and return whether it is more of one client than is answered in this TICK."""
        who = connection.queue_line if self.pool.proxies.names(connection.peer) else connection.line
        self.unkeyed[who] += 1
        return self.unkeyed[who] > UNKEYED

    def refuse_malformed(self, connection: Connection, error: ProtocolError) -> None:
        """Answer what is no request with an error, or, where there are keys and it comes too often, not at all."""
        has_key = connection.access is not None and connection.access.key is not None
        if self.access.keys and not has_key and self._asks_too_often(connection):
            self.pool.drop(connection)
        else:
            self.refuse(connection, error)

    def refuse(self, connection: Connection, error: RequestError) -> None:
        """Answer with an error in the application's place, and end the connection.

        The client may finish sending, or it would not see the response.
        """
        connection.send(self.error_answer(connection, error))
        connection.closing = connection.lingers = True
        connection.finish(time.monotonic(), LINGER)
        connection.buffer.clear()
        self.pool.settle(connection)

    def error_answer(self, connection: Connection, error: RequestError) -> bytes:
        """Return an error's answer, logged."""
        request = connection.request
        head = request.head if request else connection.head
        started = request.context.started if request else connection.started or time.monotonic()
        context = RequestContext(
            route_of(head.path).name if head else "other", 0.0, connection.address, started=started
        )
        headers = head.headers if head else {}
        context.request_id = self.request_log.request_id(headers.get("HTTP_X_REQUEST_ID"))
        context.parent = headers.get("HTTP_TRACEPARENT"), headers.get("HTTP_TRACESTATE")
        method, path = (head.method, head.path) if head else ("-", "-")
        self.request_log.record(context, method, path, error.status)
        cors = cors_headers(headers.get("HTTP_ORIGIN"), self.settings) if self.settings.cors_origins else ()
        return plain_response(error, CLOSE, method, context.request_id, cors)

    def reserve(self, connection: Connection) -> bool:
        """Reserve memory for what has come of a body; False if there is none, and the request is refused."""
        received, head = connection.received, connection.head
        if head is None or received <= SMALL:
            return True
        wanted = min(2 * received, self.settings.max_body_bytes if head.chunked else head.length)
        while wanted > connection.body_bytes and not self.pool.reserve(connection, wanted):
            other = self.pool.gives_way(connection, wanted) or connection
            if other.request is None or other.request.give_up():
                self.refuse(other, too_many_uploads())
            if other is connection:
                return False
        return True

    def dispatch(self, connection: Connection, request: Request) -> None:
        """Give a request to the executor, or answer at once if too much waits, or if it is about health.

        So health never waits behind inference.
        """
        connection.request = request
        if not connection.buffer and self.listener.sheds(time.monotonic()):
            connection.lingers, request.head.keep_alive = True, False
        connection.body_bytes = min(connection.body_bytes, len(request.context.body or b""))
        access = request.context.access
        if request.context.route != "health" and (access is None or access.refusal is None):
            queue, line = self.executor.queue_of(request), connection.queue_line
            delay = queue.retry_after(line, request.context.deadline)
            has_key = not self.access.keys or (access is not None and access.key is not None)
            most = IN_WORK if has_key else UNKEYED_IN_WORK
            full = self.executor.in_work >= most * self.settings.max_connections
            if delay is None and full and not (has_key and self.executor.make_room(line)):
                delay = queue.delay(line)
            if delay is None:
                self.executor.submit(queue, connection, request)
                return
            request.context.access = replace(access or Access(), refusal=QueueFullError(delay))
        self.executor.answer(connection, request, self.executor.post)


def too_many_uploads() -> RequestError:
    """Say that all memory for bodies is reserved."""
    return RequestError(503, "overloaded", "Too many big uploads at once. Try again later.", retry_after=1)


def body_limit(path: str, settings: Settings) -> int:
    """Return how many bytes the body of a request may have."""
    return settings.max_body_bytes if route_of(path).body == "large" else min(SMALL, settings.max_body_bytes)


def body_refusal(head: Head, settings: Settings) -> RequestError | None:
    """Return why a body is refused before it is read: its encoding, its type, or its size."""
    coding = head.headers.get("HTTP_CONTENT_ENCODING", "identity").strip().lower()
    if coding not in ("", "identity", *WINDOW):
        return encoding_unsupported(coding)
    kind = head.headers.get("CONTENT_TYPE", "")
    if head.path == "/predict" and not is_readable(kind):
        return type_unsupported(kind, b"")
    most = body_limit(head.path, settings)
    return too_big_body(most) if head.length > most else None
