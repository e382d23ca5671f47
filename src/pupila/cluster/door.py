"""Requests and answers between Starlette, which Ray Serve speaks, and WSGI, which ours speaks. Knows no Ray."""

import io
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from pupila.server.problems import RequestError

Environ = dict[str, Any]
Reply = tuple[int, list[tuple[str, str]], bytes]
"""Status, headers, body."""
ANSWERED_AGAIN = ("/predict", "/predictions/", "/v2/")
"""What may be asked twice besides GET: where answering changes nothing."""


class Asked(NamedTuple):
    """A request in plain values, as it travels from the door to a replica."""

    environ: dict[str, str]
    """WSGI's variables."""
    body: bytes | None
    """None if it is longer than the limit."""

    @property
    def repeatable(self) -> bool:
        """Whether asking twice is the same as asking once."""
        return self.environ["REQUEST_METHOD"] == "GET" or self.environ["PATH_INFO"].startswith(ANSWERED_AGAIN)


def call(app: Callable[..., Iterable[bytes]], asked: Asked) -> Reply:
    """Ask a WSGI application."""
    environ: Environ = {
        **asked.environ,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(asked.body or b""),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    if asked.body is not None:
        environ["pupila.body"] = asked.body
    begun: list[tuple[int, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], None]:
        begun.append((int(status[:3]), headers))
        return lambda _: None

    pieces = app(environ, start_response)
    try:
        body = b"".join(pieces)
    finally:
        getattr(pieces, "close", lambda: None)()
    return *begun[-1], body


async def read(request: Request, most: int) -> Asked:
    """Return a request in plain values; no more than `most` bytes of its body are kept."""
    environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.url.path.encode().decode("latin-1"),
        "QUERY_STRING": request.url.query,
        "SERVER_NAME": request.url.hostname or "",
        "SERVER_PORT": str(request.url.port or 80),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": request.client.host if request.client else "",
    }
    for name, value in request.headers.items():
        key = name.upper().replace("-", "_")
        if key != "TRANSFER_ENCODING":
            environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
    body = bytearray()
    stated = request.headers.get("content-length", "0")
    if stated.isdigit() and int(stated) > most:
        return Asked(environ, None)
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            return Asked({**environ, "CONTENT_LENGTH": str(len(body))}, None)
    return Asked(environ, bytes(body))


def response(reply: Reply) -> Response:
    """Turn an answer into Starlette's; its headers are kept as they are, also those that come twice."""
    status, headers, body = reply
    made = Response(body, status)
    made.raw_headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return made


def problem(error: RequestError) -> Response:
    """Answer as pupila.server does when something is wrong."""
    body = json.dumps(error.to_json()).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    if error.retry_after is not None:
        headers.append(("Retry-After", f"{error.retry_after:.0f}"))
    return response((error.status, headers, body))
