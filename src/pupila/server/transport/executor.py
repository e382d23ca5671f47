"""Executes requests in threads: queues with backpressure, the WSGI call (PEP 3333), the response's bytes."""

import functools
import io
import math
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from email.utils import formatdate
from http import HTTPStatus
from queue import SimpleQueue
from typing import Any, Generic, TypeVar
from wsgiref.types import WSGIApplication

from pupila.server.api.auth import DISK, Access, route_of
from pupila.server.api.body import sleep_pause, this_thread
from pupila.server.api.errors import QueueFullError, RequestError, log_fault, request_error_of
from pupila.server.api.predict import PredictMiddleware, PredictTask, is_predict
from pupila.server.api.request_context import KEY, to_bytes
from pupila.server.inference import Computation, Decoding, call_seconds
from pupila.server.observability.request_log import RequestLog
from pupila.server.settings import Settings
from pupila.server.transport.connection import Connection, Request
from pupila.server.transport.parser import Head

Item = TypeVar("Item")
Job = tuple[Connection, Request]
FORGET = 1.0
"""Seconds without anything waiting after which the forecast is forgotten: what comes then may be of another kind."""


HALVED, LEAST_CHARGE = 10.0, 0.01
"""Seconds after which half of the time that a line was charged is forgotten, and what a turn is charged at least."""


class Turns(Generic[Item]):
    """What is next: each client has a line, and the lines take turns, so that none starves the others.

    Where turns are charged, every second one goes to the line that was charged least: a client whose turns take seconds
    holds up another's, which take milliseconds, by the one that has begun, or one more. The others go round, so that
    nobody is kept out by who is charged less.

    A line has each item once. One that takes several turns is put first again after each: what a client has begun is
    done before the rest of its line. Used by one thread at a time.
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[str, OrderedDict[Item, int]] = OrderedDict()
        """Each item with the turns that it takes."""
        self._turns: Counter[str] = Counter()
        """Of each line that is not empty."""
        self._count = 0
        self._charged: dict[str, float] = {}
        """Seconds of the lines whose turns took some lately, as they were counted at `_charged_at`."""
        self._charged_at = 0.0
        self._by_charge = False
        """Whether the last turn went to who was charged least."""

    def __len__(self) -> int:
        return self._count

    def charge(self, line: str, seconds: float, now: float) -> None:
        """Note how long a turn of a line took, which has ended now."""
        kept = 0.5 ** ((now - self._charged_at) / HALVED)
        total = kept * self._charge_of(line) + max(seconds, LEAST_CHARGE)
        self._charged = {name: kept * each for name, each in self._charged.items() if kept * each >= LEAST_CHARGE / 2}
        self._charged[line], self._charged_at = total, now

    def _charge_of(self, line: str) -> float:
        return self._charged.get(line, 0.0)

    def add(self, line: str, item: Item, turns: int = 1, first: bool = False) -> None:
        """Put an item that takes so many turns at the end of its line, or at its beginning."""
        items = self._lines.setdefault(line, OrderedDict())
        if item in items:
            return
        items[item] = turns
        items.move_to_end(item, last=not first)
        self._turns[line] += turns
        self._count += 1

    def next(self, without: Container[str] = ()) -> Item:
        """Take what is next, but of none of these lines; then it is the next one's turn. Raises LookupError."""
        waiting = (name for name in self._lines if name not in without)
        self._by_charge = bool(self._charged) and not self._by_charge
        name = min(waiting, key=self._charge_of, default=None) if self._by_charge else next(waiting, None)
        if name is None:
            raise LookupError
        self._lines.move_to_end(name)
        return self._take(name, last=False)

    def _take(self, name: str, last: bool) -> Item:
        """Take the first or the last of a line."""
        line = self._lines[name]
        item, turns = line.popitem(last)
        self._count -= 1
        self._turns[name] -= turns
        if not line:
            del self._lines[name], self._turns[name]
        return item

    def ahead(self, line: str, turns: int = 1) -> int:
        """Return how many turns come before the last of one that would be added to this line now."""
        own, charge, before = self._turns[line] + turns, self._charge_of(line), self._turns
        if self._charged:
            before = Counter({name: each for name, each in before.items() if self._charge_of(name) <= charge})
        return own - 1 + sum(min(each, own) for name, each in before.items() if name != line)

    def longest(self) -> int:
        """Return how many are in the longest line."""
        return max(map(len, self._lines.values()), default=0)

    def can_give_way(self, line: str) -> bool:
        """Return whether another line would still be the longest if one were added to this."""
        return self.longest() > len(self._lines.get(line, ())) + 1

    def give_way(self) -> Item:
        """Take out the last of the longest line."""
        return self._take(max(self._lines, key=lambda name: len(self._lines[name])), last=True)


