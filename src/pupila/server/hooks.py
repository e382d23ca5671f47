"""What happens around every view: who may ask, who may read, what is noted. Knows Flask."""

import time
from typing import Any

from flask import Flask, Response, request

from pupila.server.api.auth import AccessControl
from pupila.server.api.request_context import ACCESS, AGAIN, note_of, request_id_of
from pupila.server.observability.request_log import Ledger
from pupila.server.settings import Settings

CORS_HEADERS = "Content-Type, Content-Encoding, Authorization, X-API-Key, X-Request-Id"
"""Headers that a page of another origin may send."""
SECURITY = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)


def install(app: Flask, settings: Settings, ledger: Ledger, access: AccessControl) -> None:
    """Add the hooks to an application; what is switched off costs nothing."""
    if settings.cors_origins:
        app.before_request(answer_preflight)
        app.after_request(lambda response: allow_origin(response, settings))
    app.before_request(lambda: authorize(request.environ, access))
    app.after_request(lambda response: finish(response, ledger))


def answer_preflight() -> Response | None:
    """Answer a browser's question whether it may ask; `allow_origin` adds the answer itself."""
    if request.method == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in request.environ:
        return Response(status=204)
    return None


def allow_origin(response: Response, settings: Settings) -> Response:
    """Let pages of the origins that were named read the answer."""
    origin = settings.allowed_origin(request.environ.get("HTTP_ORIGIN"))
    response.headers.add("Vary", "Origin")
    if origin is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE"
        response.headers["Access-Control-Allow-Headers"] = CORS_HEADERS
        response.headers["Access-Control-Expose-Headers"] = "Pupila-Model, Server-Timing, X-Request-Id, Retry-After"
    return response


def authorize(environ: dict[str, Any], access: AccessControl) -> None:
    """Let in who may send this request, unless that was decided when its head arrived; raises RequestError."""
    if ACCESS not in environ:
        decided = access.decide(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ, count=AGAIN not in environ)
        environ[ACCESS] = decided
        if decided.key is not None:
            note_of(environ).key = decided.key.name
    if environ[ACCESS].refusal is not None:
        raise environ[ACCESS].refusal


def finish(response: Response, ledger: Ledger) -> Response:
    """Add what every answer carries, and write the request down."""
    response.headers.extend(closing_headers(request.environ, ledger))
    write_down(request.environ, response.status_code, ledger)
    return response


def closing_headers(environ: dict[str, Any], ledger: Ledger) -> list[tuple[str, str]]:
    """Return the headers that every answer carries."""
    found = [("X-Request-Id", request_id_of(environ, ledger))]
    stages = note_of(environ).stages
    if stages:
        timing = ", ".join([f"{stage};dur={1000 * spent:.2f}" for stage, spent in stages.items()])
        found.append(("Server-Timing", timing))
    return [*found, *environ.get("pupila.headers", SECURITY)]


def write_down(environ: dict[str, Any], status: int, ledger: Ledger) -> None:
    """Write the request down, unless the server that called us does."""
    note = note_of(environ)
    if ledger.tracer is not None:
        note.parent = environ.get("HTTP_TRACEPARENT"), environ.get("HTTP_TRACESTATE")
    if "pupila.started" not in environ:
        started = time.monotonic() - sum(note.stages.values())
        address = environ.get("REMOTE_ADDR", "")
        ledger.record(note, environ["REQUEST_METHOD"], environ["PATH_INFO"], status, started, address)
