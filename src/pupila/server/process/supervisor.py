"""Supervises the worker processes under gunicorn: start, watchdog, replacement, reload, graceful shutdown.

The supervisor forks the workers, and each loads the model and runs an event loop. A worker whose heartbeat stops is
killed and replaced.
"""

import contextlib
import logging
import math
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.workers.base import Worker

from pupila._cpus import usable_cores, usable_cpus
from pupila.errors import DataError, ModelError, SettingsError
from pupila.predictor import Predictor
from pupila.server.addresses import bind, example, url_of
from pupila.server.api.auth import AccessControl
from pupila.server.api.feedback_writer import Collector, new_table, prepare
from pupila.server.api.request_context import EXTENSION
from pupila.server.app import create_app
from pupila.server.model_versions import HotReloader, load_first, open_file, stamp_of
from pupila.server.observability.request_log import COLUMNS, STDOUT, RequestLog, Telemetry, opened
from pupila.server.observability.tracing import Tracer, check_tracing
from pupila.server.process.libc import give_memory_back, silence_libtiff
from pupila.server.process.scoreboard import (
    DUE,
    HEARTBEAT,
    LEAVING,
    PENDING,
    PID,
    STARTS,
    Health,
    Scoreboard,
    SharedTable,
)
from pupila.server.settings import Settings
from pupila.server.transport.admission import HandoffSockets
from pupila.server.transport.event_loop import EventLoop
from pupila.server.transport.tls import certificate_of


@dataclass(frozen=True)
class WorkerPlan:
    """One worker process per CPU, one computing thread each: pictures are small, so that more threads only wait."""

    cpus: float
    workers: int

    def __str__(self) -> str:
        return f"{self.workers} worker{'s' * (self.workers != 1)}, 1 computing thread each ({self.cpus:g} CPUs usable)"


def make_plan(workers: int = 0) -> WorkerPlan:
    """Return the plan for this machine; `workers` above 0 overrides the number of processes."""
    return WorkerPlan(usable_cpus(), workers or usable_cores())


log = logging.getLogger("pupila.server")

STALLED = 3.0
"""Seconds without a heartbeat after which a worker is killed, whatever it does."""
MISSING = 1.5
"""Seconds without a heartbeat after which another worker is started beside it, to serve within 3 s."""
SILENT = 0.6
"""Seconds without a heartbeat, three beats: no reason yet to kill an idle worker on a busy machine ..."""
OVERDUE = 0.4
"""... but reason enough when one of its requests is so many seconds past its deadline."""
BOOT = 60.0
"""Seconds that a worker may take to load the model."""
LOOK = 0.2
"""Seconds between two looks at the workers."""


class EventLoopWorker(Worker):  # type: ignore[misc]  # gunicorn has no types
    """A worker process: one event loop, one compute thread."""

    slot: int
    """Its row of the scoreboard, given to it before the fork."""
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
        """Serve until stopped (graceful shutdown), then leave at once: stuck threads must not hold the process."""
        give_memory_back()
        silence_libtiff()
        raise_descriptor_limit(self.app.settings.max_connections + 2 * self.app.scoreboard.rows + 64)
        listener = self.sockets[0].sock
        app = self.app
        shared = app.settings, app.health, app.request_log, app.scoreboard, app.handoffs
        loop = EventLoop(self.wsgi, listener, *shared, self.slot, app.access)
        self.app.scoreboard.row(self.slot)[PID] = os.getpid()
        loop.run(lambda: self.alive and os.getppid() == self.ppid, self.notify)
        app.request_log.close()
        if app.collector is not None:
            app.collector.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1 if loop.stuck else 0)


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


class WatchdogArbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's arbiter with a watchdog: reads heartbeats often, so that a stopped worker is gone in time."""

    def __init__(self, app: Any) -> None:
        self.scoreboard: Scoreboard = app.scoreboard
        self.halting = False
        self.foreground = has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        """Whether the server ends with its terminal; not so under nohup."""
        super().__init__(app)

    @property
    def num_workers(self) -> int:
        """How many there should be: one that leaves or seems to hang is replaced before it is gone.

        If the worker recovers, there is one over target, and the oldest worker drains. There are as many spare rows as
        workers: if all of them leave, and those that came in their place, too, the next ones wait for the first to end.
        """
        lost = sum(map(self.is_lost, self.WORKERS.values()))
        return int(self._num_workers + min(lost, self.scoreboard.rows - self._num_workers))

    @num_workers.setter
    def num_workers(self, value: int) -> None:
        self._num_workers = value

    def is_lost(self, worker: EventLoopWorker) -> bool:
        """Return whether a worker that was ready takes no more requests, as far as can be told."""
        row = self.scoreboard.row(worker.slot)
        return bool(row[LEAVING]) or 0 < row[HEARTBEAT] < time.monotonic() - MISSING

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
        """Kill the workers whose heartbeat has stopped; SIGKILL, as a stopped process handles no other signal."""
        self.app.booted = self.app.booted or self.scoreboard.ready() > 0
        now = time.monotonic()
        stalled = min(STALLED, max(1.0, self.app.settings.request_timeout))
        for pid, worker in list(self.WORKERS.items()):
            row = self.scoreboard.row(worker.slot)
            silence = now - row[HEARTBEAT] if row[HEARTBEAT] else now - worker.born - BOOT
            overdue = 0 < row[DUE] < now - OVERDUE and silence > SILENT
            if overdue or silence > stalled:
                log.error("worker %d has no heartbeat: it is replaced", pid)
                self.kill_worker(pid, signal.SIGKILL)
        self.app.close_orphaned_handoffs(self)


LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def serve(model: Path, settings: Settings, load: Callable[[Path], Predictor] = Predictor.load) -> None:
    """Serve a model file until SIGTERM or SIGINT; raises SettingsError or ModelError if it cannot be."""
    logging.basicConfig(format=LOG_FORMAT)
    logging.getLogger("pupila").setLevel(settings.log_level.upper())
    certificate_of(settings)
    check_writable(settings.access_log)
    prepare(settings)
    traced = check_tracing(settings.traces)
    server = Server(model, settings, load, bind(settings))
    server.traced = traced
    try:
        server.run()
    except SystemExit as stop:
        if server.failure:
            raise ModelError(server.failure) from None
        if stop.code:
            raise


def check_writable(log: Path | None) -> None:
    """Raise SettingsError if the access log cannot be written: a worker that found out could only die of it."""
    if log is None or log == STDOUT:
        return
    try:
        os.close(opened(log))  # with the permissions that a log of addresses should have
    except OSError as error:
        raise SettingsError(f"{log}: cannot be written ({error.strerror}). Choose another --access-log.") from error


