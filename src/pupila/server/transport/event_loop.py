"""Serves a WSGI application to many connections at once, with one deadline a request. Knows sockets and clocks.

One thread serves: it reads what has come on all connections, computes the short requests among it together, sends the
answers, and reads again. So no request waits for a thread to wake. Whenever that takes long, another thread stands in
for it at the selector, so that deadlines are kept and health is answered: who holds the baton is the loop. What is long
goes to handler threads; a slow upload costs a buffer, not a thread. When a deadline passes, the loop answers in their
place: `clock` notices, `stand_in` answers, and `intake` decides on what comes in.
"""

import logging
import math
import socket
import threading
import time
from collections.abc import Callable
from wsgiref.types import WSGIApplication

from pupila.server.inference.classifier import BATCH
from pupila.server.observability.health import Health
from pupila.server.observability.request_log import Ledger
from pupila.server.process.scoreboard import LEAVING, READY, Board
from pupila.server.settings import Settings
from pupila.server.transport.admission import Intake
from pupila.server.transport.connections import Pool
from pupila.server.transport.error_responses import StandIn
from pupila.server.transport.executor import Begun, Handlers
from pupila.server.transport.forwarded import TrustedProxies
from pupila.server.transport.handoff import Door, Doors
from pupila.server.transport.listener import Listener
from pupila.server.transport.reactor import Turns
from pupila.server.transport.watchdog import TICK, Clock

log = logging.getLogger("pupila.server")

LONG = 0.05
"""Seconds of decoding and computing after which another thread stands in for the one that serves."""
TURN = 0.02
"""Seconds for which requests are begun before those that were begun are computed."""


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
        doors: Doors,
        slot: int,
    ) -> None:
        self.settings = settings
        self.health = health
        self.row = board.row(slot)
        proxies = TrustedProxies(settings.forwarded_allow)
        self.pool = Pool(self.row, settings.keepalive_timeout, settings.max_body_bytes, proxies)
        self.listener = Listener(listener, self.pool, board, settings.max_connections)
        door = Door(doors, slot, self.pool, board)
        self.turns = Turns(self.pool, door, settings.keepalive_timeout, settings.request_timeout)
        is_unix = listener.family == socket.AF_UNIX
        server = ("localhost", "80") if is_unix else (settings.host, str(listener.getsockname()[1]))
        self.handlers = Handlers(app, server, settings, ledger, self.turns.post)
        self.stand_in = StandIn(self.pool, ledger)
        self.clock = Clock(self.pool, self.handlers, self.stand_in, settings, self.row)
        self.turns.start(Intake(self.pool, self.handlers, self.stand_in, settings))
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
            self.turns.wake()
            self.baton.acquire()

    def step(self, timeout: float) -> None:
        """Keep time, then give the connections their turns; if none is due, wait so many seconds for one."""
        now = time.monotonic()
        if now >= self.next_tick:
            self.next_tick = now + TICK
            self.beat()
            self.clock.tick(now)
        if not self.draining and self.clock.wedged:
            log.error("a request runs long past its deadline: another worker takes this one's place")
            self.row[LEAVING] = 1.0
            self.drain(now, self.settings.request_timeout)
        elif not self.draining and not self.still_wanted():
            self.listener.take_all()
            self.drain(now, self.settings.graceful_timeout)
        if self.draining and (now >= self.end or not self.pool):
            self.over.set()
            return
        self.listener.watch(now, wanted=not self.draining)
        self.turns.take(self.listener.patience(now, timeout))

    def drain(self, now: float, seconds: float) -> None:
        """Accept nothing more, and end in so many seconds; answers from now on close their connection."""
        self.end = now + seconds
        self.listener.close(now)
        self.draining = self.clock.draining = self.handlers.closing = self.health.draining = True
        self.row[READY] = 0.0
        self.clock.tick(now)
