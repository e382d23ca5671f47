"""The context of one request, under one key of its WSGI environment: deadline, body, and what is logged of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pupila.errors import ImageError
from pupila.predictor import Predictor
from pupila.server.api import content_encoding, multipart
from pupila.server.api.auth import Access, AccessControl, ApiKey
from pupila.server.inference.classifier import Answer, Stages
from pupila.server.observability.request_log import Ledger, route_of
from pupila.server.observability.telemetry import Note
from pupila.server.settings import Settings

KEY = "pupila.request"
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

    record: Note
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
                Note(route_of(environ["PATH_INFO"])), time.monotonic() + settings.request_timeout
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


def request_id_of(environ: dict[str, Any], ledger: Ledger) -> str:
    """Return the name of the request that is being answered: the client's own if it is a sane one."""
    record = context_of(environ).record
    if not record.request_id:
        record.request_id = ledger.request_id(environ.get("HTTP_X_REQUEST_ID"))
    return record.request_id


def stages_of(environ: dict[str, Any], ledger: Ledger) -> Stages:
    """Return the request's stopwatch; two stages are over: the upload, and waiting for a thread."""
    context = context_of(environ)
    if ledger.tracer is not None:
        context.record.spans = []
    stages = Stages(context.record.stages, context.record.spans, context.started)
    if context.started is not None:
        stages.end("upload", context.arrived)
        stages.end("wait")
    return stages


def record_answers(environ: dict[str, Any], predictor: Predictor, found: Sequence[Answer | ImageError]) -> None:
    """Record which classes were answered, and how surely."""
    record = context_of(environ).record
    record.model = predictor.version
    for answer in found:
        if isinstance(answer, Answer):
            best = answer.prediction.best
            record.confidences.append((best.category_index, best.confidence, answer.prediction.unknown))


def read_body(environ: dict[str, Any], settings: Settings) -> bytes:
    """Return the whole body without its Content-Encoding, never more than the limit."""
    return content_encoding.decoded(environ, read_sent(environ, settings), settings.max_body_bytes)


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
