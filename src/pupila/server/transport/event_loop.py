"""The event loop of one worker: dispatches ready sockets, keeps deadlines (watchdog), and drains (graceful shutdown).

One thread, this one, owns the selector; it neither decodes pictures nor computes. It reads what has come on all
connections, gives complete requests to the executor's threads, sends their responses, and answers in their place when a
deadline has passed. Keys and addresses take turns, and so do the connections of each: a turn is one recv, one request
or 1,000 chunk lines. So no client starves the others, however many connections it has. A slow upload costs a buffer,
not a thread.
"""

import contextlib
import logging
import math
import socket
import time
from collections import deque
from collections.abc import Callable
from wsgiref.types import WSGIApplication

from pupila.server.addresses import NOBODY, TrustedProxies
from pupila.server.api.auth import AccessControl
from pupila.server.api.errors import DeadlineError, log_fault, too_slow
from pupila.server.observability.request_log import RequestLog
from pupila.server.process.scoreboard import DUE, HEARTBEAT, LEAVING, READY, WAITING, Health, Scoreboard
from pupila.server.settings import Settings
from pupila.server.transport.admission import TICK, AdmissionControl, Listener, too_many_uploads
from pupila.server.transport.connection import READ, WRITE, Connection, ConnectionTable, Request
from pupila.server.transport.executor import Executor, Turns
from pupila.server.transport.parser import Head, ProtocolError
from pupila.server.transport.tls import certificate_of

GRACE = 0.2
"""Seconds after its deadline in which a request's own thread may still answer."""
HEAD_TIMEOUT = 5.0
"""Seconds from a request's first byte to the end of its head."""
LAST_WORDS = 0.5
"""Seconds that an idle connection has, when the server drains, for a request that is on its way already."""

log = logging.getLogger("pupila.server")

RECEIVE = 262144
"""Bytes of a body that are read at once."""
PIPELINED = 65536
"""Bytes that are read at once where no body is expected, and kept while a request is in work before reading stops."""
PASS_SECONDS = 0.02
"""Seconds of one pass over ready connections, after which the loop looks at its clock."""


