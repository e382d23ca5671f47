"""The context of one request, from its first byte to its line in the request log, and the steps around every route.

The steps are authentication and rate limit, reading the body, security and CORS headers, and the request log.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flask import Response, current_app, request
from werkzeug.exceptions import NotFound

from pupila._arguments import whole_number
from pupila.errors import ImageError
from pupila.prediction import Prediction
from pupila.predictor import Predictor
from pupila.server.api.auth import Access, AccessControl, ApiKey, route_of
from pupila.server.api.body import NotHereError, decoded, this_thread, too_big_body, until
from pupila.server.api.errors import RequestError, let_go
from pupila.server.observability.request_log import RequestLog
from pupila.server.process.scoreboard import Health
from pupila.server.settings import Settings

if TYPE_CHECKING:
    from pupila.server.api.feedback_writer import Collector
    from pupila.server.inference import Classifier, Decoding

ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
EXTENSION = "pupila"
KEY = "pupila.request"
CHUNK = 65536
SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)
CORS_HEADERS = "Content-Type, Content-Encoding, Authorization, X-API-Key, X-Request-Id"
"""Headers that a page of another origin may send."""


@dataclass(slots=True)
class RequestContext:
    """Stands under KEY in the WSGI environment. Made by our own transport, or when another WSGI server calls."""

    route: str
    """What it counts under; see ROUTES."""
    deadline: float
    """When the answer must be out, on the clock of time.monotonic: counted from the request's first byte."""
    address: str = ""
    """The client's."""
    line: str = ""
    """With what the request shares turns: a key, or who asks, see Connection.queue_line."""
    body: bytes | None = None
    """The whole body, within the limit, until it is read; None where it is still to be received."""
    started: float | None = None
    """When the first byte came; None under another server, which then logs no request: the application does."""
    arrived: float | None = None
    """When the last byte came."""
    access: Access | None = None
    """What was decided about the request; None before."""
    unread: bool = False
    """Whether `body`, without its Content-Encoding by now, is JSON for the thread that reads large documents."""
    decoding: "Decoding | None" = None
    """How far its pictures have come, once the body is read."""
    has_time: bool = False
    """Whether the thread that has it now is one for pictures that take more than milliseconds."""
    headers: Sequence[tuple[str, str]] = SECURITY_HEADERS
    """Headers of the response that a view may replace."""
    request_id: str = ""
    parent: tuple[str | None, str | None] = (None, None)
    """The caller's headers `traceparent` and `tracestate`, where somebody traces."""
    model: str | None = None
    """Version of the model that answered."""
    confidences: list[tuple[int, float, bool]] = field(default_factory=list)
    """(class index, confidence, unknown) of each picture that was answered."""
    spans: list[tuple[str, float, float]] = field(default_factory=list)
    """Each stage with when it began and ended, on the clock of time.monotonic."""
    last: float = 0.0
    """When the last stage ended."""

    @property
    def key(self) -> ApiKey | None:
        """The API key that the request was let in with; None where none is needed."""
        return None if self.access is None else self.access.key

    @property
    def stages(self) -> dict[str, float]:
        """Seconds by stage."""
        found: dict[str, float] = {}
        for stage, begun, over in self.spans:
            found[stage] = found.get(stage, 0.0) + over - begun
        return found

    def end_stage(self, stage: str, at: float | None = None) -> None:
        """Note that a stage is over, now or at a time that is past."""
        at = time.monotonic() if at is None else at
        self.spans.append((stage, self.last, at))
        self.last = at

    def end_computation(self, begun: float) -> None:
        """Note that the computation is over, which began at a time that is past, or never."""
        if begun:
            self.end_stage("wait", begun)
            self.end_stage("compute")

    def record_answers(self, predictor: Predictor, found: Sequence[Prediction | ImageError]) -> None:
        """Record which classes were answered, and how surely."""
        self.model = predictor.version
        for answer in found:
            if not isinstance(answer, ImageError):
                self.confidences.append((answer.category_index, answer.confidence, answer.unknown))


@dataclass(frozen=True)
class AppState:
    """What the views of one application work with."""

    classifier: "Classifier"
    settings: Settings
    health: Health
    request_log: RequestLog
    access: AccessControl
    collector: "Collector | None" = None
    """Keeps what was answered; None where nothing is kept."""


def context_of(environ: dict[str, Any]) -> RequestContext:
    """Return the context of the request that is being answered."""
    context: RequestContext = environ[KEY]
    return context


def ensure_context(environ: dict[str, Any], settings: Settings) -> None:
    """Make the request's context, unless our own transport has."""
    if KEY not in environ:
        deadline = time.monotonic() + settings.request_timeout
        environ[KEY] = RequestContext(route_of(environ["PATH_INFO"]).name, deadline, environ.get("REMOTE_ADDR", ""))


def request_id_of(environ: dict[str, Any], request_log: RequestLog) -> str:
    """Return the name of the request that is being answered: the client's own if it is a sane one."""
    context = context_of(environ)
    if not context.request_id:
        context.request_id = request_log.request_id(environ.get("HTTP_X_REQUEST_ID"))
    return context.request_id


