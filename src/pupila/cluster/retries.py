"""Retries in Ray Serve's proxies: a request whose replica was lost is given to another one.

Ray runs `middlewares` in its proxies, as the environment variable in HOOK names it.
"""

from collections.abc import Sequence

from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pupila.server.api.errors import DeadlineError, QueueFullError, RequestError
from pupila.server.api.request_context import to_bytes

ANSWERED_AGAIN = ("/predict", "/predictions/", "/v2/")
"""What may be asked twice besides GET: where answering changes nothing."""
TRIES = 4
"""How often a request is given to a replica before its client gets an error."""
HOOK = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}:middlewares"}
KEPT = 64 * 2**20
"""Bytes of a request that a proxy remembers, to be able to ask again: the server's own limit, if it is not raised."""
LOST = RequestError(500, "internal_error", "The server failed on this request. It has been logged.")
FROM_RAY = {408: DeadlineError(), 503: QueueFullError(1)}
"""By the status that Ray itself answers with, as plain text: what the server answers in the same case."""


def repeatable(method: str, path: str) -> bool:
    """Return whether such a request may be asked twice."""
    return method == "GET" or path.startswith(ANSWERED_AGAIN)


def response(status: int, headers: Sequence[tuple[str, str]], body: bytes) -> Response:
    """Return Starlette's form of an answer; its headers are kept as they are, also those that come twice."""
    made = Response(body, status)
    made.raw_headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return made


def problem(error: RequestError) -> Response:
    """Answer as pupila.server does when something is wrong."""
    body = to_bytes(error.to_json())
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *error.headers()]
    return response(error.status, headers, body)


def middlewares() -> list[Middleware]:
    """Return what Ray's proxies put around what they do."""
    return [Middleware(Retries)]


class Retries:
    """Gives a request to what is behind it once more if that ended without an answer: its replica is lost."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, begun, replaced = KeptRequest(receive), False, None

        async def watched(message: Message) -> None:
            nonlocal begun, replaced
            if not begun and is_plain_text(message):
                replaced = FROM_RAY.get(message["status"])
            begun = True
            if replaced is None:
                await send(message)

        for _ in range(TRIES if repeatable(scope["method"], scope["path"]) else 1):
            await self._app(scope, request.from_the_start(), watched)
            if begun or not request.whole:
                break
        if replaced is not None or (request.whole and not begun):
            await problem(replaced or LOST)(scope, receive, send)


def is_plain_text(message: Message) -> bool:
    """Return whether an answer begins that is none of the server's, which are JSON, pages and metrics."""
    return any(
        name == b"content-type" and value.startswith(b"text/plain") for name, value in message.get("headers", ())
    )


class KeptRequest:
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
