"""Serves a WSGI application to many connections at once, with one deadline a request. Knows sockets and clocks.

One thread serves: it reads what has come on all connections, computes the short requests among it together, sends the
answers, and reads again. So no request waits for a thread to wake. Whenever that takes long, another thread stands in
for it at the selector, so that deadlines are kept and health is answered: who holds the baton is the loop. What is long
goes to handler threads; a slow upload costs a buffer, not a thread. When a deadline passes, the loop answers in their
place: `clock` notices, `stand_in` answers, and `intake` decides on what comes in.
"""

import contextlib
import logging
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from wsgiref.types import WSGIApplication

from pupila.server.board import READY, Board
from pupila.server.classifier import BATCH
from pupila.server.clock import TICK, Clock
from pupila.server.connection import Connection
from pupila.server.handlers import Begun, Handlers
from pupila.server.health import Health
from pupila.server.http1 import ProtocolError
from pupila.server.intake import Intake
from pupila.server.ledger import Ledger
from pupila.server.listener import Listener
from pupila.server.pool import READ, WRITE, Pool
from pupila.server.settings import Settings
from pupila.server.stand_in import StandIn

log = logging.getLogger("pupila.server")

LONG = 0.05
"""Seconds of decoding and computing after which another thread stands in for the one that serves."""
TURN = 0.02
"""Seconds for which requests are begun before those that were begun are computed."""
RECEIVE = 262144
MAX_PIPELINED = 65536


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
        self.settings = settings
        self.health = health
        self.row = board.row(slot)
        self.pool = Pool(self.row, settings.idle, settings.max_body_bytes)
        self.selector = self.pool.selector
        self.listener = Listener(listener, self.pool, board, settings.connections)
        self.posted: deque[Connection] = deque()
        self.wake_reader, self.wake_writer = socket.socketpair()
        self.wake_reader.setblocking(False)
        self.wake_writer.setblocking(False)
        server = (settings.host, str(listener.getsockname()[1]))
        self.handlers = Handlers(app, server, settings, ledger, self.post)
        self.stand_in = StandIn(self.pool, ledger)
        self.clock = Clock(self.pool, self.handlers, self.stand_in, settings, self.row)
        self.intake = Intake(self.pool, self.handlers, self.stand_in, settings)
        self.scratch = memoryview(bytearray(RECEIVE))
        self.draining = False
        self.next_tick = 0.0
        self.end = math.inf
        """When connections that are left after draining are cut off."""
        self.over = threading.Event()
        self.fault: BaseException | None = None
        self.baton = threading.Lock()
        """Who holds it may touch the connections."""
        self.away_since = math.inf
        """From when on the thread that serves has been without the baton, to decode and to compute."""

    def run(self, still_wanted: Callable[[], bool], beat: Callable[[], object]) -> None:
        """Serve until `still_wanted` says no, then drain. `beat` is called at least every TICK.

        Another thread serves; this one stands in for it.
        """
        self.still_wanted, self.beat = still_wanted, beat
        self.handlers.start()
        self.selector.register(self.wake_reader, READ, None)
        threading.Thread(target=self.serve, daemon=True, name="loop").start()
        while not self.over.wait(LONG):
            if self.baton.acquire(blocking=False):
                try:
                    while time.monotonic() - self.away_since > LONG and not self.over.is_set():
                        self.step(TICK)
                finally:
                    self.baton.release()
        if self.fault is not None:
            raise self.fault

    def serve(self) -> None:
        """Serve until all is over; a fault of ours ends the process."""
        try:
            while not self.over.is_set():
                self.round()
        except BaseException as fault:
            self.fault = fault
            self.over.set()

    def round(self) -> None:
        """Read all that has come, begin the short requests among it, and when no more come, end them together."""
        begun: list[Begun] = []
        until = math.inf
        while len(begun) < BATCH and time.monotonic() < until:
            self.take_baton()
            try:
                self.step(0 if begun or self.handlers.short else TICK)
            finally:
                self.away_since = time.monotonic()
                self.baton.release()
            if not self.handlers.short:
                break
            until = min(until, time.monotonic() + TURN)
            begun += self.handlers.begin(BATCH - len(begun), until)
            if len(begun) == len(self.pool):
                break  # nobody is left who could ask for more
        if begun:
            self.handlers.end(begun)

    def take_baton(self) -> None:
        """Come back to the selector; whoever stands in for us there makes room."""
        self.away_since = math.inf
        if not self.baton.acquire(blocking=False):
            self.wake()
            self.baton.acquire()

    def step(self, timeout: float) -> None:
        """Keep time, then handle what the selector reports within so many seconds."""
        now = time.monotonic()
        if now >= self.next_tick:
            self.next_tick = now + TICK
            self.beat()
            self.clock.tick(now)
        if not self.draining and (self.clock.wedged or not self.still_wanted()):
            self.drain(now)
            self.end = now + (self.settings.deadline if self.clock.wedged else self.settings.drain)
        if self.draining and (now >= self.end or not self.pool):
            self.over.set()
            return
        self.listener.watch(now, wanted=not self.draining)
        for key, events in self.selector.select(self.listener.patience(now, timeout)):
            self.handle(key.data, events)

    def post(self, connection: Connection) -> None:
        """Give a connection back to the loop, from another thread."""
        self.posted.append(connection)
        self.wake()

    def wake(self) -> None:
        """End the selector's wait."""
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes the loop just as well
            self.wake_writer.send(b"1")

    def handle(self, connection: Connection | Callable[[], None] | None, events: int) -> None:
        """Handle what the selector reports of one connection, of the listener, or of the handlers."""
        if connection is None:
            self.take_posted()
        elif not isinstance(connection, Connection):
            connection()
        elif connection in self.pool:  # it may have been dropped since the selector saw it
            try:
                (self.resume if events & WRITE else self.receive)(connection)
            except Exception:  # a fault of ours on one connection must not end all others
                log.exception("a connection is dropped")
                self.pool.drop(connection)

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

    # Reading

    def receive(self, connection: Connection) -> None:
        """Read what has come."""
        try:
            count = connection.sock.recv_into(self.scratch)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self.end_of_input(connection)
        elif not connection.closing:
            connection.buffer += self.scratch[:count]
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
                arrived = connection.head_arrived()
                if arrived is not None and not self.intake.begin(connection, arrived):
                    return
                request = connection.take(now)
                if request is None:
                    self.intake.look_at_rest(connection)
                    return
                self.intake.hand_over(connection, request)
            if connection.request is None:
                self.pool.settle(connection)
        except ProtocolError as error:
            self.stand_in.refuse(connection, error.status, error.code, str(error))

    def drain(self, now: float) -> None:
        """Take what has been connected already, and nothing new; answers from now on close their connection."""
        self.listener.close(now)
        self.draining = self.clock.draining = self.handlers.closing = self.health.draining = True
        self.row[READY] = 0.0
        self.clock.tick(now)
