"""Supervises the worker processes: start, watchdog, replacement, reload, graceful shutdown.

The supervisor forks the workers, one for each CPU with one computing thread (pictures are small, so that more threads
only wait), and each loads the model and runs an event loop. It looks at them several times a
second, and each time makes them what they should be: a worker whose heartbeat stops is killed and replaced.
"""

import contextlib
import logging
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from flask import Flask

from pupila._files import stamp_of
from pupila._language import translated
from pupila._workers import usable_cores, usable_cpus
from pupila.errors import DataError, ModelError, SettingsError
from pupila.predictor import Predictor
from pupila.progress import OneLine
from pupila.server.addresses import EVERYBODY, bind, example, url_of
from pupila.server.api.auth import AccessControl
from pupila.server.api.errors import SILENCE
from pupila.server.api.feedback_writer import Collector, new_table, prepare
from pupila.server.api.request_context import EXTENSION
from pupila.server.app import create_app
from pupila.server.model_versions import BusyError, HotReloader, load_first, open_file, warm_up
from pupila.server.observability.request_log import COLUMNS, STDOUT, RequestLog, Telemetry, opened
from pupila.server.observability.tracing import Tracer, check_tracing
from pupila.server.process.libc import give_memory_back, silence_libtiff
from pupila.server.process.scoreboard import (
    DEADLY,
    DUE,
    HEARTBEAT,
    LEAVING,
    LOADING,
    MARKS,
    PENDING,
    PID,
    READY,
    STARTS,
    Health,
    Scoreboard,
    SharedTable,
)
from pupila.server.settings import Settings
from pupila.server.transport.event_loop import EventLoop
from pupila.server.transport.tls import certificate_of

log = logging.getLogger("pupila.server")
address = logging.getLogger("pupila.server.address")
"""Shows where the server listens, on standard output and whatever the log level."""
address.setLevel(logging.INFO)
address.propagate = False

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


STALLED = 3.0
"""Seconds without a heartbeat after which a worker is killed, whatever it does."""
MISSING = 1.5
"""Seconds without a heartbeat after which another worker is started beside it, to serve within 3 s."""
SILENT = 0.6
"""Seconds without a heartbeat, three beats: no reason yet to kill an idle worker on a busy machine ..."""
OVERDUE = 0.4
"""... but reason enough when one of its requests is so many seconds past its deadline."""
BOOT, LOADED, TAKEN_OVER = 60.0, 45.0, 30.0
"""Seconds after which a worker that still loads its model is killed; after which it refuses a model that took so long,
at its start; and the same for a hot reload, where it must be less, as a successor has to load it at its start."""
TURN, TURNS = 0.05, 10.0
"""Seconds between two looks whether another worker still loads the model, and for which a successor waits for that."""
GIVE_UP, LOADING_GIVE_UP = 30.0, 300.0
"""Seconds without a worker that could load the model, after which the server ends; and where workers are killed while
they load it, as the second time it is refused, and the last good one is loaded."""
LOOK = 0.2
"""Seconds between two looks at the workers."""
ASLEEP = 1.0
"""Seconds between two looks after which the supervisor has been stopped itself, and its workers perhaps with it."""
SHORT_LIFE = 2.0
"""Seconds that a worker must have served; one that ends sooner may have a successor that does so, too."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds before a worker is started in place of a short-lived one that came in place of another; doubled each time."""
GONE = 1.0
"""Seconds that killed workers have to be gone: one that waits for a disk cannot be waited for."""
HANDLED = signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM
FAULTS = signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV
"""What a process ends with by a fault of its own."""
IGNORED = signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2


