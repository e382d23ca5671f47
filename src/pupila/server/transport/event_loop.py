"""Event loop of one worker: serves a WSGI application to many connections at once, with one deadline a request.

One thread, this one, owns the selector; it neither decodes pictures nor computes. It reads what has come on all
connections, gives complete requests to the executor's threads, and keeps every deadline: `watchdog` notices one that
has passed, `error_responses` answers in the thread's place. A slow upload costs a buffer, not a thread.
"""

import logging
import math
import socket
import time
from collections.abc import Callable
from wsgiref.types import WSGIApplication

from pupila.server.api.auth import AccessControl
from pupila.server.observability.health import Health
from pupila.server.observability.request_log import Ledger
from pupila.server.process.scoreboard import LEAVING, READY, Board
from pupila.server.settings import Settings
from pupila.server.transport.admission import Intake
from pupila.server.transport.connections import Pool
from pupila.server.transport.error_responses import StandIn
from pupila.server.transport.executor import Executor
from pupila.server.transport.forwarded import TrustedProxies
from pupila.server.transport.handoff import Door, Doors
from pupila.server.transport.listener import Listener
from pupila.server.transport.reactor import Turns
from pupila.server.transport.tls import certificate_of
from pupila.server.transport.watchdog import TICK, Clock

log = logging.getLogger("pupila.server")


class EventLoop:
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
        access: AccessControl,
    ) -> None:
        self.settings = settings
        self.health = health
        self.row = board.row(slot)
        proxies = TrustedProxies(settings.forwarded_allow)
        limits = settings.keepalive_timeout, settings.max_body_bytes
        share = max(16, settings.max_connections // 8)
        self.pool = Pool(self.row, *limits, proxies, certificate_of(settings), share)
        self.listener = Listener(listener, self.pool, board, settings.max_connections)
        door = Door(doors, slot, self.pool, board)
        self.turns = Turns(self.pool, door, settings.keepalive_timeout, settings.request_timeout)
        is_unix = listener.family == socket.AF_UNIX
        server = ("localhost", "80") if is_unix else (settings.host, str(listener.getsockname()[1]))
        self.executor = Executor(app, server, settings, ledger, self.turns.post, self.turns.wake)
        self.stand_in = StandIn(self.pool, ledger)
        self.clock = Clock(self.pool, self.executor, self.stand_in, settings, self.row)
        self.turns.start(Intake(self.pool, self.executor, self.stand_in, settings, access))
        self.draining = False
        self.next_tick = 0.0
        self.end = math.inf
        """When connections that are left after draining are cut off."""
        self.over = False

    def run(self, still_wanted: Callable[[], bool], beat: Callable[[], object]) -> None:
        """Serve until `still_wanted` says no, then drain. `beat` is called at least every TICK."""
        self.still_wanted, self.beat = still_wanted, beat
        self.executor.start()
        while not self.over:
            self.step(TICK)

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
            self.over = True
            return
        self.listener.watch(now, wanted=not self.draining)
        self.turns.take(self.listener.patience(now, timeout))
        self.executor.flush()

    def drain(self, now: float, seconds: float) -> None:
        """Accept nothing more, and end in so many seconds; answers from now on close their connection."""
        self.end = now + seconds
        self.listener.close(now)
        self.draining = self.clock.draining = self.executor.closing = self.health.draining = True
        self.row[READY] = 0.0
        self.clock.tick(now)
