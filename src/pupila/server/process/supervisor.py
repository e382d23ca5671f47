"""From a model file to a running server: binds, forks workers, loads the model in each of them. Knows gunicorn."""

import contextlib
import logging
import math
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from pupila.errors import DataError, ModelError, SettingsError
from pupila.predictor import Predictor
from pupila.server.api.auth import AccessControl
from pupila.server.api.feedback_writer import PENDING, Collector, new_table, prepare
from pupila.server.api.views import EXTENSION
from pupila.server.app import create_app
from pupila.server.model_versions.hot_reload import Swapper, load_first, open_file, stamp_of
from pupila.server.observability.health import Health
from pupila.server.observability.request_log import STDOUT, Ledger, opened
from pupila.server.observability.telemetry import COLUMNS, Telemetry
from pupila.server.observability.tracing import Tracer, check_tracing
from pupila.server.process.cpu_plan import make_plan
from pupila.server.process.scoreboard import STARTS, Board
from pupila.server.process.shared_table import Table
from pupila.server.process.worker import LoopArbiter, LoopWorker
from pupila.server.settings import Settings
from pupila.server.transport.handoff import Doors
from pupila.server.transport.listening import bind, example, url_of
from pupila.server.transport.tls import certificate_of

log = logging.getLogger("pupila.server")
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
        self.board = Board(rows)
        self.doors = Doors(rows)
        self.health = Health(self.board)
        self.counts = Table(rows, COLUMNS)
        self.access = AccessControl(settings.api_keys, settings.cors_origins)
        self.keeping = new_table(rows)
        self.collector: Collector | None = None
        self.original = open_file(model)
        self.traced = False
        self.booted = False
        """Whether a worker was ready once: from then on a worker that cannot load does not end the server."""
        super().__init__()

    def run(self) -> None:
        """Fork the workers and look after them until told to stop."""
        LoopArbiter(self).run()

    def load_config(self) -> None:
        """Tell gunicorn what we chose."""
        chosen: dict[str, Any] = {
            "bind": f"fd://{self.listener}",
            "workers": self.plan.workers,
            "worker_class": LoopWorker,
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
            self.ledger = Ledger(Telemetry(self.counts, self.slot), self.settings.access_log, tracer)
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
            replaces = self.board.sum(STARTS) > self.plan.workers
            self.collector = Collector(self.settings, self.keeping, self.slot, replaces)
        app = create_app(predictor, self.settings, self.health, self.ledger, self.access, self.collector)
        swapper = Swapper(self.model, app.extensions[EXTENSION].classifier, self.health, self.load_model, stamp)
        swapper.on_new_classes = self.ledger.telemetry.forget_classes
        swapper.start()
        return app

    def load_failed(self) -> bool:
        """Return whether a worker has reported that it cannot load the model."""
        if not self.booted and not self.failure:
            with contextlib.suppress(BlockingIOError):
                self.failure = os.read(self.failures, 65536).decode().splitlines()[0]
        return bool(self.failure)

    def give_slot(self, arbiter: Any, worker: Any) -> None:
        """Give a worker that is about to be forked its row of the board."""
        worker.slot = min(self.free_rows(arbiter))
        worker.born = time.monotonic()
        self.board.clear(worker.slot)
        self.board.row(worker.slot)[STARTS] += 1

    def clear_slot(self, arbiter: Any, worker: Any) -> None:
        """Forget a worker that has ended."""
        if worker.slot in self.free_rows(arbiter):
            self.board.clear(worker.slot)
            self.doors.clear(worker.slot)
            self.keeping.row(worker.slot)[PENDING] = 0.0  # its queue is gone with it

    def free_rows(self, arbiter: Any) -> set[int]:
        """Return the rows of the board that no worker has."""
        return set(range(self.board.rows)) - {worker.slot for worker in arbiter.WORKERS.values()}

    def let_strays_go(self, arbiter: Any) -> None:
        """Close what was handed to a worker just when it ended: there may be nobody behind that door for long."""
        for slot in self.free_rows(arbiter):
            self.doors.clear(slot)

    def announce(self, worker: Any) -> None:
        """Say, once the first worker is ready, where it listens and what to try."""
        if worker.age == 1:
            to = sys.stderr if self.settings.access_log == STDOUT else sys.stdout
            print(f"Listening on {self.url} with {self.plan}. Stop with Ctrl-C.", file=to, flush=True)
            print(f"Try: {example(self.url)}", file=to, flush=True)
