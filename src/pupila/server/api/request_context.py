"""The context of one request, under one key of its WSGI environment, and the steps around every route.

The context holds deadline, body, access decision and log record. The steps are authentication and rate limit, reading
the body, security and CORS headers, and the request log.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import NotFound

from pupila.errors import ImageError
from pupila.predictor import Predictor
from pupila.server.api import body as bodies
from pupila.server.api import multipart
from pupila.server.api.auth import Access, AccessControl, ApiKey
from pupila.server.inference.classifier import PictureResult, Stages
from pupila.server.observability.request_log import RequestLog, RequestRecord, route_of
from pupila.server.settings import Settings

EXTENSION = "pupila"
KEY = "pupila.request"
ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
CHUNK = 65536
SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)


@dataclass(slots=True)
class RequestContext:
    """Made by our own transport, or, under another WSGI server, when the application is called."""

    record: RequestRecord
    deadline: float
    """When the answer must be out, on the clock of time.monotonic: counted from the request's first byte."""
    body: bytes | None = None
    """The whole body, within the limit; None where it is still to be read."""
    started: float | None = None
    """When the first byte came; None under another server, which then logs no request: the application does."""
    arrived: float | None = None
    """When the last byte came."""
    access: Access | None = None
    """What was decided about the request; None before."""
    headers: Sequence[tuple[str, str]] = field(default=SECURITY_HEADERS)
    """Headers of the response that a view may replace."""

    @classmethod
    def ensure(cls, environ: dict[str, Any], settings: Settings) -> "RequestContext":
        """Return the environment's context; one is made if there is none."""
        context: RequestContext | None = environ.get(KEY)
        if context is None:
            context = environ[KEY] = cls(
                RequestRecord(route_of(environ["PATH_INFO"])), time.monotonic() + settings.request_timeout
            )
        return context


def context_of(environ: dict[str, Any]) -> RequestContext:
    """Return the context of the request that is being answered."""
    context: RequestContext = environ[KEY]
    return context


def key_of(environ: dict[str, Any]) -> ApiKey | None:
    """Return the API key that the request was let in with; None where none is needed."""
    access = context_of(environ).access
    return None if access is None else access.key


def count_pictures(environ: dict[str, Any], access: AccessControl, count: int) -> None:
    """Count the request's pictures for its key's rate limit; raises RequestError if there were too many before."""
    access.count_pictures(key_of(environ), count)


def request_id_of(environ: dict[str, Any], request_log: RequestLog) -> str:
    """Return the name of the request that is being answered: the client's own if it is a sane one."""
    record = context_of(environ).record
    if not record.request_id:
        record.request_id = request_log.request_id(environ.get("HTTP_X_REQUEST_ID"))
    return record.request_id


def stages_of(environ: dict[str, Any], request_log: RequestLog) -> Stages:
    """Return the request's stopwatch; two stages are over: the upload, and waiting for a thread."""
    context = context_of(environ)
    if request_log.tracer is not None:
        context.record.spans = []
    stages = Stages(context.record.stages, context.record.spans, context.started)
    if context.started is not None:
        stages.end("upload", context.arrived)
        stages.end("wait")
    return stages


def record_answers(environ: dict[str, Any], predictor: Predictor, found: Sequence[PictureResult | ImageError]) -> None:
    """Record which classes were answered, and how surely."""
    record = context_of(environ).record
    record.model = predictor.version
    for answer in found:
        if isinstance(answer, PictureResult):
            best = answer.prediction.best
            record.confidences.append((best.category_index, best.confidence, answer.prediction.unknown))


def read_body(environ: dict[str, Any], settings: Settings) -> bytes:
    """Return the whole body without its Content-Encoding, never more than the limit."""
    sent = read_sent(environ, settings)
    if "HTTP_CONTENT_ENCODING" not in environ:
        return sent
    return bodies.decoded(environ, sent, settings.max_body_bytes)


