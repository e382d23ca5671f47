"""Threads that call the WSGI application and send its answers. Knows nothing of how requests arrive."""

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from wsgiref.types import WSGIApplication

from pupila.server.connection import Connection, Request
from pupila.server.ledger import Ledger
from pupila.server.telemetry import Note
from pupila.server.wsgi import environ_of, respond, status_of

log = logging.getLogger("pupila.server")

HEAVY = 131072
"""Bytes of body from which a request counts as heavy: its decoding may take long, so it goes to threads of its own."""
LIGHT_THREADS = 8
"""As many as are computed in one batch, so that a batch can come together."""
HEAVY_THREADS = 2

Job = tuple[Connection, Request]


class Handlers:
    """A fixed number of threads: memory and contention stay the same however many clients there are."""

    def __init__(
        self,
        app: WSGIApplication,
        server: tuple[str, str],
        idle: float,
        ledger: Ledger,
        hand_back: Callable[[Connection], None],
    ) -> None:
        self.app = app
        self.ledger = ledger
        self.server = server
        self.idle = idle
        self.hand_back = hand_back
        """Called from a handler thread when there is something left to do that only the loop may do."""
        self.closing = False
        """Whether answers ask the client to open a new connection: true while draining."""
        self.answered = 0
        self.running: dict[int, Request] = {}
        """The request that each thread has in work, by thread."""
        self._light: SimpleQueue[Job] = SimpleQueue()
        self._heavy: SimpleQueue[Job] = SimpleQueue()

    def start(self) -> None:
        """Start the threads; they end with the process."""
        for queue, count in ((self._light, LIGHT_THREADS), (self._heavy, HEAVY_THREADS)):
            for _ in range(count):
                threading.Thread(target=self._work, args=(queue,), daemon=True).start()

    def submit(self, connection: Connection, request: Request) -> None:
        """Queue a request that has arrived."""
        (self._heavy if len(request.body) >= HEAVY else self._light).put((connection, request))

    @property
    def waiting(self) -> int:
        """Requests that no thread has taken up yet."""
        return self._light.qsize() + self._heavy.qsize()

    def answer(self, connection: Connection, request: Request) -> None:
        """Call the application and send its answer, unless the deadline has passed and the loop has answered."""
        close = self.closing or not request.head.keep_alive
        environ = environ_of(request, self.server)
        response = respond(self.app, environ, close)
        if not request.claim.acquire(blocking=False):
            return
        head = request.head
        note = environ.get("pupila.note") or Note()
        self.ledger.record(note, head.method, head.path, status_of(response), request.started, request.address)
        if not connection.send(response) or close:
            connection.closing = True
        self.answered += 1
        connection.finish(time.monotonic(), self.idle)
        if connection.needs_loop:
            self.hand_back(connection)

    def _work(self, queue: SimpleQueue[Job]) -> None:
        me = threading.get_ident()
        while True:
            connection, request = queue.get()
            if request.claim.locked():
                continue  # the client is gone, or its time is over
            request.taken = True
            self.running[me] = request
            try:
                self.answer(connection, request)
            except Exception:  # a thread that ends is missing ever after
                log.exception("a request could not be answered")
                connection.closing = True
                self.hand_back(connection)
            del self.running[me]
            del connection, request  # or an idle thread would keep the last body in memory