class Reactor:
    """Dispatches ready sockets. Used by the I/O thread only, except `post`, `wake` and `reserve`.

    A connection is the I/O thread's, except while one of its requests is in work: it is then the thread's that answers,
    which posts it back with its response. Until then what comes is only kept.
    """

    def __init__(self, pool: ConnectionTable, idle: float, deadline: float) -> None:
        self.pool = pool
        self.idle = idle
        self.deadline = deadline
        self.due: Turns[tuple[Connection, int]] = Turns()
        """Whom to dispatch, and why: READ for what has come, WRITE to go on with what is here already."""
        self.posted: deque[Connection] = deque()
        """Connections whose requests have been answered."""
        self.given_up: deque[tuple[Connection, Request | Head | None]] = deque()
        """Whose requests, or uploads by their head, have given way to others, and are to be refused."""
        self.scratch = memoryview(bytearray(RECEIVE))
        self.wake_reader, self.wake_writer = socket.socketpair()
        self.wake_reader.setblocking(False)
        self.wake_writer.setblocking(False)

    def start(self, admission: AdmissionControl) -> None:
        """Begin to watch for posts."""
        self.admission = admission
        self.pool.selector.register(self.wake_reader, READ, self.woken)

    def post(self, connection: Connection) -> None:
        """Give a connection back whose request is answered, its response in `out`; `wake` has the loop send it."""
        self.posted.append(connection)

    def wake(self) -> None:
        """End the selector's wait."""
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes the loop just as well
            self.wake_writer.send(b"1")

    def reserve(self, connection: Connection, wanted: int) -> bool:
        """Reserve memory for a request that a thread works on; False if there is none. Any thread may call this.

        Where none is left, the largest that waits of who has most reserved gives way to who has less.
        """
        while not self.pool.reserve(connection, wanted):
            other = self.pool.gives_way(connection, wanted)
            if other is None:
                return False
            if other.request is None or other.request.give_up():
                self.given_up.append((other, other.request or other.head))
                other.body_bytes = 0
                self.wake()
        return True

    def take(self, patience: float) -> None:
        """Dispatch what is ready, for about PASS_SECONDS seconds; if nothing is, wait so long for something.

        New connections and posts come first, and once: else each read would wait for hundreds that connect.
        """
        self.take_back()
        for key, events in self.pool.selector.select(0 if self.due else patience):
            if isinstance(key.data, Connection):
                self.put_in_line(key.data, events)
            else:
                self.dispatch(key.data, events)
        self.take_back()
        until = time.monotonic() + PASS_SECONDS
        while self.due:
            self.dispatch(*self.due.next())
            if time.monotonic() >= until:
                return

    def put_in_line(self, connection: Connection, events: int) -> None:
        """Have a connection dispatched when it is its turn, once for each reason."""
        self.due.add(connection.line, (connection, events & READ or WRITE))

    def dispatch(self, whose: Connection | Callable[[], None], events: int) -> None:
        """Dispatch one socket; a fault of ours in it must not end all others."""
        try:
            if not isinstance(whose, Connection):
                whose()
            elif whose not in self.pool:  # dropped since it was put in line
                return
            elif not events & READ:
                if whose.request is None:  # else the thread that answers it may be sending just now
                    self.pool.settle(whose)
                    self.advance(whose)
            elif whose.watched & READ:
                self.receive(whose)
        except Exception as error:
            log_fault(error, "a connection is dropped" if isinstance(whose, Connection) else "a dispatch has failed")
            if isinstance(whose, Connection):
                self.pool.drop(whose)

    def begin_tick(self) -> None:
        """Let those go on who had had their share."""
        for connection in self.admission.begin_tick():
            self.put_in_line(connection, WRITE)

    def woken(self) -> None:
        """Somebody has posted."""
        with contextlib.suppress(BlockingIOError):
            self.wake_reader.recv(4096)
        self.take_back()

    def take_back(self) -> None:
        """Send the responses that were posted; connections with more to do are dispatched next."""
        now = time.monotonic()
        while self.given_up:
            connection, whose = self.given_up.popleft()
            if connection in self.pool and has_given_way(connection, whose):
                self.admission.refuse(connection, too_many_uploads())
        while self.posted:
            connection = self.posted.popleft()
            if connection.request is not None:  # it was not ended in the meantime
                connection.finish(now, self.idle)
            if connection in self.pool:
                self.pool.settle(connection)
            if connection.out:
                self.pool.limit_unsent()
            if connection not in self.pool:
                continue
            if connection.buffer or connection.ended:
                self.put_in_line(connection, WRITE)

    def receive(self, connection: Connection) -> None:
        """Read what has come."""
        try:
            count = connection.sock.recv_into(self.scratch, RECEIVE if connection.head else PIPELINED)
        except BlockingIOError:
            return
        except OSError:
            self.lose(connection)
            return
        if not count:
            self.end_of_input(connection)
        elif not connection.closing:
            connection.buffer += self.scratch[:count]
            if connection.request is None:
                self.advance(connection)
            elif len(connection.buffer) > PIPELINED:
                self.pool.watch(connection, 0)

    def lose(self, connection: Connection) -> None:
        """The client is gone: drop its request if nobody works on it yet."""
        request = connection.request
        if request is None or (not request.taken and request.give_up()):
            self.pool.drop(connection)
        else:
            connection.ended = True
            self.pool.watch(connection, 0)

    def end_of_input(self, connection: Connection) -> None:
        """The client sends nothing more, but may still be reading: what has arrived completely is answered."""
        if connection.lingers and connection.request is None:
            self.pool.drop(connection)
            return
        connection.ended = True
        self.pool.watch(connection, 0)
        self.advance(connection)

    def advance(self, connection: Connection) -> None:
        """Take up the next request if it is complete: one a pass, or who sends thousands at once delays all others."""
        busy = connection.request is not None or connection.closing or connection.out
        if busy or connection not in self.pool:
            return
        now = time.monotonic()
        if not connection.started and connection.buffer:
            connection.begin(now, self.deadline)
        try:
            arrived = connection.head_arrived()
            if arrived is not None and not self.admission.begin(connection, arrived):
                return
            if not self.admission.reserve(connection):
                return
            request = connection.take(now)
        except ProtocolError as error:
            self.admission.refuse_malformed(connection, error)
            return
        if request is not None:
            self.admission.dispatch(connection, request)
        elif connection.paused:
            self.pool.watch(connection, 0)  # what is here comes first
            self.put_in_line(connection, WRITE)
        elif connection.ended:  # nothing more comes
            self.pool.drop(connection)


