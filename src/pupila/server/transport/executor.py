"""Executes requests: a fixed pool of threads, the compute thread's queue, and the sending of responses."""

import logging
import threading
from collections.abc import Callable
from wsgiref.types import WSGIApplication

from pupila.server.api.predict import PredictMiddleware, PredictTask, is_predict
from pupila.server.api.request_context import context_of
from pupila.server.inference.batcher import QueueFullError
from pupila.server.inference.classifier import Computed
from pupila.server.observability.request_log import Ledger
from pupila.server.settings import Settings
from pupila.server.transport.connection import Connection, Request
from pupila.server.transport.request_queue import RequestQueue
from pupila.server.transport.wsgi import CLOSE, environ_of, persistence_of, respond, response_bytes, status_of

log = logging.getLogger("pupila.server")

LARGE = 524288
"""Bytes of body from which a request goes to threads of its own: its decoding may take long, as may unpacking."""
LIGHT_THREADS = 4
INFERENCE_THREADS = 4
LARGE_THREADS = 2

Job = tuple[Connection, Request, PredictTask | None]
"""A request, and how far it has come if it has been begun."""


class Executor:
    """A fixed number of threads: memory and contention stay the same however many clients there are.

    The compute thread answers POST /predict, several requests together. Requests with large bodies or large pictures,
    other protocols' inference, and all other routes have threads of their own.
    """

    def __init__(
        self,
        app: WSGIApplication,
        server: tuple[str, str],
        settings: Settings,
        ledger: Ledger,
        post: Callable[[Connection], None],
        wake: Callable[[], None],
    ) -> None:
        self.app = app
        middleware = getattr(app, "wsgi_app", None)
        self.predict = middleware if isinstance(middleware, PredictMiddleware) else None
        if self.predict is not None:
            self.predict.classifier.batcher.after_batch = self._deliver_batch
        self.ledger = ledger
        self.server = server
        self.post = post
        """Called with a connection when its response is in `out`; from then on it is the event loop's again."""
        self.wake = wake
        """Has the event loop send what was posted."""
        self.closing = False
        """Whether answers ask the client to open a new connection: true while draining."""
        self.running: dict[int, Request] = {}
        """The requests in work, by their identity."""
        self.compute, self.light, self.inference, self.large = (
            RequestQueue[Job](settings.max_waiting) for _ in range(4)
        )
        self.queues = self.compute, self.light, self.inference, self.large
        self._done: list[Connection] = []
        """Whose responses the compute thread has ready."""
        self._arrived = 0
        """Requests for the compute thread that have come in this pass of the event loop."""

    def start(self) -> None:
        """Start the threads; they end with the process."""
        for queue, count in (
            (self.light, LIGHT_THREADS), (self.inference, INFERENCE_THREADS), (self.large, LARGE_THREADS)
        ):  # fmt: skip
            for _ in range(count):
                threading.Thread(target=self._work, args=(queue,), daemon=True).start()

    def queue_of(self, request: Request) -> RequestQueue[Job]:
        """Return the queue for a request that has arrived."""
        if len(request.body) >= LARGE or "HTTP_CONTENT_ENCODING" in request.head.headers:
            return self.large
        if self.predict is not None and is_predict(request.head.method, request.head.path):
            return self.compute
        return self.inference if request.head.path.startswith(("/predictions/", "/v2/models/")) else self.light

    def submit(self, queue: RequestQueue[Job], connection: Connection, request: Request) -> None:
        """Queue a request that was admitted; the compute thread gets it with `flush`."""
        queue.put((connection, request, None))
        self._arrived += queue is self.compute

    def flush(self) -> None:
        """Give the compute thread what has come in this pass, at once, so that it becomes one batch."""
        if self._arrived and self.predict is not None:
            self.predict.classifier.batcher.submit([self._begin] * self._arrived)
            self._arrived = 0

    @property
    def waiting(self) -> int:
        """Requests that no thread has taken up yet."""
        return sum(map(len, self.queues))

    def _begin(self) -> Computed | None:
        """Begin the next request of the compute queue, in the compute thread; return what it has computed."""
        connection, request, _ = self.compute.get()
        if self.predict is None or not self._take(request, self.compute):
            return None
        try:
            task = self.predict.task(environ_of(request, self.server))
            task.begin()
            job = connection, request, task
            if task.response is None and not task.is_large:
                computation = task.computation(lambda computed: self._end(job, computed))
                if computation is not None:
                    return computation
                task.finish(None)
            if task.response is not None or not self._pass_on(job):
                self._answer(*job, self._done.append)
        except Exception:
            self._fail(connection, self._done.append)
            self.running.pop(id(request), None)
        return None

    def _end(self, job: Job, computed: Computed) -> None:
        """Answer a request whose pictures are computed, in the compute thread."""
        _, _, task = job
        if task is not None:
            task.finish(computed)
        self._answer(*job, self._done.append)

    def answer(
        self,
        connection: Connection,
        request: Request,
        deliver: Callable[[Connection], None],
        task: PredictTask | None = None,
    ) -> None:
        """Call the application and deliver its response, unless the event loop has answered at the deadline."""
        persistence = persistence_of(request.head, self.closing)
        response = self.response(request, persistence, task)
        if response:
            connection.out, connection.closing = response, persistence == CLOSE
            deliver(connection)

    def response(self, request: Request, persistence: str, task: PredictTask | None = None) -> bytes:
        """Call the application and return its response, logged; nothing if the event loop has answered already."""
        if task is None:
            environ = environ_of(request, self.server)
            response = respond(self.app, environ, persistence)
        else:
            environ = task.environ
            response = response_bytes(*task.run(), persistence)
        if not request.claim.acquire(blocking=False):
            return b""
        head, record = request.head, context_of(environ).record
        self.ledger.record(record, head.method, head.path, status_of(response), request.started, request.address)
        return response

    def deliver(self, connection: Connection) -> None:
        """Send a response in this thread as far as the socket takes it, and give the connection back."""
        if not connection.send(b""):
            connection.out, connection.closing = b"", True
        self.post(connection)
        if connection.needs_loop:  # may change any moment: but then what changes it is an event for the event loop
            self.wake()

    def _deliver_batch(self) -> None:
        """Give the responses of a batch to the event loop at once; a lone one is sent here, one thread switch less."""
        done, self._done = self._done, []
        if len(done) == 1:
            self.deliver(done[0])
        elif done:
            for connection in done:
                self.post(connection)
            self.wake()

    def _pass_on(self, job: Job) -> bool:
        """Queue a request with large pictures for the threads of those; False if that would take too long."""
        _, request, task = job
        delay = self.large.retry_after(request.deadline)
        if delay is not None:
            if task is not None:
                task.fail(QueueFullError(delay))
            return False
        request.taken = False
        del self.running[id(request)]  # so that a long queue does not look like a thread that hangs
        self.large.put(job)
        return True

    def _take(self, request: Request, queue: RequestQueue[Job]) -> bool:
        """Take a request up, unless the client is gone or its time is over."""
        if request.claim.locked():
            return False
        queue.taken += 1
        request.taken = True
        self.running[id(request)] = request
        return True

    def _answer(
        self, connection: Connection, request: Request, task: PredictTask | None, deliver: Callable[[Connection], None]
    ) -> None:
        """Answer a request that was taken up, come what may."""
        try:
            self.answer(connection, request, deliver, task)
        except Exception:  # a thread that ends is missing ever after
            self._fail(connection, deliver)
        self.running.pop(id(request), None)

    def _fail(self, connection: Connection, deliver: Callable[[Connection], None]) -> None:
        """Drop the connection of a request that could not be answered."""
        log.exception("a request could not be answered")
        connection.closing = True
        deliver(connection)

    def _work(self, queue: RequestQueue[Job]) -> None:
        while True:
            connection, request, task = queue.get()
            if self._take(request, queue):
                self._answer(connection, request, task, self.deliver)
            del connection, request, task  # or an idle thread would keep the last body in memory