STUCK = 2.0
"""Seconds past its deadline from which on a request that is still in work means that this process must be replaced."""
CROWDED = 10.0
"""How many times what a call of the model takes alone it may take beside other threads and processes: so much more."""
DOCUMENT_STUCK = 30.0
"""The same for what comes to an end by itself, in seconds on a busy machine: large JSON, unpacking, and pictures, of
which the kernel ends those that may take long."""


class RequestQueue:
    """A bounded queue in which addresses and keys take turns, with an estimate of its own for each.

    One client's tenth request waits behind another's first, and where there is no room it gives way to that. Big
    pictures say nothing of small ones.

    The estimate is turns taken a second while others wait, averaged. What is done when nothing waits does not count.
    """

    def __init__(self, most: int, threads: int = 1, patience: float = STUCK) -> None:
        self.most = most
        """How many may wait."""
        self.threads = threads
        """How many take requests from here, beside the compute thread."""
        self.patience = patience
        """Seconds past its deadline that a thread may work on a request from here."""
        self.taken = 0
        """How many turns have been taken; counted by the thread that does it."""
        self.rate = 0.0
        """0 as long as nothing has waited."""
        self._since = 0.0
        self._taken_before = 0
        self._waited = False
        self._last_waited = 0.0
        self._turns: Turns[Job] = Turns()
        self._lock = threading.Lock()
        self._calls: SimpleQueue[None] = SimpleQueue()
        """One for each request that was put in; what has given way is called in vain."""

    def __len__(self) -> int:
        return len(self._turns)

    def put(self, line: str, job: Job, turns: int = 1, first: bool = False) -> None:
        """Put a request that takes so many turns at the end of its client's line, or at its beginning."""
        with self._lock:
            self._turns.add(line, job, turns, first)
        self._calls.put(None)

    def charge(self, line: str, seconds: float) -> None:
        """Let other clients go before one whose turn has taken so long."""
        with self._lock:
            self._turns.charge(line, seconds, time.monotonic())

    def get(self) -> Job | None:
        """Wait for a request and take it; None if that has given way meanwhile."""
        self._calls.get()
        with self._lock:
            return self._turns.next() if self._turns else None

    def longest(self) -> int:
        """Return how many requests wait of who has most here."""
        with self._lock:
            return self._turns.longest()

    def give_way(self, line: str) -> Job | None:
        """Take out the last request of who has most here, for one of this line; None if that would have as many."""
        with self._lock:
            return self._turns.give_way() if self._turns.can_give_way(line) else None

    def measure(self, now: float) -> None:
        """Take note of how fast it goes; to be called several times a second.

        A call that finds nothing taken up lengthens the time that the next one divides by: requests that take seconds
        each must not look like none at all.
        """
        waiting, progressed = len(self) > 0, self.taken > self._taken_before
        busy = waiting and self._waited
        self._waited = waiting
        if waiting:
            self._last_waited = now
        elif now - self._last_waited >= FORGET:
            self.rate = 0.0
        if busy and progressed and now > self._since:
            measured = (self.taken - self._taken_before) / (now - self._since)
            self.rate = measured if not self.rate else 0.7 * self.rate + 0.3 * measured
        if not busy or progressed:
            self._since, self._taken_before = now, self.taken

    def delay(self, line: str, turns: int = 1) -> float:
        """Seconds until the last of so many turns of one more of this line should be taken."""
        with self._lock:
            return self._turns.ahead(line, turns) / self.rate if self.rate else 0.0

    def retry_after(self, line: str, deadline: float, turns: int = 1) -> float | None:
        """Return None if one more of this line can be answered by `deadline`, else the seconds until it may be."""
        delay = self.delay(line, turns)
        with self._lock:
            full = len(self._turns) >= self.most and not self._turns.can_give_way(line)
        return delay if full or time.monotonic() + delay >= deadline else None


