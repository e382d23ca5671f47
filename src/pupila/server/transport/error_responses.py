"""Answers given in the application's place: too much to do, too late, not a request. Knows the wire, but no clock."""

import math
import time

from pupila.server.observability.request_log import Ledger, route_of
from pupila.server.observability.telemetry import Note
from pupila.server.transport.connection import Connection, Request
from pupila.server.transport.connections import Pool
from pupila.server.transport.parser import Head
from pupila.server.transport.wsgi import CLOSE, persistence_of, plain_response

LINGER = 5.0
"""Seconds in which a client that is refused may go on sending, so that it sees the answer and not a broken pipe."""


class StandIn:
    """One loop's; used by the loop's thread only."""

    def __init__(self, pool: Pool, ledger: Ledger) -> None:
        self.pool = pool
        self.ledger = ledger

    def busy(self, connection: Connection, request: Request, delay: float, close: bool) -> None:
        """Answer a request that was read to its end with "too much to do"; unless `close`, the connection lives on."""
        message = "The server has more to do than it can answer in time. Try again later."
        sent = connection.send(
            self.answer(503, "overloaded", message, request.head, request.started, request.address, close, delay)
        )
        connection.closing = not sent or close

    def refuse(self, connection: Connection, status: int, code: str, message: str, delay: float = -1) -> None:
        """Answer with an error and end the connection."""
        request = connection.request
        head, started = (request.head, request.started) if request else (connection.head, connection.started)
        self.send_last(connection, self.answer(status, code, message, head, started, connection.address, True, delay))

    def send_last(self, connection: Connection, response: bytes) -> None:
        """Send a response and end the connection; the client may finish sending, or it would not see the response."""
        connection.send(response)
        connection.closing = True
        connection.finish(time.monotonic(), LINGER)
        connection.buffer.clear()
        connection.lingers = True
        self.pool.settle(connection)

    def answer(
        self,
        status: int,
        code: str,
        message: str,
        head: Head | None,
        started: float,
        address: str,
        close: bool,
        delay: float,
    ) -> bytes:
        """Return an error answer, and write it down. A `delay` from 0 says when to come back."""
        note = Note(route_of(head.path) if head else "other")
        headers = head.headers if head else {}
        note.request_id = self.ledger.request_id(headers.get("HTTP_X_REQUEST_ID"))
        note.parent = headers.get("HTTP_TRACEPARENT"), headers.get("HTTP_TRACESTATE")
        method, path = (head.method, head.path) if head else ("-", "-")
        self.ledger.record(note, method, path, status, started or time.monotonic(), address)
        retry_after = max(1, math.ceil(delay)) if delay >= 0 else 0
        persistence = CLOSE if close or head is None else persistence_of(head, False)
        return plain_response(status, code, message, persistence, note.request_id, retry_after)