class EventLoop:
    """One worker's."""

    def __init__(
        self,
        app: WSGIApplication,
        listener: socket.socket,
        settings: Settings,
        health: Health,
        request_log: RequestLog,
        scoreboard: Scoreboard,
        slot: int,
        access: AccessControl,
    ) -> None:
        self.settings = settings
        self.health = health
        self.row = scoreboard.row(slot)
        proxies = TrustedProxies(settings.forwarded_allow) if settings.forwarded_allow else NOBODY
        limits = settings.keepalive_timeout, settings.max_body_bytes
        share = max(16, settings.max_connections // 8)
        most = settings.max_buffered_bytes
        certificate = certificate_of(settings.tls_certificate, settings.tls_key)
        self.pool = ConnectionTable(self.row, *limits, proxies, certificate, share, most)
        self.listener = Listener(listener, self.pool, scoreboard, settings.max_connections)
        self.reactor = Reactor(self.pool, settings.keepalive_timeout, settings.request_timeout)
        is_unix = listener.family == socket.AF_UNIX
        server = ("localhost", "80") if is_unix else (settings.host, str(listener.getsockname()[1]))
        calls = self.reactor.post, self.reactor.wake, self.reactor.reserve
        self.executor = Executor(app, server, settings, request_log, *calls)
        self.admission = AdmissionControl(self.pool, self.listener, self.executor, request_log, settings, access)
        self.reactor.start(self.admission)
        self.draining = False
        self.stuck = False
        """A request runs long past its deadline, or none is computed: the process has to be replaced."""
        self.next_tick = 0.0
        self.end = math.inf
        """When connections that are left after draining are cut off."""
        self.over = False

    def run(self, still_wanted: Callable[[], bool]) -> None:
        """Serve until `still_wanted` says no, then drain."""
        self.still_wanted = still_wanted
        self.executor.start()
        self.watch(time.monotonic())
        while not self.over:
            self.step(TICK)

    def step(self, timeout: float) -> None:
        """Dispatch ready connections, and keep time; if none is ready, wait so many seconds for one."""
        now = time.monotonic()
        if not self.draining and self.stuck:
            log.error(
                "a request runs long past its deadline, or none is computed: another worker takes this one's place"
            )
            self.row[LEAVING] = 1.0
            self.drain(now, self.settings.request_timeout)
        elif not self.draining and not self.still_wanted():
            self.listener.take_all()
            self.drain(now, self.settings.graceful_timeout)
        if self.draining and (now >= self.end or not self.pool):
            self.over = True
            return
        self.listener.watch(now, wanted=not self.draining)
        self.reactor.take(self.listener.patience(now, timeout))
        now = time.monotonic()
        if now >= self.next_tick:
            self.next_tick = now + TICK
            self.watch(now)
        self.executor.flush()

    def drain(self, now: float, seconds: float) -> None:
        """Accept nothing more, and end in so many seconds; answers from now on close their connection."""
        self.end = now + seconds
        self.listener.close(now)
        self.draining = self.executor.closing = self.health.draining = True
        self.row[READY] = 0.0
        self.watch(now)

    def watch(self, now: float) -> None:
        """Enforce every deadline (watchdog), and write the worker's heartbeat and load; called every TICK."""
        due = math.inf
        for connection in list(self.pool.open.values()):
            due = min(due, self.check(connection, now))
        self.pool.limit_shares(now)
        self.reactor.begin_tick()
        self.stuck = self.executor.is_stuck(now)
        for queue in self.executor.queues:
            queue.measure(now)
        self.row[HEARTBEAT] = now
        self.row[DUE] = due
        self.row[WAITING] = self.executor.waiting
        self.row[READY] = not self.draining

    def check(self, connection: Connection, now: float) -> float:
        """End what has taken too long; return when this connection's request is due, once it is there."""
        request = connection.request
        if request is not None:
            if now >= request.context.deadline + GRACE and request.give_up():
                self.admission.refuse(connection, DeadlineError())
            return request.context.deadline
        if connection.in_head and now >= connection.started + HEAD_TIMEOUT:
            self.refuse_slow(connection, "The request's head", HEAD_TIMEOUT)
        elif connection.started and now >= connection.deadline:
            self.refuse_slow(connection, "The request", self.settings.request_timeout)
        elif not connection.started and now >= connection.expires:
            self.pool.drop(connection)
        elif self.draining and connection.fresh:
            connection.expires = min(connection.expires, now + LAST_WORDS)
        return math.inf

    def refuse_slow(self, connection: Connection, what: str, seconds: float) -> None:
        """Refuse a request of which too little has come."""
        self.admission.refuse(connection, too_slow(seconds, what))


def has_given_way(connection: Connection, whose: Request | Head | None) -> bool:
    """Return whether a connection is still at the request that gave way, or at the upload of this head.

    Of an upload that has come to its end meanwhile, the request gives way if no thread has it yet.
    """
    request = connection.request
    if request is None:
        return whose is not None and connection.head is whose
    return request is whose or (request.head is whose and request.give_up())