def serve(model: Path, settings: Settings, load: Callable[[Path], Predictor] = Predictor.load) -> None:
    """Serve a model file until SIGTERM or SIGINT; raises SettingsError or ModelError if it cannot be."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine(LOG_FORMAT))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("pupila").setLevel(settings.log_level.upper())
    if not address.handlers:
        address.addHandler(logging.StreamHandler(sys.stderr if settings.access_log == STDOUT else sys.stdout))
    if EVERYBODY in settings.forwarded_allow:
        log.warning(
            "--forwarded-allow '*' believes what anybody says of the client's address: any client can choose what the "
            "access log shows. Name your proxies, or see to it that only they reach this port."
        )
    certificate_of(settings.tls_certificate, settings.tls_key)
    check_writable(settings.access_log)
    prepare(settings)
    traced = check_tracing(settings.traces)
    Supervisor(model, settings, load, bind(settings), traced).run()


def check_writable(log: Path | None) -> None:
    """Raise SettingsError if the access log cannot be written: a worker that found out could only die of it."""
    if log is None or log == STDOUT:
        return
    try:
        os.close(opened(log))  # with the permissions that a log of addresses should have
    except OSError as error:
        raise SettingsError(f"{log}: cannot be written ({error.strerror}). Choose another --access-log.") from error


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
        with contextlib.suppress(OSError, ValueError):  # the kernel has a limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))


def name_of_end(code: int) -> str:
    """Return how a process has ended; not every signal has a name."""
    if code >= 0:
        return f"code {code}"
    known = {int(one): one.name for one in signal.Signals}
    return known.get(-code, f"signal {-code}")


def flush_output() -> None:
    """Write what is buffered; a standard output that is closed, or that nobody reads, must not end the server."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # None where the process was started without
            stream.flush()


@dataclass
class WorkerProcess:
    """A worker as the supervisor sees it."""

    slot: int
    """Its row of the scoreboard."""
    born: float
    retiring: bool = False
    """It drains as soon as others can answer in its place."""
    killed: bool = False
    """It had no heartbeat."""


