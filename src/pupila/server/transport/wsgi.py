"""Between a request and a WSGI application (PEP 3333): the environment in, the bytes of the response out."""

import io
import logging
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import WSGIApplication

from pupila.server.api.answers import to_bytes
from pupila.server.api.errors import RequestError
from pupila.server.api.request_context import KEY, RequestContext
from pupila.server.observability.request_log import route_of
from pupila.server.observability.telemetry import Note
from pupila.server.transport.connection import Request
from pupila.server.transport.parser import STATUS_TEXT, Head

log = logging.getLogger("pupila.server")

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


def environ_of(request: Request, server: tuple[str, str]) -> dict[str, Any]:
    """Return the WSGI environment; the body is in memory already, and the deadline stands beside it."""
    head = request.head
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
        "REMOTE_ADDR": request.address,
        "wsgi.url_scheme": head.scheme,
        "wsgi.input": io.BytesIO(request.body),
        KEY: RequestContext(
            Note(route_of(head.path)), request.deadline, request.body, request.started, request.arrived, request.access
        ),
    }
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    environ["CONTENT_LENGTH"] = str(len(request.body))
    return environ


def status_of(response: bytes) -> int:
    """Return the status of a response as it goes over the wire."""
    return int(response[9:12])


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
    except Exception:
        log.exception("the application failed")
        return plain_response(
            500, "internal_error", "The server failed on this request. It has been logged.", persistence
        )


def persistence_of(head: Head, closing: bool) -> str:
    """Return the Connection header of a response: HTTP/1.0 clients are told of keep-alive, later ones expect it."""
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
    status: int, code: str, message: str, persistence: str, request_id: str = "", retry_after: int = 0
) -> bytes:
    """Return an error response without asking the application, in the shape of all errors."""
    body = to_bytes(RequestError(status, code, message).to_json())
    headers = [("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff")]
    if request_id:
        headers.append(("X-Request-Id", request_id))
    if retry_after:
        headers.append(("Retry-After", str(retry_after)))
    return response_bytes(f"{status} {STATUS_TEXT[status]}", headers, body, persistence)


LAST_DATE = [0, ""]


def http_date(now: int) -> str:
    """Return the Date header's value, worked out once a second."""
    if LAST_DATE[0] != now:
        LAST_DATE[:] = [now, time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now))]
    return str(LAST_DATE[1])
