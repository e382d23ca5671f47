"""gunicorn's side: a worker process that runs the loop, and an arbiter that replaces a worker that does not answer."""

import logging
import os
import resource
import signal
import sys
import time
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.workers.base import Worker

from pupila.server.process.libc import give_memory_back, silence_libtiff
from pupila.server.process.scoreboard import BEAT, DUE, LEAVING, PID, Board
from pupila.server.transport.event_loop import EventLoop

log = logging.getLogger("pupila.server")

STALLED = 3.0
"""Seconds without a sign of life after which a worker is killed, whatever it does."""
MISSING = 1.5
"""Seconds without a sign of life after which another worker is started beside it, to serve within 3 s."""
SILENT = 0.6
"""Seconds without a sign of life, three beats: no reason yet to kill an idle worker on a busy machine ..."""
OVERDUE = 0.4
"""... but reason enough when one of its requests is so many seconds past its deadline."""
BOOT = 60.0
"""Seconds that a worker may take to load the model."""
LOOK = 0.2
"""Seconds between two looks at the workers."""


class LoopWorker(Worker):  # type: ignore[misc]  # gunicorn has no types
    """A worker process with one loop."""

    slot: int
    """Its row of the board, given to it before the fork."""
    born: float

    def init_signals(self) -> None:
        """SIGTERM drains, SIGQUIT ends at once; Ctrl-C goes to the whole group, of which the arbiter drains us."""
        super().init_signals()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal's, too, goes to the whole group
        signal.signal(signal.SIGQUIT, lambda *_: os._exit(0))

    def load_wsgi(self) -> None:
        """Load the model; the application counts in this worker's row."""
        self.app.slot = self.slot
        super().load_wsgi()

    def run(self) -> None:
        """Serve until told to stop, then leave at once: threads that are stuck must not hold the process."""
        give_memory_back()
        silence_libtiff()
        raise_descriptor_limit(self.app.settings.max_connections + 2 * self.app.board.rows + 64)
        listener = self.sockets[0].sock
        app = self.app
        shared = app.settings, app.health, app.ledger, app.board, app.doors
        loop = EventLoop(self.wsgi, listener, *shared, self.slot, app.access)
        self.app.board.row(self.slot)[PID] = os.getpid()
        loop.run(lambda: self.alive and os.getppid() == self.ppid, self.notify)
        app.ledger.close()
        if app.collector is not None:
            app.collector.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1 if loop.clock.wedged else 0)


def has_terminal() -> bool:
    """Return whether this process has a terminal that is open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def raise_descriptor_limit(wanted: int) -> None:
    """Ask for as many open files as there may be connections, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))


class LoopArbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's arbiter, but it looks more often and at more, so that a stopped worker is gone in time."""

    def __init__(self, app: Any) -> None:
        self.board: Board = app.board
        self.halting = False
        self.foreground = has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        """Whether the server ends with its terminal; not so under nohup."""
        super().__init__(app)

    @property
    def num_workers(self) -> int:
        """How many there should be: one that leaves or seems to hang is replaced before it is gone.

        If it comes round after all, there is one too many, and the oldest drains. There are as many spare rows as
        workers: if all of them leave, and those that came in their place, too, the next ones wait for the first to end.
        """
        lost = sum(map(self.is_lost, self.WORKERS.values()))
        return int(self._num_workers + min(lost, self.board.rows - self._num_workers))

    @num_workers.setter
    def num_workers(self, value: int) -> None:
        self._num_workers = value

    def is_lost(self, worker: LoopWorker) -> bool:
        """Return whether a worker that was ready takes no more requests, as far as can be told."""
        row = self.board.row(worker.slot)
        return bool(row[LEAVING]) or 0 < row[BEAT] < time.monotonic() - MISSING

    def handle_hup(self) -> None:
        """End if the terminal was closed in which the server runs; else reload: start new workers, and drain these."""
        if self.foreground and not has_terminal():
            raise StopIteration
        super().handle_hup()

    def handle_int(self) -> None:
        """Ctrl-C drains like SIGTERM; a second one ends at once."""
        raise StopIteration

    def wait_for_signals(self, timeout: float = LOOK) -> list[Any]:
        """Look at the workers several times a second."""
        signals: list[Any] = super().wait_for_signals(min(timeout, LOOK))
        return signals

    def reap_workers(self) -> None:
        """Replace workers that have ended, unless the model cannot be loaded at all: then end."""
        super().reap_workers()
        if not self.halting and self.app.load_failed():
            self.halting = True  # or `halt`, which reaps once more, would come here again
            raise HaltServer(self.app.failure, 0)  # `serve` raises it as an error

    def murder_workers(self) -> None:
        """Kill the workers that show no sign of life; SIGKILL, as a stopped process hears nothing else."""
        self.app.booted = self.app.booted or self.board.ready() > 0
        now = time.monotonic()
        stalled = min(STALLED, max(1.0, self.app.settings.request_timeout))
        for pid, worker in list(self.WORKERS.items()):
            row = self.board.row(worker.slot)
            silence = now - row[BEAT] if row[BEAT] else now - worker.born - BOOT
            overdue = 0 < row[DUE] < now - OVERDUE and silence > SILENT
            if overdue or silence > stalled:
                log.error("worker %d shows no sign of life: it is replaced", pid)
                self.kill_worker(pid, signal.SIGKILL)
        self.app.let_strays_go(self)
