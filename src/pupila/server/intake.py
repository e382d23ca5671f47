"""Decides what becomes of a request: read it, queue it, or turn it away. Knows limits and loads, but no selector."""

import time

from pupila.server.connection import CONTINUE, Connection, Request
from pupila.server.handlers import Handlers
from pupila.server.http1 import Head
from pupila.server.payload import MAX_PART_HEADER, first_part
from pupila.server.pool import Pool
from pupila.server.settings import Settings
from pupila.server.stand_in import StandIn

SMALL = 65536
"""Bodies up to this are not counted against the memory for bodies: the number of connections bounds them."""
INLINE = frozenset(("/healthz", "/readyz", "/metrics", "/ping", "/v2/health/live", "/v2/health/ready"))
"""Answered by the loop itself: health never waits behind inference."""


class Intake:
    """One loop's; used by the loop's thread only."""

    def __init__(self, pool: Pool, handlers: Handlers, stand_in: StandIn, settings: Settings) -> None:
        self.pool = pool
        self.handlers = handlers
        self.stand_in = stand_in
        self.settings = settings

    def begin(self, connection: Connection, head: Head) -> bool:
        """Return whether a body may be sent, whose head has arrived; memory for a big one is reserved first."""
        if self.is_too_large(head):
            if head.expects_continue and self.is_form(head):
                connection.send(CONTINUE)  # so that it says its name; it is refused after a few kilobytes
            return True
        connection.body_bytes = head.length
        if head.length > SMALL or head.chunked:
            total = self.pool.body_bytes()
            if total > self.settings.max_buffered_bytes:
                self.stand_in.refuse(connection, 503, "overloaded", "Too many big uploads at once. Try again later.", 1)
                return False
        if head.expects_continue and len(connection.buffer) < max(head.length, 1):
            connection.send(CONTINUE)
        return True

    def is_too_large(self, head: Head) -> bool:
        """Return whether a body is larger than any may be, as announced."""
        return head.length > self.settings.max_body_bytes

    def is_form(self, head: Head) -> bool:
        """Return whether a body has parts."""
        return head.headers.get("CONTENT_TYPE", "").lower().startswith("multipart/")

    def look_at_rest(self, connection: Connection) -> None:
        """Refuse a body that is too large as announced, once its first part has said its name, if it has one."""
        head = connection.head
        if head is None or not self.is_too_large(head):
            return
        begun = bytes(connection.buffer[:MAX_PART_HEADER])
        part = first_part(head.headers["CONTENT_TYPE"], begun) if self.is_form(head) else ""
        if part is None and len(begun) < MAX_PART_HEADER:
            return  # it comes any moment; else the deadline ends this
        limits = f"a request may have {self.settings.max_body_bytes:,}, and a picture {self.settings.max_part_bytes:,}"
        first = f" The first part is {part!r}." if part else ""
        message = f"{head.length:,} bytes are announced, but {limits}.{first} Send fewer or smaller pictures."
        self.stand_in.refuse(connection, 413, "body_too_large", message)

    def hand_over(self, connection: Connection, request: Request) -> None:
        """Give a request to the handlers, or answer at once if it is about health, or if too much waits."""
        connection.request = request
        if request.head.path in INLINE:
            self.handlers.answer(connection, request)
            return
        line = self.handlers.line_of(request)
        delay = line.refusal(time.monotonic(), request.deadline)
        if delay is None:
            line.put((connection, request, None))
        else:
            self.stand_in.busy(connection, request, delay, self.handlers.closing)
            self.handlers.hand_back(connection)