CLOSE = "Connection: close\r\n"

BASE: dict[str, Any] = {
    "SERVER_SOFTWARE": "pupila",
    "wsgi.version": (1, 0),
    "wsgi.errors": sys.stderr,
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
    "wsgi.input_terminated": True,
}


LONGEST_CONNECTION = 100
"""Letters of a Connection header that the application sees."""


def environ_of(request: Request, server: tuple[str, str]) -> dict[str, Any]:
    """Return the WSGI environment; the body is in memory already, and the deadline stands beside it."""
    head, context = request.head, request.context
    body = context.body or b""
    environ = {
        **BASE,
        **head.headers,
        "REQUEST_METHOD": head.method,
        "SCRIPT_NAME": head.prefix,
        "PATH_INFO": head.path,
        "QUERY_STRING": head.query,
        "RAW_URI": head.target,
        "SERVER_PROTOCOL": head.version,
        "SERVER_NAME": server[0],
        "SERVER_PORT": server[1],
        "REMOTE_ADDR": context.address,
        "wsgi.url_scheme": head.scheme,
        "wsgi.input": io.BytesIO(body),
        KEY: request.context,
    }
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    if len(head.headers.get("HTTP_CONNECTION", "")) > LONGEST_CONNECTION:
        del environ["HTTP_CONNECTION"]  # Werkzeug would cut thousands of parts
    environ["CONTENT_LENGTH"] = str(len(body))
    return environ


def respond(app: WSGIApplication, environ: dict[str, Any], persistence: str) -> bytes:
    """Call the application and return its whole response; an application that raises is answered with 500."""
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], object]:
        started[:] = [status, headers]
        return started.append

    try:
        result: Iterable[bytes] = app(environ, start_response)
        body = b"".join(result)
        if (finish := getattr(result, "close", None)) is not None:
            finish()
        return response_bytes(started[0], started[1], body, persistence, environ["REQUEST_METHOD"] == "HEAD")
    except Exception as error:
        return plain_response(request_error_of(error), persistence, environ["REQUEST_METHOD"])


def persistence_of(head: Head, closing: bool) -> str:
    """Return the Connection header of a response: keep-alive is announced to HTTP/1.0 clients only."""
    if closing or not head.keep_alive:
        return CLOSE
    return "Connection: keep-alive\r\n" if head.version == "HTTP/1.0" else ""


def response_bytes(
    status: str, headers: list[tuple[str, str]], body: bytes, persistence: str, head_only: bool = False
) -> bytes:
    """Return status line, headers and body as they go over the wire."""
    lines = [f"HTTP/1.1 {status}"]
    has_length = head_only
    for name, value in headers:
        if name == "Date":
            continue  # Werkzeug dates answers that may be 304; all get theirs below
        has_length = has_length or name == "Content-Length"
        lines.append(f"{name}: {value}")
    if not has_length and status[:3] not in ("204", "304"):
        lines.append(f"Content-Length: {len(body)}")
    lines.append(f"Date: {http_date(int(time.time()))}")
    lines.append(f"{persistence}\r\n")
    return "\r\n".join(lines).encode("latin-1") + (b"" if head_only else body)


def plain_response(
    error: RequestError, persistence: str, method: str, request_id: str = "", more: Sequence[tuple[str, str]] = ()
) -> bytes:
    """Return an error response without asking the application, in the shape of all errors; `more` are headers.

    To HEAD it has no body, which would be taken for the beginning of the next answer.
    """
    body = to_bytes(error.to_json())
    headers = [("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff"), *error.headers(), *more]
    headers.append(("Content-Length", str(len(body))))
    if request_id:
        headers.append(("X-Request-Id", request_id))
    status = f"{error.status} {HTTPStatus(error.status).phrase}"
    return response_bytes(status, headers, body, persistence, method == "HEAD")


