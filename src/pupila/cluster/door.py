"""Requests and answers between Starlette (Ray Serve) and WSGI (pupila.server), and the retry in Ray's proxies.

Ray runs `middlewares` in its proxies, as the environment variable HOOK names it.
"""

import io
import json
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from werkzeug.wrappers import Response as WSGIResponse

from pupila.server.api.errors import RequestError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

Environ = dict[str, Any]
Reply = tuple[int, list[tuple[str, str]], bytes]
"""Status, headers, body."""
ANSWERED_AGAIN = ("/predict", "/predictions/", "/v2/")
"""What may be asked twice besides GET: where answering changes nothing."""
TRIES = 4
"""How often a request is given to a process before its client is told."""
HOOK = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}:middlewares"}
KEPT = 64 * 2**20
"""Bytes of a request that a proxy remembers, to be able to ask again: the server's own limit, if it is not raised."""


class Asked(NamedTuple):
    """A request in plain values, as it travels from the ingress to a replica."""

    environ: dict[str, str]
    """WSGI's variables."""
    body: bytes | None
    """None if it is longer than the limit."""

    @property
    def repeatable(self) -> bool:
        """Whether asking twice is the same as asking once."""
        return repeatable(self.environ["REQUEST_METHOD"], self.environ["PATH_INFO"])


def repeatable(method: str, path: str) -> bool:
    """Return whether such a request may be asked twice."""
    return method == "GET" or path.startswith(ANSWERED_AGAIN)


def call(app: "WSGIApplication", asked: Asked) -> Reply:
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
        environ["CONTENT_LENGTH"] = str(len(asked.body))
    answer = WSGIResponse.from_app(app, environ, buffered=True)
    return answer.status_code, answer.headers.to_wsgi_list(), answer.get_data()


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


def middlewares() -> list[Middleware]:
    """Return what Ray's proxies put around what they do."""
    return [Middleware(Again)]


class Again:
    """Gives a request to what is behind it once more if that ended without a word: who had it is lost."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or not repeatable(scope["method"], scope["path"]):
            return await self._app(scope, receive, send)
        heard = Heard(receive)
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        for _ in range(TRIES):
            await self._app(scope, heard.from_the_start(), watched)
            if begun or not heard.whole:
                return None
        message = "The server failed on this request. It has been logged."
        return await problem(RequestError(500, "internal_error", message))(scope, receive, send)


class Heard:
    """What a client has sent, to be read several times."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: list[Message] = []
        self._size = 0
        self.whole = True
        """False once there was too much to keep, or when the client has gone."""

    def from_the_start(self) -> Receive:
        """Return what reads all messages, those that were read before first."""
        before = iter(tuple(self._messages))

        async def receive() -> Message:
            return next(before, None) or await self._more()

        return receive

    async def _more(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        self.whole &= self._size <= KEPT and message["type"] != "http.disconnect"
        if self.whole:
            self._messages.append(message)
        return message