def read_sent(environ: dict[str, Any], settings: Settings) -> bytes:
    """Return the body as it was sent, never more than the limit: checked before reading, and again while reading."""
    body = context_of(environ).body
    if body is not None:
        return body
    stated = str(environ.get("CONTENT_LENGTH") or "")
    if stated.isdigit():
        if int(stated) > settings.max_body_bytes:
            raise multipart.too_big_body(settings.max_body_bytes)
        return bytes(environ["wsgi.input"].read(int(stated)))
    pieces: list[bytes] = []
    size = 0
    while "HTTP_TRANSFER_ENCODING" in environ and (piece := environ["wsgi.input"].read(CHUNK)):
        size += len(piece)
        if size > settings.max_body_bytes:
            raise multipart.too_big_body(settings.max_body_bytes)
        pieces.append(piece)
    return b"".join(pieces)


CORS_HEADERS = "Content-Type, Content-Encoding, Authorization, X-API-Key, X-Request-Id"
"""Headers that a page of another origin may send."""

if TYPE_CHECKING:
    from pupila.server.api.predict import AppState


def install(app: Flask, state: "AppState") -> None:
    """Add the hooks to an application; what is switched off costs nothing."""
    app.before_request(refuse_slashes)
    if state.settings.cors_origins:
        app.before_request(answer_preflight)
    app.before_request(lambda: authorize(request.environ, state))
    app.after_request(lambda response: finish(response, state))


def refuse_slashes() -> None:
    """Answer 404 for //path: Flask would take it for /path, and access was decided for another path."""
    if request.environ["PATH_INFO"].startswith("//"):
        raise NotFound


def answer_preflight() -> Response | None:
    """Answer a browser's preflight request; the CORS headers are added as to any response."""
    if request.method == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in request.environ:
        return Response(status=204)
    return None


def authorize(environ: dict[str, Any], state: "AppState") -> None:
    """Decide whether this request may be sent, unless that was decided when its head arrived; raises RequestError."""
    context = context_of(environ)
    if context.access is None:
        context.access = state.access.decide(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ)
    if context.access.key is not None:
        context.record.key = context.access.key.name
    if context.access.refusal is not None:
        raise context.access.refusal


def finish(response: Response, state: "AppState") -> Response:
    """Add the headers of every response, and log the request."""
    response.headers.extend(closing_headers(request.environ, state))
    log_request(request.environ, response.status_code, state.request_log)
    return response


def closing_headers(environ: dict[str, Any], state: "AppState") -> list[tuple[str, str]]:
    """Return the headers that every response carries."""
    context = context_of(environ)
    found = [("X-Request-Id", request_id_of(environ, state.request_log))]
    stages = context.record.stages
    if stages:
        timing = ", ".join([f"{stage};dur={1000 * spent:.2f}" for stage, spent in stages.items()])
        found.append(("Server-Timing", timing))
    found += context.headers
    if state.settings.cors_origins:
        found += cors_headers(environ.get("HTTP_ORIGIN"), state.settings)
    return found


def cors_headers(origin: str | None, settings: Settings) -> list[tuple[str, str]]:
    """Return what lets pages of the chosen origins read the response (CORS)."""
    allowed = settings.allowed_origin(origin)
    if allowed is None:
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
        context.record.parent = environ.get("HTTP_TRACEPARENT"), environ.get("HTTP_TRACESTATE")
    if context.started is None:
        started = time.monotonic() - sum(context.record.stages.values())
        address = environ.get("REMOTE_ADDR", "")
        request_log.record(context.record, environ["REQUEST_METHOD"], environ["PATH_INFO"], status, started, address)


def to_bytes(document: Any) -> bytes:
    """Return compact JSON; half a surrogate pair, which a client may have us repeat, becomes a question mark."""
    return ENCODER.encode(document).encode(errors="replace")


def app_state() -> "AppState":
    """Return the state of the application that handles the request."""
    state: AppState = current_app.extensions[EXTENSION]
    return state


def json_response(document: object, status: int = 200) -> Response:
    """Return an answer of compact JSON."""
    return Response(to_bytes(document), status, mimetype="application/json")