@functools.lru_cache(1)
def http_date(now: int) -> str:
    """Return the Date header's value, worked out once a second."""
    return formatdate(now, usegmt=True)


SMALL = 65536
"""Bytes of a body that need no reservation: the number of connections bounds them."""
LARGE = 524288
"""Bytes of body from which a request goes to threads of its own: its decoding may take long, as may unpacking."""
LIGHT_THREADS = 4
INFERENCE_THREADS = 4
LARGE_THREADS = 2
SLOW_THREADS = 1
"""It waits for the one process that decodes what may take long; what a second one took would be out of its turn."""
DOCUMENTS_THREADS = 1
"""Large JSON is read one document at a time: others that waited for that would keep bodies without JSON waiting."""
STORE_THREADS = 2
"""They wait for a disk, which may hang: not the threads of quick answers."""
LISTS_THREADS = 1
"""A list may take seconds: not the threads of feedback."""


class Executor:
    """A fixed number of threads: memory and contention stay the same however many clients there are.

    The compute thread answers POST /predict, several requests together. Requests with large bodies or many pictures,
    pictures whose decoding may take long, large JSON, other protocols' inference, what is kept, and all other routes
    have threads of their own. One turn there is one picture that may take long, one large JSON document, or
    TURN_SECONDS of others.
    """

    def __init__(
        self,
        app: WSGIApplication,
        server: tuple[str, str],
        settings: Settings,
        request_log: RequestLog,
        post: Callable[[Connection], None],
        wake: Callable[[], None],
        reserve: Callable[[Connection, int], bool],
    ) -> None:
        self.app = app
        middleware = getattr(app, "wsgi_app", None)
        self.predict = middleware if isinstance(middleware, PredictMiddleware) else None
        if self.predict is not None:
            self.predict.state.classifier.batcher.after_batch = self._deliver_batch
        self.request_log = request_log
        self.server = server
        self.post = post
        """Called with a connection when its response is in `out`; from then on it is the event loop's again."""
        self.wake = wake
        """Has the event loop send what was posted."""
        self.reserve = reserve
        """Called with a connection and the bytes that its request keeps while it waits; False if there is no room."""
        self.closing = False
        """Whether answers ask the client to open a new connection: true while draining."""
        self.running: dict[int, Request] = {}
        """The requests in work, by their identity."""
        most = settings.max_waiting
        self.compute = RequestQueue(most, 0)
        self.light = RequestQueue(most, LIGHT_THREADS)
        self.inference = RequestQueue(most, INFERENCE_THREADS, patience=DOCUMENT_STUCK)
        self.large = RequestQueue(most, LARGE_THREADS, patience=DOCUMENT_STUCK)
        self.slow = RequestQueue(most, SLOW_THREADS, patience=DOCUMENT_STUCK)
        self.documents = RequestQueue(most, DOCUMENTS_THREADS, patience=DOCUMENT_STUCK)
        self.store = RequestQueue(most, STORE_THREADS, patience=math.inf)  # what hangs here hangs in any worker
        self.lists = RequestQueue(most, LISTS_THREADS, patience=math.inf)
        pictures = self.compute, self.inference, self.large, self.slow, self.documents
        self.queues = (*pictures, self.light, self.store, self.lists)
        self._done: list[Connection] = []
        """Whose responses the compute thread has ready."""
        self._arrived = 0
        """Requests for the compute thread that have come in this pass of the event loop."""

    def start(self) -> None:
        """Start the threads; they end with the process."""
        for queue in self.queues:
            for _ in range(queue.threads):
                threading.Thread(target=self._work, args=(queue,), daemon=True).start()

    def queue_of(self, request: Request) -> RequestQueue:
        """Return the queue for a request that has arrived."""
        threads = route_of(request.head.path).threads
        if threads in DISK:
            return self.store if threads == "store" else self.lists
        if len(request.context.body or b"") >= LARGE or "HTTP_CONTENT_ENCODING" in request.head.headers:
            return self.large
        if self.predict is not None and is_predict(request.head.method, request.head.path):
            return self.compute
        return self.inference if threads == "inference" else self.light

    def submit(self, queue: RequestQueue, connection: Connection, request: Request) -> None:
        """Queue a request that was admitted; the compute thread gets it with `flush`."""
        self._put(queue, (connection, request), self.post)
        self._arrived += queue is self.compute

    def make_room(self, line: str) -> bool:
        """Refuse the last request of who has most in any one queue, for one of this line; False if that has as many."""
        return self._refuse_last(max(self.queues, key=RequestQueue.longest), line, self.post)

    def flush(self) -> None:
        """Give the compute thread what has come in this pass, at once, so that it becomes one batch."""
        if self._arrived and self.predict is not None:
            self.predict.state.classifier.batcher.submit([self._begin] * self._arrived)
            self._arrived = 0

    def is_stuck(self, now: float) -> bool:
        """Return whether a thread works on a request long past its deadline, or the compute thread has ended."""
        ended = self.predict is not None and self.predict.state.classifier.batcher.has_ended
        return ended or any(now > request.stuck_at for request in list(self.running.values()))

    @property
    def in_work(self) -> int:
        """Requests that are not answered yet."""
        return len(self.running) + sum(map(len, self.queues))

    @property
    def waiting(self) -> int:
        """Requests that no thread has taken up, but for those of this pass, which the compute thread does not know."""
        return max(0, sum(map(len, self.queues)) - self._arrived)

    def _begin(self) -> Computation | None:
        """Begin the next request of the compute queue, in the compute thread; return what it has computed."""
        job = self.compute.get()
        if job is None or self.predict is None or not self._take(job[1], self.compute):
            return None
        request = job[1]
        try:
            task = PredictTask(self.predict.state, environ_of(request, self.server))
            task.begin()
            if task.is_begun:

                def ended(computation: Computation) -> None:
                    task.finish(computation)
                    self._answer(job, task, self._done.append)

                computation = task.computation(ended)
                if computation is not None:
                    return computation
                task.finish(None)
            decoding = request.context.decoding
            if task.response is None and decoding is not None:
                self._pass_on_pictures(job, decoding, self._done.append)
            else:
                self._answer(job, task, self._done.append)
        except Exception as error:
            self._fail(job, error, self._done.append)
        return None

    def answer(
        self,
        connection: Connection,
        request: Request,
        deliver: Callable[[Connection], None],
        task: PredictTask | None = None,
    ) -> None:
        """Call the application and deliver its response, unless the event loop has answered at the deadline.

        What waits for another turn is queued for it.
        """
        persistence = persistence_of(request.head, self.closing)
        if task is not None:
            response = response_bytes(*task.run(), persistence)
        else:
            response = respond(self.app, environ_of(request, self.server), persistence)
            if request.context.unread:
                self._pass_on((connection, request), self.documents, deliver, len(request.context.body or b""))
                return
            decoding = request.context.decoding
            if decoding is not None and decoding.waits:
                self._pass_on_pictures((connection, request), decoding, deliver)
                return
        request.context.decoding = None  # each holds the other, and the pictures with them
        if request.claim.acquire(blocking=False):
            self.request_log.record(request.context, request.head.method, request.head.path, int(response[9:12]))
            connection.out, connection.closing = response, persistence == CLOSE
            deliver(connection)
        self.running.pop(id(request), None)

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

    def _pass_on_pictures(self, job: Job, decoding: Decoding, deliver: Callable[[Connection], None]) -> None:
        """Queue a request whose pictures take another turn."""
        is_slow = bool(decoding.large) and not decoding.left and not decoding.moderate
        queue, turns = (self.slow, len(decoding.large)) if is_slow else (self.large, 1)
        begun, decoding.queued = decoding.queued and not is_slow, True
        self._pass_on(job, queue, deliver, decoding.size, turns, begun)

    def _pass_on(
        self,
        job: Job,
        queue: RequestQueue,
        deliver: Callable[[Connection], None],
        size: int,
        turns: int = 1,
        begun: bool = False,
    ) -> None:
        """Queue a request of so many bytes for its next turn, before all others of its client if it has `begun` there.

        Refuse it if memory is short, or its first turn there would come too late.
        """
        connection, request = job
        delay = None if begun else queue.retry_after(connection.queue_line, request.context.deadline, turns)
        if delay is not None or (size > connection.body_bytes + SMALL and not self.reserve(connection, size)):
            self._refuse(job, QueueFullError(delay or 1), deliver)
        elif begun:
            self._put_back(queue, job)
        else:
            self._rest(request)
            self._put(queue, job, deliver, turns)

    def _put_back(self, queue: RequestQueue, job: Job, turns: int = 1) -> None:
        """Queue a request for its next turn, before all others of its client."""
        self._rest(job[1])
        queue.put(job[0].queue_line, job, turns, first=True)

    def _rest(self, request: Request) -> None:
        """Take a request out of those in work, so that a long queue does not look like a thread that hangs."""
        request.taken = False
        self.running.pop(id(request), None)

    def _decode_large(self, job: Job) -> None:
        """Decode one large picture of a request; then it waits for its next turn, or to be answered."""
        decoding, left = job[1].context.decoding, 0
        try:
            if decoding is not None:  # else the event loop has just given it up
                decoding.decode_large(functools.partial(self.slow.charge, job[0].queue_line))
                left = len(decoding.large)
        except Exception as error:
            self._refuse(job, request_error_of(error), self.deliver)
            return
        self._put_back(self.slow if left else self.large, job, left or 1)

    def _put(self, queue: RequestQueue, job: Job, deliver: Callable[[Connection], None], turns: int = 1) -> None:
        """Put a request into a queue; if that is full, the last of who has most there is refused, and delivered."""
        line = job[0].queue_line
        if len(queue) >= queue.most:
            self._refuse_last(queue, line, deliver)
        queue.put(line, job, turns)

    def _refuse_last(self, queue: RequestQueue, line: str, deliver: Callable[[Connection], None]) -> bool:
        """Answer the last request of who has most in a queue with 503, for one of this line; False if there is none."""
        job = queue.give_way(line)
        if job is not None and not job[1].claim.locked():
            self._refuse(job, QueueFullError(queue.delay(job[0].queue_line)), deliver)
        return job is not None

    def _refuse(self, job: Job, error: RequestError, deliver: Callable[[Connection], None]) -> None:
        """Answer a request with an error, whatever it waits for."""
        context = job[1].context
        context.access, context.decoding = replace(context.access or Access(), refusal=error), None
        context.unread = False
        self._answer(job, None, deliver)

    def _take(self, request: Request, queue: RequestQueue) -> bool:
        """Take a request up, unless the client is gone or its time is over."""
        if request.claim.locked():
            return False
        queue.taken += 1
        patience = queue.patience
        if queue is self.compute and self.predict is not None:
            patience += CROWDED * call_seconds(self.predict.state.classifier.predictor)
        request.taken, request.stuck_at = True, request.context.deadline + patience
        request.context.has_time = queue is self.large
        self.running[id(request)] = request
        return True

    def _answer(self, job: Job, task: PredictTask | None, deliver: Callable[[Connection], None]) -> None:
        """Answer a request that was taken up, come what may."""
        try:
            self.answer(*job, deliver, task)
        except Exception as error:  # a thread that ends is missing ever after
            self._fail(job, error, deliver)

    def _fail(self, job: Job, error: Exception, deliver: Callable[[Connection], None]) -> None:
        """Drop the connection of a request that could not be answered."""
        log_fault(error, "a request could not be answered")
        job[0].closing = True
        deliver(job[0])
        self.running.pop(id(job[1]), None)

    def _work(self, queue: RequestQueue) -> None:
        this_thread.may_wait = queue is self.documents
        while True:
            job = queue.get()
            if job is not None and self._take(job[1], queue):
                if queue is self.slow:
                    self._decode_large(job)
                else:
                    begun, line = time.monotonic(), job[0].queue_line  # the next request may be another's
                    self._answer(job, None, self.deliver)
                    if queue is self.large:
                        queue.charge(line, time.monotonic() - begun)
            del job  # or an idle thread would keep the last body in memory
            if queue is self.documents:
                sleep_pause()  # before the next one is taken, which may be over time meanwhile
