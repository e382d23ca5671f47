"""What Ray Serve's proxies do first: bodies are read to their end before a replica is taken up, and within bounds.

Addresses take turns when requests are given to Ray (places.py).

A request whose replica was lost is given to another one. Ray runs `middlewares` in its proxies, as the environment
variable in HOOK names it.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Sequence

from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pupila._arguments import whole_number
from pupila.cluster.places import Places
from pupila.server.addresses import network_part
from pupila.server.api.auth import route_of
from pupila.server.api.errors import DeadlineError, QueueFullError, RequestError, too_slow
from pupila.server.api.request_context import to_bytes
from pupila.server.observability.request_log import REQUEST_ID
from pupila.server.transport.admission import SENDING
from pupila.server.transport.executor import SMALL

TRIES = 4
"""How often a request is given to a replica before its client gets an error."""
HOOK = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}:middlewares"}
KEPT = 64 * 2**20
"""Bytes of a request that a proxy remembers, to be able to ask again: the server's own limit, if it is not raised."""
ALL_KEPT = 256 * 2**20
"""Bytes of all its requests together; half of it of one address."""
UPLOAD = "PUPILA_REQUEST_TIMEOUT"
"""Environment variable: seconds that a body may take."""
RAYS_OWN = frozenset(
    (
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"x-session-id",
        b"serve-multiplexed-model-id",
    )
)
"""Headers by which a client tells Ray how long to keep its request, also when it has gone, and which replica is to
answer: not for everybody. Ray takes "_" for "-" in some."""
NAME = b"x-request-id"
"""Its value stands in Ray's log; it fails at one that is not UTF-8."""
LOST = RequestError(500, "internal_error", "The server failed on this request. It has been logged.")
FROM_RAY = {408: DeadlineError(), 503: QueueFullError(1)}
"""By the status that Ray itself answers with, as plain text: what the server answers in the same case."""


def repeatable(method: str, path: str) -> bool:
    """Return whether such a request may be asked twice: where answering changes nothing."""
    return method == "GET" or reads_body(method, path)


def reads_body(method: str, path: str) -> bool:
    """Return whether the body of such a request is looked at: feedback is off on a cluster."""
    return method in SENDING and route_of(path).body == "large"


def is_passed_on(name: bytes, value: bytes) -> bool:
    """Return whether Ray gets a header of a client's."""
    name = name.lower().replace(b"_", b"-")
    return name not in RAYS_OWN and (name != NAME or REQUEST_ID.fullmatch(value.decode("latin-1")) is not None)


def response(status: int, headers: Sequence[tuple[str, str]], body: bytes) -> Response:
    """Return Starlette's form of an answer; its headers are kept as they are, also those that come twice."""
    made = Response(body, status)
    made.raw_headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return made


def problem(error: RequestError) -> Response:
    """Answer as pupila.server does when something is wrong."""
    body = to_bytes(error.to_json())
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *error.headers()]
    headers.append(("Connection", "close"))  # its body may not have been read
    return response(error.status, headers, body)


def middlewares() -> list[Middleware]:
    """Return what Ray's proxies put around what they do."""
    return [Middleware(Retries)]


class Retries:
    """Gives a request to what is behind it once more if that ended without an answer: its replica is lost."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._seconds = float(os.environ.get(UPLOAD) or 10)
        self._kept: Counter[str] = Counter()
        """Bytes of all requests, by address."""
        self._places = Places()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # which is not spoken here, and would go past all bounds
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = {**scope, "headers": [pair for pair in scope.get("headers", ()) if is_passed_on(*pair)]}
        request, line = KeptRequest(receive, scope), network_part((scope.get("client") or [""])[0])
        try:
            refusal = await self._admit(request, line)
            if refusal is not None:
                await problem(refusal)(scope, receive, send)
            elif not request.gone:
                try:
                    await self._ask(request, scope, receive, send)
                finally:
                    self._places.leave(line)
        finally:
            self._kept[line] -= len(request.body)
            if not self._kept[line]:
                del self._kept[line]

    async def _admit(self, request: "KeptRequest", line: str) -> RequestError | None:
        """Read the body, and wait for a place unless the client is gone. Return why there is none."""
        deadline = asyncio.get_running_loop().time() + self._seconds
        try:
            async with asyncio.timeout_at(deadline):
                await self._read(request, line)
        except TimeoutError:
            return too_slow(self._seconds)
        except RequestError as error:
            return error
        try:
            if not request.gone:
                await self._places.take(line, deadline)
        except RequestError as error:
            return error
        return None

    async def _read(self, request: "KeptRequest", line: str) -> None:
        """Read the body as far as it is kept: so a slow one takes up no replica. Raises QueueFullError."""
        while not (request.whole or request.gone) and len(request.body) < request.most:
            count = await request.more()
            self._kept[line] += count  # in a step of its own: other requests change it while this one waits
            is_full = self._kept.total() > ALL_KEPT or self._kept[line] > ALL_KEPT // 2
            if is_full and len(request.body) > SMALL:
                raise QueueFullError(1)

    async def _ask(self, request: "KeptRequest", scope: Scope, receive: Receive, send: Send) -> None:
        """Give a request to what is behind it, until there is an answer."""
        begun, replaced = False, None

        async def watched(message: Message) -> None:
            nonlocal begun, replaced
            if not begun and is_plain_text(message):
                replaced = FROM_RAY.get(message["status"])
            begun = True
            if replaced is None:
                await send(message)

        for _ in range(TRIES if repeatable(scope["method"], scope["path"]) else 1):
            await self._app(scope, request.from_the_start(), watched)
            over = begun or request.gone or not request.whole
            if over:
                break
        if replaced is not None or not over:
            await problem(replaced or LOST)(scope, receive, send)


def is_plain_text(message: Message) -> bool:
    """Return whether an answer begins that is none of the server's, which are JSON, pages and metrics."""
    return any(
        name == b"content-type" and value.startswith(b"text/plain") for name, value in message.get("headers", ())
    )


class KeptRequest:
    """What a client has sent, to be read several times."""

    def __init__(self, receive: Receive, scope: Scope) -> None:
        self._receive = receive
        length = whole_number(dict(scope.get("headers", ())).get(b"content-length", b"").decode("latin-1")) or 0
        self.most = KEPT if length <= KEPT else 0
        """Bytes that are kept; what is longer goes on as it comes, once."""
        self.body = bytearray()
        self.whole = not reads_body(scope["method"], scope["path"])
        """Nothing of the body is to come, or is to be read."""
        self.gone = False
        """The client is."""

    async def more(self) -> int:
        """Keep what comes next; return how many bytes."""
        message = await self._next()
        piece = message.get("body", b"")
        self.whole = not (self.gone or message.get("more_body"))
        self.body += piece
        return len(piece)

    async def _next(self) -> Message:
        message = await self._receive()
        self.gone |= message["type"] == "http.disconnect"
        return message

    def from_the_start(self) -> Receive:
        """Return what reads all that was sent, what is kept first."""
        kept = [{"type": "http.request", "body": bytes(self.body), "more_body": not self.whole}]

        async def receive() -> Message:
            if kept:
                return kept.pop()
            message = await self._next()
            while self.whole and not self.gone:  # of a body that nobody reads
                message = await self._next()
            return message

        return receive
