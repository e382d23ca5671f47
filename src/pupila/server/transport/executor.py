"""Calls the WSGI application and sends its answers, in threads of their own or in the loop's. Knows no selector."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from wsgiref.types import WSGIApplication

from pupila.server.api.fast_path import Front, Visit
from pupila.server.api.request_context import AGAIN, IMPATIENT, LONG
from pupila.server.inference.batcher import QueueFullError
from pupila.server.observability.request_log import Ledger
from pupila.server.observability.telemetry import Note
from pupila.server.settings import Settings
from pupila.server.transport.connection import Connection, Request
from pupila.server.transport.request_queue import Line
from pupila.server.transport.wsgi import environ_of, respond, response_bytes, status_of

log = logging.getLogger("pupila.server")

HEAVY = 524288
"""Bytes of body from which a request counts as heavy: its decoding may take long, so it goes to threads of its own."""
LIGHT_THREADS = 4
HEAVY_THREADS = 2

Job = tuple[Connection, Request, Visit | None]
"""A request, and how far it has come if it has been begun."""
Begun = tuple[Connection, Request, Visit]


class Handlers:
    """A fixed number of threads: memory and contention stay the same however many clients there are.

    Short requests to /predict have none: the thread that serves takes those that wait, and answers them together.
    """

    def __init__(
        self,
        app: WSGIApplication,
        server: tuple[str, str],
        settings: Settings,
        ledger: Ledger,
        hand_back: Callable[[Connection], None],
    ) -> None:
        self.app = app
        front = getattr(app, "wsgi_app", None)
        self.front = front if isinstance(front, Front) else None
        self.ledger = ledger
        self.server = server
        self.hand_back = hand_back
        """Called when an answer is on its way; from then on the connection is the loop's again."""
        self.closing = False
        """Whether answers ask the client to open a new connection: true while draining."""
        self.running: dict[int, Request] = {}
        """The requests in work, by their identity."""
        self.short: Line[Job] = Line(settings.max_waiting)
        """Requests for the thread that serves."""
        self.light: Line[Job] = Line(settings.max_waiting)
        self.heavy: Line[Job] = Line(settings.max_waiting)
        self.lines = self.short, self.light, self.heavy

    def start(self) -> None:
        """Start the threads; they end with the process."""
        for line, count in ((self.light, LIGHT_THREADS), (self.heavy, HEAVY_THREADS)):
            for _ in range(count):
                threading.Thread(target=self._work, args=(line,), daemon=True).start()

    def line_of(self, request: Request) -> Line[Job]:
        """Return where a request that has arrived is to wait."""
        if len(request.body) >= HEAVY:
            return self.heavy
        plain = self.front is not None and request.head.path == "/predict" and request.head.method == "POST"
        return self.short if plain else self.light

    @property
    def waiting(self) -> int:
        """Requests that no thread has taken up yet."""
        return sum(map(len, self.lines))

    def begin(self, most: int, until: float) -> list[Begun]:
        """Take up at most so many of the short requests that wait, as far as they go without computing."""
        begun: list[Begun] = []
        while self.front is not None and self.short and len(begun) < most and time.monotonic() < until:
            connection, request, _ = self.short.get()
            if self._take(request, self.short):
                begun.append((connection, request, Visit(self.front, environ_of(request, self.server))))
        return begun

    def end(self, begun: Sequence[Begun]) -> None:
        """Compute what was begun, all of it together, and send the answers; what takes long goes to a thread."""
        if self.front is not None:
            self.front.proceed([visit for _, _, visit in begun])
        for job in begun:
            if job[2].response is not None or not self._passed_on(job):
                self._answer(*job, "")

    def answer(self, connection: Connection, request: Request, visit: Visit | None = None, mark: str = "") -> bool:
        """Call the application and send its answer, unless the deadline has passed and the loop has answered.

        `mark` is put into the environment. False if a caller marked as impatient has found it to be long, so that it
        waits for another thread now.
        """
        close = self.closing or not request.head.keep_alive
        if visit is None:
            environ = environ_of(request, self.server)
            environ.update({mark: True} if mark else {})
            response = respond(self.app, environ, close)
            if LONG in environ and self._passed_on((connection, request, None)):
                return False
        else:
            environ = visit.environ
            response = response_bytes(*visit.finish(), close, False)
        if not request.claim.acquire(blocking=False):
            return True
        head = request.head
        note = environ.get("pupila.note") or Note()
        self.ledger.record(note, head.method, head.path, status_of(response), request.started, request.address)
        if not connection.send(response) or close:
            connection.closing = True
        self.hand_back(connection)
        return True

    def _passed_on(self, job: Job) -> bool:
        """Have a request that has turned out to be long wait for a thread; False if that would take too long."""
        _, request, visit = job
        delay = self.heavy.refusal(time.monotonic(), request.deadline)
        if delay is not None:
            if visit is not None:
                visit.go_on(QueueFullError(delay))
            return False
        request.taken = False
        del self.running[id(request)]  # so that a long queue does not look like a thread that hangs
        self.heavy.put(job)
        return True

    def _take(self, request: Request, line: Line[Job]) -> bool:
        """Take a request up, unless the client is gone or its time is over."""
        if request.claim.locked():
            return False
        line.taken += 1
        request.taken = True
        self.running[id(request)] = request
        return True

    def _answer(self, connection: Connection, request: Request, visit: Visit | None, mark: str) -> None:
        """Answer a request that was taken up, come what may."""
        try:
            if not self.answer(connection, request, visit, mark):
                return
        except Exception:  # a thread that ends is missing ever after
            log.exception("a request could not be answered")
            connection.closing = True
            self.hand_back(connection)
        del self.running[id(request)]

    def _work(self, line: Line[Job]) -> None:
        while True:
            connection, request, visit = line.get()
            if self._take(request, line):
                again = AGAIN if len(request.body) < HEAVY else ""
                self._answer(connection, request, visit, IMPATIENT if line is self.light else again)
            del connection, request, visit  # or an idle thread would keep the last body in memory