class Supervisor:
    """The parent process. What it makes before the fork is shared with the workers."""

    def __init__(
        self,
        model: Path,
        settings: Settings,
        load: Callable[[Path], Predictor],
        listener: socket.socket,
        traced: bool = False,
    ) -> None:
        self.model = model
        self.settings = settings
        self.load_model = load
        self.listener = listener
        listener.setblocking(False)
        self.url = url_of(listener, "https" if settings.tls_certificate else "http")
        self.traced = traced
        self.wanted = settings.workers or usable_cores()
        """How many workers there should be."""
        rows = 2 * self.wanted  # one that leaves keeps its row, while another has taken its place
        self.scoreboard = Scoreboard(rows)
        self.health = Health(self.scoreboard)
        self.counts = SharedTable(rows, COLUMNS)
        self.access = AccessControl(settings.api_keys, settings.cors_origins)
        self.keeping = new_table(rows)
        self.original = open_file(model)
        self.workers: dict[int, WorkerProcess] = {}
        """By process id, the oldest first."""
        self.failure = ""
        """Why no worker can load the model."""
        self.silent_until = 0.0
        """From when on a worker that cannot start, each in a process of its own, logs a traceback again."""
        self.failures, self.report = os.pipe()
        os.set_blocking(self.failures, False)
        self.ready_at: float | None = None
        """When a worker was ready last; None before the first one was."""
        self.reload_wanted = False
        """After SIGHUP, until the workers that start now are ready: they cannot retire before."""
        self.process = os.getpid()
        self.begun = self.last_look = self.awake_since = time.monotonic()
        self.next_start = 0.0
        """When a worker may be started: at once, unless several in a row were short-lived."""
        self.pause = 0.0
        self.signals, self.woken = socket.socketpair()
        self.poll = select.poll()  # takes descriptors of any number

    def run(self) -> None:
        """Fork the workers and supervise them until stopped; raises ModelError if none of them can load the model."""
        foreground = has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN  # not so under nohup
        with self.catching_signals():
            failure = self.supervise(foreground)
        if failure:
            raise ModelError(failure)

    def supervise(self, foreground: bool) -> str:
        """Start, replace, reload and retire workers until a signal or a failure says to stop; return the failure."""
        received: set[int] = set()
        while not received & {signal.SIGINT, signal.SIGTERM, signal.SIGQUIT} and not self.failure:
            if signal.SIGHUP in received:
                if foreground and not has_terminal():  # it was closed
                    break
                self.reload_wanted = True
            self.reap()
            self.kill_stalled()
            self.reload()
            self.start_missing()
            self.retire()
            received = self.wait(LOOK)
        failure = self.failure
        self.stop(at_once=signal.SIGQUIT in received)
        return failure

    @contextlib.contextmanager
    def catching_signals(self) -> Iterator[None]:
        """Have signals end `wait`, and restore their handlers afterwards: a notebook goes on after serve()."""
        for end in (self.signals, self.woken):
            end.setblocking(False)
        before = {number: signal.getsignal(number) for number in (*HANDLED, *IGNORED)}
        for number in HANDLED:
            signal.signal(number, lambda *_: None)
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        woken = signal.set_wakeup_fd(self.woken.fileno(), warn_on_full_buffer=False)
        self.poll.register(self.signals, select.POLLIN)
        try:
            yield
        finally:
            signal.set_wakeup_fd(woken)
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)  # None: not set by Python

    def wait(self, seconds: float) -> set[int]:
        """Return the signals that come within so many seconds; at once when there are some."""
        self.poll.poll(1000 * seconds)
        with contextlib.suppress(BlockingIOError):
            return set(self.signals.recv(4096))
        return set()

    def start_missing(self) -> None:
        """Start workers: one that leaves, retires or seems to hang is replaced before it is gone, if a row is free."""
        free = sorted(set(range(self.scoreboard.rows)) - {worker.slot for worker in self.workers.values()})
        missing = self.wanted - len(self.lasting())
        for slot in free[: max(missing, 0)]:
            if time.monotonic() < self.next_start or not self.start(slot):
                return

    def start(self, slot: int) -> bool:
        """Start a worker; False if the system has no room for a process, which may pass."""
        self.scoreboard.clear(slot)
        self.scoreboard.row(slot)[STARTS] += 1
        flush_output()
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)  # until the worker has handlers of its own
        try:
            pid = os.fork()
            if not pid:
                self.work(slot)
        except OSError as error:
            self.scoreboard.row(slot)[STARTS] -= 1
            self.delay_starts()
            log.error("a worker cannot be started, which is tried again in a moment: %s", error.strerror)
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        self.workers[pid] = WorkerProcess(slot, time.monotonic())
        return True

    def delay_starts(self) -> None:
        """Start the next worker after a pause, and double that for the next time."""
        self.next_start = time.monotonic() + self.pause
        self.pause = min(2 * self.pause or FIRST_PAUSE, LONGEST_PAUSE)

    def lasting(self) -> list[WorkerProcess]:
        """Return the workers that take requests from now on, the oldest first: those that leave or hang do not."""
        return [
            worker
            for worker in self.workers.values()
            if not (worker.retiring or self.scoreboard.row(worker.slot)[LEAVING] or self.silence(worker) > MISSING)
        ]

    def silence(self, worker: WorkerProcess) -> float:
        """Return the seconds since a worker's last heartbeat; while it loads the model, those beyond BOOT.

        Time in which the supervisor was stopped itself does not count: its workers may have been, with it.
        """
        heartbeat = self.scoreboard.row(worker.slot)[HEARTBEAT] or worker.born + BOOT
        return time.monotonic() - max(heartbeat, self.awake_since)

    def reload(self) -> None:
        """Have all workers retire, if SIGHUP asked for it; while some start or retire, later: no row would be free."""
        lasting = self.lasting()
        ready = lasting and all(self.scoreboard.row(worker.slot)[READY] for worker in lasting)
        if self.reload_wanted and ready and not any(worker.retiring for worker in self.workers.values()):
            self.reload_wanted = False
            for worker in lasting:
                worker.retiring = True

    def retire(self) -> None:
        """Drain workers that others have replaced: after SIGHUP, and the oldest if one that seemed to hang recovers."""
        lasting = self.lasting()
        for worker in lasting[: -self.wanted]:
            worker.retiring = True
        if sum(self.scoreboard.row(worker.slot)[READY] for worker in lasting) >= self.wanted:
            for pid, worker in self.workers.items():
                if worker.retiring:
                    os.kill(pid, signal.SIGTERM)

    def kill_stalled(self) -> None:
        """Kill the workers whose heartbeat has stopped; SIGKILL, as a stopped process handles no other signal."""
        now = time.monotonic()
        if now - self.last_look > ASLEEP:
            self.awake_since = now
        self.last_look = now
        if self.scoreboard.ready():
            self.ready_at = now
        patience = min(STALLED, max(1.0, self.settings.request_timeout))
        for pid, worker in self.workers.items():
            row, silence = self.scoreboard.row(worker.slot), self.silence(worker)
            stalled = STALLED if row[LOADING] else patience  # a session that is made lets no other thread run
            overdue = not row[LOADING] and 0 < row[DUE] < now - OVERDUE and silence > SILENT
            if (overdue or silence > stalled) and not worker.killed:
                log.error("worker %d has no heartbeat: it is replaced", pid)
                os.kill(pid, signal.SIGKILL)
                worker.killed = True
            if row[READY] and worker.born >= self.next_start and now - worker.born > SHORT_LIFE:
                self.pause = 0.0

    def reap(self) -> None:
        """Forget the workers that have ended; as process 1 of a container, reap other orphans, too."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                worker = self.workers.pop(found[0], None)
                if worker is not None:
                    self.forget(worker, found[0], os.waitstatus_to_exitcode(found[1]))
        with contextlib.suppress(BlockingIOError):
            self.give_up(os.read(self.failures, 65536).decode(errors="replace").splitlines()[-1], first=True)
            if time.monotonic() >= self.silent_until:
                self.silent_until = time.monotonic() + SILENCE

    def forget(self, worker: WorkerProcess, pid: int, code: int) -> None:
        """Free the row of a worker that has ended, and find out whether its successor should wait."""
        if code:
            log.error("worker %d has ended with %s", pid, name_of_end(code))
        never_ready = not self.scoreboard.row(worker.slot)[HEARTBEAT]
        if never_ready or (code and time.monotonic() - worker.born < SHORT_LIFE):
            if worker.born >= self.next_start:  # else its end belongs to those that have caused the pause
                self.delay_starts()
            blamed = bool(self.scoreboard.row(worker.slot)[LOADING]) and -code in (*FAULTS, signal.SIGKILL)
            reason = f"No worker can start: the last one has ended with {name_of_end(code)}. See the log."
            self.give_up(reason, after=LOADING_GIVE_UP if blamed else GIVE_UP)
        stalled = worker.killed and bool(self.scoreboard.row(worker.slot)[HEARTBEAT])  # not while it started
        self.scoreboard.clear(worker.slot)
        self.scoreboard.blame(worker.slot, -code in FAULTS, -code == signal.SIGKILL, stalled)
        row = self.keeping.row(worker.slot)  # its queue is gone with it
        row[PENDING] = 0.0
        row[MARKS:] = memoryview(bytes(8 * len(row[MARKS:]))).cast("d")

    def give_up(self, reason: str, first: bool = False, after: float = GIVE_UP) -> None:
        """End the server for this reason if there has been no worker for long, or never one and `first` is enough."""
        if (first and self.ready_at is None) or time.monotonic() - (self.ready_at or self.begun) > after:
            self.failure = reason

    def stop(self, at_once: bool) -> None:
        """Drain the workers (graceful shutdown), but end at once at a second Ctrl-C, or if asked to."""
        name = self.listener.getsockname()
        self.listener.close()
        if isinstance(name, str):
            Path(name).unlink(missing_ok=True)
        until = time.monotonic() + self.settings.graceful_timeout + 1
        while self.workers and not at_once and time.monotonic() < until:
            for pid in self.workers:
                os.kill(pid, signal.SIGTERM)
            at_once = bool(self.wait(LOOK) & {signal.SIGINT, signal.SIGQUIT})
            self.reap()
        for pid in self.workers:
            os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + GONE
        while self.workers and time.monotonic() < until:
            self.wait(LOOK)
            self.reap()

    def work(self, slot: int) -> NoReturn:
        """Be a worker: one event loop, one compute thread. Its process ends here: stuck threads must not hold it."""
        try:
            os._exit(self.run_worker(slot))
        except BaseException:
            log.exception("a worker has ended")
        os._exit(1)

    def run_worker(self, slot: int) -> int:
        """Serve until stopped; return the exit status."""
        wanted = [True]
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: wanted.clear())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all of the group: the supervisor drains us
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as does a closed terminal's
        signal.signal(signal.SIGQUIT, lambda *_: os._exit(0))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        row = self.scoreboard.row(slot)
        try:
            app, request_log, collector = self.load(slot)
        except Exception as error:
            return self.report_failure(error)
        if self.scoreboard.sum(STARTS) == 1 or (slot == 0 and row[STARTS] == 1):
            count = self.wanted
            plan = f"{count} worker{'s' * (count != 1)}, 1 computing thread each ({usable_cpus():g} CPUs usable)"
            address.info(translated(f"Listening on {self.url} with {plan}. Stop with Ctrl-C."))
            address.info(translated(f"Try: {example(self.url)}"))
        give_memory_back()
        silence_libtiff()
        raise_descriptor_limit(self.settings.max_connections + 64)
        shared = self.settings, self.health, request_log, self.scoreboard
        loop = EventLoop(app, self.listener, *shared, slot, self.access)
        row[PID] = os.getpid()
        loop.run(lambda: bool(wanted) and os.getppid() == self.process)
        request_log.close()
        if collector is not None:
            collector.close()
        flush_output()
        return int(loop.stuck)

    def report_failure(self, error: Exception) -> int:
        """Tell the supervisor why this worker cannot serve, whatever the error's text is made of; return the status."""
        foreseen = isinstance(error, ModelError | DataError)
        reason = str(error) if foreseen else f"A worker cannot start ({type(error).__name__}: {str(error)[:500]})."
        os.write(self.report, f"{' '.join(reason.split())}\n".encode(errors="backslashreplace"))
        if self.ready_at is not None or not foreseen:
            is_new = not foreseen and time.monotonic() >= self.silent_until
            log.error("a new worker cannot load the model: %s", error, exc_info=is_new)
        return 0 if foreseen else 1

    def loader(self, slot: int, most: float, patience: float | None) -> Callable[[Path], Predictor]:
        """Return what loads a model and computes every batch size, but not of a file that has ended a worker so.

        Nor of one for which that takes more than so many seconds. patience: seconds to wait while another worker loads
        the same file, after which it is loaded none the less; of 0 seconds BusyError is raised. None: at once.
        """
        row = self.scoreboard.row(slot)

        def load(path: Path) -> Predictor:
            number, asked = 1.0 + hash(stamp_of(path)) % 2**48, time.monotonic()
            while patience is not None and number != row[DEADLY] and not self.scoreboard.claim(slot, number):
                if patience == 0:
                    raise BusyError("Another worker is loading it.", path)
                if time.monotonic() > asked + patience:
                    break
                time.sleep(TURN)
            if number == row[DEADLY]:
                raise ModelError("Loading it has ended a process. Export or copy it again.", path)
            row[LOADING] = number
            begun = time.monotonic()
            try:
                predictor = self.load_model(path)
                warm_up(predictor)
            finally:
                row[LOADING] = 0.0
            if time.monotonic() > begun + most:
                raise ModelError(f"Loading it takes more than {most:g} s. Train a smaller network.", path)
            self.scoreboard.accept(slot, number)
            return predictor

        return load

    def load(self, slot: int) -> tuple[Flask, RequestLog, Collector | None]:
        """Load the model in a worker, after the fork: ONNX Runtime's threads do not survive one.

        Put the application together, and watch for the next model. Raises ModelError or DataError.
        """
        tracer = Tracer.exporting(self.settings.traces, slot) if self.traced else None
        request_log = RequestLog(Telemetry(self.counts, slot), self.settings.access_log, tracer)
        stamp = stamp_of(self.model)
        fallback = self.original if self.ready_at is not None else None
        load = self.loader(slot, LOADED, patience=TURNS if fallback is not None else None)
        predictor, self.health.refused = load_first(self.model, load, fallback)
        collector = None
        if self.settings.feedback_dir is not None:
            replaces = self.scoreboard.sum(STARTS) > self.wanted
            collector = Collector(self.settings, self.keeping, slot, replaces)
        app = create_app(predictor, self.settings, self.health, request_log, self.access, collector)
        load = self.loader(slot, TAKEN_OVER, patience=0)
        about = self.model, app.extensions[EXTENSION].classifier, self.health, load, stamp
        HotReloader(*about, request_log.telemetry.forget_classes).start()
        return app, request_log, collector