def temporary_folder() -> str | None:
    """Return where gunicorn can keep a worker's empty file; None for the usual place, if that can be written to."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:  # a container whose root is read-only
        return "/dev/shm"  # noqa: S108
    return None


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn with our settings; it forks the workers and replaces those that die."""

    def __init__(
        self, model: Path, settings: Settings, load: Callable[[Path], Predictor], listener: socket.socket
    ) -> None:
        self.model = model
        self.settings = settings
        self.load_model = load
        self.url = url_of(listener, "https" if settings.tls_certificate else "http")
        self.listener = listener.detach()  # gunicorn owns and closes it from here on
        self.failure = ""
        """Why no worker could load the model, when the server was started."""
        self.failures, self.report = os.pipe()
        os.set_blocking(self.failures, False)
        self.plan = make_plan(settings.workers)
        rows = 2 * self.plan.workers  # one that leaves keeps its row, while another has taken its place
        self.scoreboard = Scoreboard(rows)
        self.handoffs = HandoffSockets(rows)
        self.health = Health(self.scoreboard)
        self.counts = SharedTable(rows, COLUMNS)
        self.access = AccessControl(settings.api_keys, settings.cors_origins)
        self.keeping = new_table(rows)
        self.collector: Collector | None = None
        self.original = open_file(model)
        self.traced = False
        self.booted = False
        """Whether a worker was ready once: from then on a worker that cannot load does not end the server."""
        super().__init__()

    def run(self) -> None:
        """Fork the workers and supervise them until stopped."""
        WatchdogArbiter(self).run()

    def load_config(self) -> None:
        """Tell gunicorn what we chose."""
        chosen: dict[str, Any] = {
            "bind": f"fd://{self.listener}",
            "workers": self.plan.workers,
            "worker_class": EventLoopWorker,
            "graceful_timeout": math.ceil(self.settings.graceful_timeout),
            "control_socket_disable": True,
            "worker_tmp_dir": temporary_folder(),
            "errorlog": "-",
            "loglevel": self.settings.log_level,
            "pre_fork": self.give_slot,
            "child_exit": self.clear_slot,
            "post_worker_init": self.announce,
        }
        for name, value in chosen.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Load the model in a worker, after the fork: ONNX Runtime's threads do not survive one."""
        try:
            tracer = Tracer.exporting(self.settings.traces, self.slot) if self.traced else None
            self.request_log = RequestLog(Telemetry(self.counts, self.slot), self.settings.access_log, tracer)
            return self.make_app()
        except (ModelError, DataError) as error:
            if self.booted:
                log.error("a new worker cannot load the model: %s", error)
                time.sleep(1)  # the arbiter tries again at once
                os._exit(1)
            os.write(self.report, f"{error}\n".encode())
            os._exit(0)  # not sys.exit: that would unwind into the caller of `serve`, in the worker

    def make_app(self) -> Flask:
        """Load the model, put the application together, and watch for the next model."""
        stamp = stamp_of(self.model)
        predictor, self.health.refused = load_first(self.model, self.load_model, self.original if self.booted else None)
        if self.settings.feedback_dir is not None:
            replaces = self.scoreboard.sum(STARTS) > self.plan.workers
            self.collector = Collector(self.settings, self.keeping, self.slot, replaces)
        app = create_app(predictor, self.settings, self.health, self.request_log, self.access, self.collector)
        reloader = HotReloader(self.model, app.extensions[EXTENSION].classifier, self.health, self.load_model, stamp)
        reloader.on_new_classes = self.request_log.telemetry.forget_classes
        reloader.start()
        return app

    def load_failed(self) -> bool:
        """Return whether a worker has reported that it cannot load the model."""
        if not self.booted and not self.failure:
            with contextlib.suppress(BlockingIOError):
                self.failure = os.read(self.failures, 65536).decode().splitlines()[0]
        return bool(self.failure)

    def give_slot(self, arbiter: Any, worker: Any) -> None:
        """Give a worker that is about to be forked its row of the scoreboard."""
        worker.slot = min(self.free_rows(arbiter))
        worker.born = time.monotonic()
        self.scoreboard.clear(worker.slot)
        self.scoreboard.row(worker.slot)[STARTS] += 1

    def clear_slot(self, arbiter: Any, worker: Any) -> None:
        """Forget a worker that has ended."""
        if worker.slot in self.free_rows(arbiter):
            self.scoreboard.clear(worker.slot)
            self.handoffs.clear(worker.slot)
            self.keeping.row(worker.slot)[PENDING] = 0.0  # its queue is gone with it

    def free_rows(self, arbiter: Any) -> set[int]:
        """Return the rows of the scoreboard that no worker has."""
        return set(range(self.scoreboard.rows)) - {worker.slot for worker in arbiter.WORKERS.values()}

    def close_orphaned_handoffs(self, arbiter: Any) -> None:
        """Close sockets handed to a worker that exited before accepting them."""
        for slot in self.free_rows(arbiter):
            self.handoffs.clear(slot)

    def announce(self, worker: Any) -> None:
        """Say, once the first worker is ready, where it listens and what to try."""
        if worker.age == 1:
            to = sys.stderr if self.settings.access_log == STDOUT else sys.stdout
            print(f"Listening on {self.url} with {self.plan}. Stop with Ctrl-C.", file=to, flush=True)
            print(f"Try: {example(self.url)}", file=to, flush=True)
