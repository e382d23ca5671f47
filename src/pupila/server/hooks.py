"""What happens around every view: who may ask, who may read, what is noted. Knows Flask."""

import time
from typing import Any

from flask import Flask, Response, request

from pupila.server.guard import Guard
from pupila.server.ledger import Ledger, route_of
from pupila.server.problems import RequestError
from pupila.server.settings import Settings
from pupila.server.telemetry import Note

OPEN = frozenset(("/healthz", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready", "/", "/review"))
"""Health is never behind authentication; nor are the pages, which ask for a key and tell nothing without one."""
OPEN_FILES = "/page/"
"""Where the page's files are."""

SECURITY = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)


def note_of(environ: dict[str, Any]) -> Note:
    """Return the note of the request that is being answered."""
    note: Note | None = environ.get("pupila.note")
    if note is None:
        note = environ["pupila.note"] = Note(route_of(environ["PATH_INFO"]))
    return note


def request_id_of(environ: dict[str, Any], ledger: Ledger) -> str:
    """Return the name of the request that is being answered: the client's own if it is a sane one."""
    note = note_of(environ)
    if not note.request_id:
        note.request_id = ledger.request_id(environ.get("HTTP_X_REQUEST_ID"))
    return note.request_id


def install(app: Flask, settings: Settings, ledger: Ledger, guard: Guard | None) -> None:
    """Add the hooks to an application; what is switched off costs nothing."""
    if settings.cors_origins:
        app.before_request(answer_preflight)
        app.after_request(lambda response: allow_origin(response, settings))
    if guard is not None:
        app.before_request(lambda: admit(guard))
    app.after_request(lambda response: finish(response, ledger))


def answer_preflight() -> Response | None:
    """Answer a browser's question whether it may ask; `allow_origin` adds the answer itself."""
    if request.method == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in request.environ:
        return Response(status=204)
    return None


def allow_origin(response: Response, settings: Settings) -> Response:
    """Let pages of the origins that were named read the answer."""
    origin = request.environ.get("HTTP_ORIGIN")
    response.headers.add("Vary", "Origin")
    if origin in settings.cors_origins:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Allow-Methods"] = "GET, POST"
        response.headers["Access-Control-Allow-Headers"] = "Content-Type, Authorization, X-API-Key, X-Request-Id"
        response.headers["Access-Control-Expose-Headers"] = "Pupila-Model, Server-Timing, X-Request-Id, Retry-After"
    return response


def admit(guard: Guard) -> None:
    """Let in who has a key and has not used it too often."""
    environ = request.environ
    if environ["PATH_INFO"] in OPEN or environ["PATH_INFO"].startswith(OPEN_FILES):
        return
    index = guard.find(environ.get("HTTP_AUTHORIZATION"), environ.get("HTTP_X_API_KEY"))
    if index is None:
        raise RequestError(401, "key_missing", "A valid API key is needed. Send it as: Authorization: Bearer KEY")
    note_of(environ).key = guard.keys[index].name
    wait = guard.wait(index)
    if wait > 0:
        message = f"This key may ask {guard.keys[index].rate:g} times a second. Try again in {wait:.1f} s."
        raise RequestError(429, "rate_exceeded", message, retry_after=wait)


def finish(response: Response, ledger: Ledger) -> Response:
    """Add what every answer carries; write the request down, unless the server that called us does."""
    environ = request.environ
    note = note_of(environ)
    request_id_of(environ, ledger)
    if ledger.tracer is not None:
        note.parent = environ.get("HTTP_TRACEPARENT"), environ.get("HTTP_TRACESTATE")
    headers = response.headers
    headers.add("X-Request-Id", note.request_id)
    if note.stages:
        timing = ", ".join([f"{stage};dur={1000 * spent:.2f}" for stage, spent in note.stages.items()])
        headers.add("Server-Timing", timing)
    headers.extend(environ.get("pupila.headers", SECURITY))
    if "pupila.started" not in environ:
        started = time.monotonic() - sum(note.stages.values())
        address = environ.get("REMOTE_ADDR", "")
        ledger.record(note, request.method, environ["PATH_INFO"], response.status_code, started, address)
    return response
