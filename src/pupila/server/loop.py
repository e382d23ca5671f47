"""Serves a WSGI application to many connections at once, with one deadline a request. Knows sockets and clocks.

One thread, the loop, reads requests and keeps time; it never computes. A slow upload costs a buffer, not a thread.
Whole requests go to handler threads, which call the application and send its answers. When a deadline passes, the loop
answers in their place.
"""

import contextlib
import logging
import math
import socket
import time
from collections import deque
from collections.abc import Callable
from wsgiref.types import WSGIApplication

from pupila.server.board import BEAT, DUE, READY, WAITING, Board
from pupila.server.connection import CONTINUE, Connection, Request
from pupila.server.handlers import Handlers
from pupila.server.health import Health
from pupila.server.http1 import Head, ProtocolError
from pupila.server.ledger import Ledger, route_of
from pupila.server.pool import READ, WRITE, Pool
from pupila.server.settings import Settings
from pupila.server.telemetry import Note
from pupila.server.wsgi import plain_response

log = logging.getLogger("pupila.server")

TICK = 0.2
"""Seconds between two looks at the clock: how late a deadline may be noticed."""
GRACE = 0.2
"""Seconds after its deadline in which a request's own thread may still answer."""
WEDGED = 2.0
"""Seconds after its deadline from which a request that still runs means that this process must be replaced."""
LINGER = 5.0
"""Seconds in which a client that is refused may go on sending, so that it sees the answer and not a broken pipe."""
LAST_WORDS = 0.5
"""Seconds that an idle connection has, when the server drains, for a request that is on its way already."""
STEP_BACK = 0.002
"""Seconds for which a worker leaves a new connection to another that has fewer."""
RECEIVE = 262144
MAX_PIPELINED = 65536
SMALL = 65536
"""Bodies up to this are not counted against the memory for bodies: the number of connections bounds them."""

INLINE = frozenset(("/healthz", "/readyz", "/metrics", "/ping", "/v2/health/live", "/v2/health/ready"))
"""Answered by the loop itself: health never waits behind inference."""