@contextmanager
def begin_inference(environ: dict[str, Any], state: AppState) -> Iterator[tuple[RequestContext, bytes]]:
    """Start the stopwatch of a request with pictures, and give its context and body, to be read within the block.

    Under our own transport two stages are over: the upload, and waiting for a thread. Where the block raises
    NotHereError, the body is kept for the thread that can read it.
    """
    context = context_of(environ)
    if not context.unread:
        context.last = time.monotonic() if context.started is None else context.started
        if context.started is not None:
            context.end_stage("upload", context.arrived)
    if context.started is not None:
        context.end_stage("wait")
    body = read_body(environ, state.settings)
    this_thread.deadline = context.deadline  # as until() does, in one file less on a picture's way
    try:
        yield context, body
    except NotHereError:
        context.body, context.unread = body, True
        raise
    finally:
        this_thread.deadline = math.inf


def end_parsing(context: RequestContext, state: AppState, count: int) -> None:
    """Count a request's pictures for its key's rate limit; raises RequestError if there were too many before."""
    state.access.count_pictures(context.key, count)
    context.end_stage("parse")


def read_body(environ: dict[str, Any], settings: Settings) -> bytes:
    """Return the whole body without its Content-Encoding, never more than the limit; it is kept no longer."""
    context = context_of(environ)
    sent = read_sent(environ, settings.max_body_bytes) if context.body is None else context.body
    is_decoded, context.body, context.unread = context.unread, b"", False
    if is_decoded or "HTTP_CONTENT_ENCODING" not in environ:
        return sent
    with until(context.deadline):
        return decoded(environ, sent, settings.max_body_bytes)


def read_sent(environ: dict[str, Any], limit: int) -> bytes:
    """Return the body as it was sent; its size is checked before reading, and again while reading."""
    stated = whole_number(str(environ.get("CONTENT_LENGTH") or ""))
    if stated is not None:
        if stated > limit:
            raise too_big_body(limit)
        return bytes(environ["wsgi.input"].read(stated))
    found = bytearray()
    while "HTTP_TRANSFER_ENCODING" in environ and (piece := environ["wsgi.input"].read(CHUNK)):
        found += piece
        if len(found) > limit:
            raise too_big_body(limit)
    return bytes(found)


def begin(state: AppState) -> Response | None:
    """Decide whether this request may be sent; answer a browser's preflight request (CORS)."""
    if request.environ["PATH_INFO"].startswith("//"):
        raise NotFound  # Flask would take //path for /path, and access was decided for another path
    is_preflight = request.method == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in request.environ
    if is_preflight and state.settings.cors_origins:
        return Response(status=204)  # the CORS headers are added as to any response
    authorize(request.environ, state)
    return None


def authorize(environ: dict[str, Any], state: AppState) -> None:
    """Decide whether this request may be sent, unless that was decided when its head arrived; raises RequestError."""
    context = context_of(environ)
    if context.access is None:
        context.access = state.access.decide(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ)
    if context.access.refusal is not None:
        raise context.access.refusal


def finish(response: Response, state: AppState) -> Response:
    """Add the headers of every response, and log the request."""
    response.headers.extend(closing_headers(request.environ, state))
    log_request(request.environ, response.status_code, state.request_log)
    if request.routing_exception is not None:
        let_go(request.routing_exception)  # which holds the request, that holds it
    return response


def closing_headers(environ: dict[str, Any], state: AppState) -> list[tuple[str, str]]:
    """Return the headers that every response carries."""
    context = context_of(environ)
    found = [("X-Request-Id", request_id_of(environ, state.request_log))]
    if context.spans:
        timing = ", ".join([f"{stage};dur={1000 * spent:.2f}" for stage, spent in context.stages.items()])
        found.append(("Server-Timing", timing))
    found += context.headers
    if state.settings.cors_origins:
        found += cors_headers(environ.get("HTTP_ORIGIN"), state.settings)
    return found


def cors_headers(origin: str | None, settings: Settings) -> list[tuple[str, str]]:
    """Return what lets pages of the chosen origins read the response (CORS)."""
    allowed = "*" if "*" in settings.cors_origins else origin
    if allowed is None or allowed not in settings.cors_origins:
        return [("Vary", "Origin")]
    return [
        ("Vary", "Origin"),
        ("Access-Control-Allow-Origin", allowed),
        ("Access-Control-Allow-Methods", "GET, POST, DELETE"),
        ("Access-Control-Allow-Headers", CORS_HEADERS),
        ("Access-Control-Expose-Headers", "Pupila-Model, Server-Timing, X-Request-Id, Retry-After"),
    ]


def log_request(environ: dict[str, Any], status: int, request_log: RequestLog) -> None:
    """Log the request, unless our own transport does, which knows when it began."""
    context = context_of(environ)
    if request_log.tracer is not None:
        context.parent = environ.get("HTTP_TRACEPARENT"), environ.get("HTTP_TRACESTATE")
    if context.started is None:
        request_log.record(context, environ["REQUEST_METHOD"], environ["PATH_INFO"], status)


def app_state() -> AppState:
    """Return the state of the application that handles the request."""
    state: AppState = current_app.extensions[EXTENSION]
    return state


def to_bytes(document: Any) -> bytes:
    """Return compact JSON on a line of its own, as terminals want it.

    Half a surrogate pair, which a client may have us repeat, becomes a question mark.
    """
    return f"{ENCODER.encode(document)}\n".encode(errors="replace")


def json_response(document: object, status: int = 200) -> Response:
    """Return an answer of compact JSON."""
    return Response(to_bytes(document), status, mimetype="application/json")


def error_response(error: RequestError, headers: Sequence[tuple[str, str]] = ()) -> Response:
    """Return an error's answer, in the shape of all errors."""
    response = json_response(error.to_json(), error.status)
    response.headers.extend([*error.headers(), *headers])
    return response
