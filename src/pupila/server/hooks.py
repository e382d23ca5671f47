"""Around every route: authentication, rate limit, CORS and security headers, the request log."""

import time
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request

from pupila.server.api.request_context import context_of, request_id_of
from pupila.server.observability.request_log import Ledger
from pupila.server.settings import Settings

CORS_HEADERS = "Content-Type, Content-Encoding, Authorization, X-API-Key, X-Request-Id"
"""Headers that a page of another origin may send."""

if TYPE_CHECKING:
    from pupila.server.api.predict import AppState


def install(app: Flask, state: "AppState") -> None:
    """Add the hooks to an application; what is switched off costs nothing."""
    if state.settings.cors_origins:
        app.before_request(answer_preflight)
    app.before_request(lambda: authorize(request.environ, state))
    app.after_request(lambda response: finish(response, state))


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
    log_request(request.environ, response.status_code, state.ledger)
    return response


def closing_headers(environ: dict[str, Any], state: "AppState") -> list[tuple[str, str]]:
    """Return the headers that every response carries."""
    context = context_of(environ)
    found = [("X-Request-Id", request_id_of(environ, state.ledger))]
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


def log_request(environ: dict[str, Any], status: int, ledger: Ledger) -> None:
    """Log the request, unless our own transport does, which knows when it began."""
    context = context_of(environ)
    if ledger.tracer is not None:
        context.record.parent = environ.get("HTTP_TRACEPARENT"), environ.get("HTTP_TRACESTATE")
    if context.started is None:
        started = time.monotonic() - sum(context.record.stages.values())
        address = environ.get("REMOTE_ADDR", "")
        ledger.record(context.record, environ["REQUEST_METHOD"], environ["PATH_INFO"], status, started, address)