class Loop:
    """One worker's connections."""

    def __init__(
        self,
        app: WSGIApplication,
        listener: socket.socket,
        settings: Settings,
        health: Health,
        ledger: Ledger,
        board: Board,
        slot: int,
    ) -> None:
        self.ledger = ledger
        self.listener = listener
        self.settings = settings
        self.board = board
        self.health = health
        self.row = board.row(slot)
        self.pool = Pool(self.row, settings.idle)
        self.selector = self.pool.selector
        self.posted: deque[Connection] = deque()
        self.wake_reader, self.wake_writer = socket.socketpair()
        self.wake_reader.setblocking(False)
        self.wake_writer.setblocking(False)
        server = (settings.host, str(listener.getsockname()[1]))
        self.handlers = Handlers(app, server, settings.idle, ledger, self.post)
        self.draining = False
        self.wedged = False
        """A request runs long past its deadline: the process has to be replaced."""
        self.listening = False
        self.step_back_until = 0.0
        self.rate = 0.0
        """Answers a second while others waited, averaged over some ticks; 0 if nothing has waited yet."""
        self.counted = (0.0, 0)

    def run(self, still_wanted: Callable[[], bool], beat: Callable[[], object]) -> None:
        """Serve until `still_wanted` says no, then drain. `beat` is called at least every TICK."""
        self.handlers.start()
        self.selector.register(self.wake_reader, READ, None)
        next_tick, end = 0.0, math.inf
        while True:
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + TICK
                beat()
                self.tick(now)
            if not self.draining and (self.wedged or not still_wanted()):
                self.drain(now)
                end = now + (self.settings.deadline if self.wedged else self.settings.drain)
            if self.draining and (now >= end or not self.pool):
                return
            self.watch_listener(now)
            for key, events in self.selector.select(TICK if now >= self.step_back_until else STEP_BACK):
                self.serve(key.data, events)

    def post(self, connection: Connection) -> None:
        """Give a connection back to the loop, from another thread."""
        self.posted.append(connection)
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes the loop just as well
            self.wake_writer.send(b"1")

    def serve(self, connection: Connection | Callable[[], None] | None, events: int) -> None:
        """Handle what the selector reports of one connection, of the listener, or of the handlers."""
        if connection is None:
            self.take_posted()
        elif not isinstance(connection, Connection):
            connection()
        elif events & WRITE:
            self.resume(connection)
        else:
            self.receive(connection)

    def take_posted(self) -> None:
        """Go on with the connections that handler threads gave back."""
        with contextlib.suppress(BlockingIOError):
            self.wake_reader.recv(4096)
        while self.posted:
            connection = self.posted.popleft()
            if connection in self.pool:
                self.resume(connection)

    def resume(self, connection: Connection) -> None:
        """Go on with a connection whose last answer is on its way."""
        self.pool.settle(connection)
        if connection in self.pool:
            self.advance(connection)

    # New connections

    def watch_listener(self, now: float) -> None:
        """Listen only while there is room, and while no other worker should rather take the next connection."""
        wanted = not self.draining and now >= self.step_back_until
        if wanted != self.listening:
            self.listening = wanted
            if wanted:
                self.selector.register(self.listener, READ, self.accept)
            else:
                self.selector.unregister(self.listener)

    def accept(self) -> None:
        """Take a new connection, unless another worker has fewer: then give that one a moment's start."""
        mine = len(self.pool)
        if mine > self.board.fewest_connections() and time.monotonic() >= self.step_back_until + TICK:
            self.step_back_until = time.monotonic() + STEP_BACK
            return
        self.step_back_until = 0.0
        if mine >= self.settings.connections and not self.pool.evict():
            self.step_back_until = time.monotonic() + TICK
            return
        self.pool.accept(self.listener)

    # Reading

    def receive(self, connection: Connection) -> None:
        """Read what has come."""
        try:
            data = connection.sock.recv(RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.end_of_input(connection)
        elif not connection.closing:
            connection.buffer += data
            if connection.request is not None and len(connection.buffer) > MAX_PIPELINED:
                self.pool.watch(connection, 0)
            self.advance(connection)

    def end_of_input(self, connection: Connection) -> None:
        """The client has closed: drop its request if nobody works on it yet, as nginx does."""
        request = connection.request
        if request is None or (not request.taken and request.claim.acquire(blocking=False)):
            self.pool.drop(connection)
        else:
            connection.ended = True
            self.pool.watch(connection, 0)

    def advance(self, connection: Connection) -> None:
        """Take up the requests that are complete, one after the other."""
        try:
            while connection.request is None and not connection.closing and not connection.out:
                now = time.monotonic()
                if not connection.started:
                    if not connection.buffer:
                        return
                    connection.begin(now, self.settings.deadline)
                head = connection.head_arrived(self.settings.max_body_bytes)
                if head is not None and not self.admit(connection, head):
                    return
                request = connection.take(now)
                if request is None:
                    return
                self.hand_over(connection, request)
            if connection.request is None:
                self.pool.settle(connection)
        except ProtocolError as error:
            self.refuse(connection, error.status, error.code, str(error))

    def admit(self, connection: Connection, head: Head) -> bool:
        """Reserve memory for a big body before it is sent, and tell a client that asks to send it."""
        connection.body_bytes = head.length
        if head.length > SMALL or head.chunked:
            total = self.pool.body_bytes()
            if total > self.settings.max_buffered_bytes:
                self.refuse(connection, 503, "overloaded", "Too many big uploads at once. Try again later.", 1)
                return False
        if head.expects_continue and len(connection.buffer) < max(head.length, 1):
            connection.send(CONTINUE)
        return True

    def hand_over(self, connection: Connection, request: Request) -> None:
        """Give a request to the handlers, or answer at once if it is about health, or if too much waits."""
        connection.request = request
        waiting = self.handlers.waiting
        delay = waiting / self.rate if self.rate else 0.0
        if request.head.path in INLINE:
            self.handlers.answer(connection, request)
        elif waiting >= self.settings.max_waiting or time.monotonic() + delay >= request.deadline:
            self.reply_busy(connection, request, delay)
        else:
            self.handlers.submit(connection, request)

    # Answering in the application's place

    def reply_busy(self, connection: Connection, request: Request, delay: float) -> None:
        """Answer a request that was read to its end with "too much to do"; the connection lives on."""
        message = "The server has more to do than it can answer in time. Try again later."
        sent = connection.send(
            self.own_answer(503, "overloaded", message, request.head, request.started, self.draining, delay)
        )
        connection.closing = not sent or self.draining
        connection.finish(time.monotonic(), self.settings.idle)

    def refuse(self, connection: Connection, status: int, code: str, message: str, delay: float = -1) -> None:
        """Answer and end the connection, but let the client finish sending, or it would not see the answer."""
        head = connection.request.head if connection.request else connection.head
        connection.send(self.own_answer(status, code, message, head, connection.started, True, delay))
        connection.closing = True
        connection.finish(time.monotonic(), LINGER)
        connection.buffer.clear()
        connection.lingers = True
        self.pool.settle(connection)

    def own_answer(
        self, status: int, code: str, message: str, head: Head | None, started: float, close: bool, delay: float
    ) -> bytes:
        """Return an error answer, and write it down. A `delay` from 0 says when to come back."""
        note = Note(route_of(head.path) if head else "other")
        headers = head.headers if head else {}
        note.request_id = self.ledger.request_id(headers.get("HTTP_X_REQUEST_ID"))
        note.parent = headers.get("HTTP_TRACEPARENT"), headers.get("HTTP_TRACESTATE")
        method, path = (head.method, head.path) if head else ("-", "-")
        self.ledger.record(note, method, path, status, started or time.monotonic(), "")
        retry_after = max(1, math.ceil(delay)) if delay >= 0 else 0
        return plain_response(status, code, message, close, note.request_id, retry_after)

    # Time

    def tick(self, now: float) -> None:
        """Enforce every deadline, and show the others a sign of life."""
        due = math.inf
        for connection in list(self.pool.open.values()):
            due = min(due, self.check(connection, now))
        self.wedged = any(now > request.deadline + WEDGED for request in list(self.handlers.running.values()))
        since, answered = self.counted
        if self.handlers.waiting and self.row[WAITING] and now > since:  # idle time says nothing of what can be done
            measured = (self.handlers.answered - answered) / (now - since)
            self.rate = measured if not self.rate else 0.7 * self.rate + 0.3 * measured
        self.counted = (now, self.handlers.answered)
        self.row[BEAT] = now
        self.row[DUE] = due
        self.row[WAITING] = self.handlers.waiting
        self.row[READY] = not self.draining

    def check(self, connection: Connection, now: float) -> float:
        """End what has taken too long; return when this connection's request is due."""
        request = connection.request
        if request is not None:
            if now >= request.deadline + GRACE and request.claim.acquire(blocking=False):
                message = "The answer was not ready by the request's deadline."
                self.refuse(connection, 504, "deadline_exceeded", message)
            return request.deadline
        if connection.started and now >= connection.deadline:
            message = f"The request did not arrive within {self.settings.deadline:g} seconds."
            self.refuse(connection, 408, "upload_too_slow", message)
        elif not connection.started and now >= connection.expires:
            self.pool.drop(connection)
        elif self.draining and connection.fresh:
            connection.expires = min(connection.expires, now + LAST_WORDS)
        return connection.deadline if connection.started else math.inf

    def drain(self, now: float) -> None:
        """Take what has been connected already, and nothing new; answers from now on close their connection."""
        while self.pool.accept(self.listener):
            pass
        self.draining = self.handlers.closing = self.health.draining = True
        self.watch_listener(now)
        self.listener.close()
        self.row[READY] = 0.0
        self.tick(now)
