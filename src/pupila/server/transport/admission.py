"""Decides what becomes of a request: read it, queue it, or turn it away. Knows limits and loads, but no selector.

Memory for bodies is reserved by what has come, not by what was announced: twice that, and never more than the whole.
So whoever announces much and sends little holds little, and whoever has sent half of a body is sure of room for the
rest. Where there is none to double a reservation, that upload is told to come back; and one that could not end beside
what is reserved when it begins is told so before it sends anything.
"""

import time
from dataclasses import replace

from pupila.server.api.auth import Access, AccessControl
from pupila.server.api.content_encoding import WINDOW, encoding_unsupported
from pupila.server.api.errors import RequestError
from pupila.server.api.multipart import MAX_PART_HEADER, first_part, is_readable, too_big_body, type_unsupported
from pupila.server.settings import Settings
from pupila.server.transport.connection import CONTINUE, Connection, Request
from pupila.server.transport.connections import Pool
from pupila.server.transport.error_responses import StandIn
from pupila.server.transport.executor import Executor
from pupila.server.transport.parser import Head
from pupila.server.transport.wsgi import CLOSE

SMALL = 65536
"""Bytes of a body that may come before any are reserved: the number of connections bounds them."""
UPLOADS = ("/predict", "/v2/models/")
"""Paths that begin so take bodies up to the settings' limit; all others take SMALL ones."""
INLINE = frozenset(("/healthz", "/readyz", "/metrics", "/ping", "/v2/health/live", "/v2/health/ready"))
"""Answered by the loop itself: health never waits behind inference."""


class Intake:
    """One loop's; used by the loop's thread only."""

    def __init__(
        self, pool: Pool, executor: Executor, stand_in: StandIn, settings: Settings, access: AccessControl
    ) -> None:
        self.pool = pool
        self.executor = executor
        self.stand_in = stand_in
        self.settings = settings
        self.access = access

    def begin(self, connection: Connection, head: Head) -> bool:
        """Return whether a request goes on whose head has arrived; else it is refused before its body is read.

        What is refused and here to its end is answered like any other request, and its connection lives on.
        """
        connection.access = self.access.decide(head.method, head.path, head.headers)
        connection.limit_body(body_limit(head.path, self.settings))
        if not head.chunked and len(connection.buffer) >= head.length:
            return True
        refusal = connection.access.refusal or body_refusal(head, self.settings)
        if refusal is not None:
            self.refuse_unread(connection, head, replace(connection.access, refusal=refusal))
            return False
        if self.is_too_large(head):
            if head.expects_continue and self.is_form(head):
                connection.send(CONTINUE)  # so that it says its name; it is refused after a few kilobytes
            return True
        if head.length > SMALL and not self.has_room(connection, head.length):
            return False
        if head.expects_continue:
            connection.send(CONTINUE)
        return True

    def refuse_unread(self, connection: Connection, head: Head, access: Access) -> None:
        """Have the application answer a request whose body is not read."""
        now = time.monotonic()
        request = Request(head, b"", connection.address, connection.started, now, connection.deadline, access=access)
        self.stand_in.send_last(connection, self.executor.response(request, CLOSE))

    def reserve(self, connection: Connection) -> bool:
        """Return whether there is room for what has come of a body; it is refused if there is none."""
        received, head = connection.received, connection.head
        if head is None or received <= SMALL or self.is_too_large(head):
            return True
        wanted = min(2 * received, self.settings.max_body_bytes if head.chunked else head.length)
        if wanted > connection.body_bytes:
            if not self.has_room(connection, wanted):
                return False
            connection.body_bytes = wanted
        return True

    def has_room(self, connection: Connection, wanted: int) -> bool:
        """Return whether so many bytes could be reserved for a connection's body; it is refused if not."""
        others = self.pool.body_bytes() - connection.body_bytes
        if others + wanted <= self.settings.max_buffered_bytes:
            return True
        self.stand_in.refuse(connection, 503, "overloaded", "Too many big uploads at once. Try again later.", 1)
        return False

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
        """Give a request to the executor, or answer at once if it is about health, or if too much waits."""
        connection.request = request
        connection.body_bytes = min(connection.body_bytes, len(request.body))
        if request.head.path in INLINE or (request.access is not None and request.access.refusal is not None):
            self.executor.answer(connection, request, self.executor.post)
            return
        queue = self.executor.queue_of(request)
        delay = queue.retry_after(request.deadline)
        if delay is None:
            self.executor.submit(queue, connection, request)
        else:
            self.stand_in.busy(connection, request, delay, self.executor.closing)
            self.executor.post(connection)


def body_limit(path: str, settings: Settings) -> int:
    """Return how many bytes the body of a request may have."""
    return settings.max_body_bytes if path.startswith(UPLOADS) else min(SMALL, settings.max_body_bytes)


def body_refusal(head: Head, settings: Settings) -> RequestError | None:
    """Return why a body is refused before it is read: its encoding, its type, or its size on a path of small ones."""
    coding = head.headers.get("HTTP_CONTENT_ENCODING", "identity").strip().lower()
    if coding not in ("", "identity", *WINDOW):
        return encoding_unsupported(coding)
    kind = head.headers.get("CONTENT_TYPE", "")
    if head.path == "/predict" and not is_readable(kind):
        return type_unsupported(kind, b"")
    if not head.path.startswith(UPLOADS) and head.length > body_limit(head.path, settings):
        return too_big_body(SMALL)
    return None
