"""Gives each connection its turn: a bounded piece of work, so that none keeps others waiting. Knows sockets.

A connection is the loop's, but for the time in which one of its requests is in work: it is then whoever's answers that,
who posts it back when the answer is on its way. Until the loop takes it back, what comes is only kept.
"""

import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import Callable

from pupila.server.transport.admission import Intake
from pupila.server.transport.connection import Connection
from pupila.server.transport.connections import READ, WRITE, Pool
from pupila.server.transport.handoff import Door
from pupila.server.transport.parser import ProtocolError

log = logging.getLogger("pupila.server")

RECEIVE = 262144
"""Bytes of a body that are read at once."""
PIPELINED = 65536
"""Bytes that are read at once where no body is expected, and kept while a request is in work before reading stops."""
TURNS = 0.02
"""Seconds of turns after which the loop looks at its clock."""


class Turns:
    """One loop's; used by whoever holds its baton, except `post` and `wake`, which any thread may call."""

    def __init__(self, pool: Pool, door: Door, idle: float, deadline: float) -> None:
        self.pool = pool
        self.door = door
        self.idle = idle
        self.deadline = deadline
        self.due: deque[tuple[Connection | Callable[[], None], int]] = deque()
        """Whose turns come next, and why: READ for what has come, WRITE to go on with what is here already."""
        self.posted: deque[Connection] = deque()
        """Connections whose requests have been answered."""
        self.scratch = memoryview(bytearray(RECEIVE))
        self.wake_reader, self.wake_writer = socket.socketpair()
        self.wake_reader.setblocking(False)
        self.wake_writer.setblocking(False)

    def start(self, intake: Intake) -> None:
        """Begin to watch for posts."""
        self.intake = intake
        self.pool.selector.register(self.wake_reader, READ, self.woken)

    def post(self, connection: Connection) -> None:
        """Give a connection back whose request is answered, its response in `out`; `wake` has the loop send it."""
        self.posted.append(connection)

    def wake(self) -> None:
        """End the selector's wait."""
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes the loop just as well
            self.wake_writer.send(b"1")

    def take(self, patience: float) -> None:
        """Give the next turns, for about TURNS seconds; if none are due, wait so long for some.

        What was due first comes first, and nothing is added before all of it had its turn.
        """
        if not self.due:
            self.take_back()
            reported = self.pool.selector.select(0 if self.due else patience)
            self.due.extend((key.data, events) for key, events in reported)
            self.take_back()
        until = time.monotonic() + TURNS
        while self.due:
            self.turn(*self.due.popleft())
            if time.monotonic() >= until:
                return

    def turn(self, whose: Connection | Callable[[], None], events: int) -> None:
        """Give one turn; a fault of ours in it must not end all others."""
        try:
            if not isinstance(whose, Connection):
                whose()
            elif whose not in self.pool:  # dropped since it was put in line
                return
            elif not events & READ:
                self.go_on(whose)
            elif whose.watched & READ:
                self.receive(whose)
        except Exception:
            log.exception("a connection is dropped" if isinstance(whose, Connection) else "a turn has failed")
            if isinstance(whose, Connection):
                self.pool.drop(whose)

    def woken(self) -> None:
        """Somebody has posted."""
        with contextlib.suppress(BlockingIOError):
            self.wake_reader.recv(4096)
        self.take_back()

    def take_back(self) -> None:
        """Send the responses that were posted; connections with more to do get a turn."""
        now = time.monotonic()
        while self.posted:
            connection = self.posted.popleft()
            if connection.request is not None:  # it was not ended in the meantime
                connection.finish(now, self.idle)
            if connection in self.pool:
                self.pool.settle(connection)
            if connection not in self.pool:
                continue
            if connection.buffer or connection.ended:
                self.due.append((connection, WRITE))
            elif connection.fresh and not connection.out:
                self.door.hand_over(connection, now)

    def go_on(self, connection: Connection) -> None:
        """Go on with what is here of a connection, and with what is still to be sent.

        It may have taken up its next request since it was put in line: whoever answers that may be sending just now.
        """
        if connection.request is not None:
            return
        self.pool.settle(connection)
        if connection in self.pool:
            self.advance(connection)

    def receive(self, connection: Connection) -> None:
        """Read what has come."""
        try:
            count = connection.sock.recv_into(self.scratch, RECEIVE if connection.head else PIPELINED)
        except BlockingIOError:
            return
        except OSError:
            self.lose(connection)
            return
        if not count:
            self.end_of_input(connection)
        elif not connection.closing:
            connection.buffer += self.scratch[:count]
            if connection.request is None:
                self.advance(connection)
            elif len(connection.buffer) > PIPELINED:
                self.pool.watch(connection, 0)

    def lose(self, connection: Connection) -> None:
        """The client is gone: drop its request if nobody works on it yet."""
        request = connection.request
        if request is None or (not request.taken and request.claim.acquire(blocking=False)):
            self.pool.drop(connection)
        else:
            connection.ended = True
            self.pool.watch(connection, 0)

    def end_of_input(self, connection: Connection) -> None:
        """The client sends nothing more, but may still be reading: what has arrived completely is answered."""
        if connection.lingers:
            self.pool.drop(connection)
            return
        connection.ended = True
        self.pool.watch(connection, 0)
        self.advance(connection)

    def advance(self, connection: Connection) -> None:
        """Take up the next request if it is complete: one a turn, or whoever sends thousands at once has all turns."""
        if connection.request is not None or connection.closing or connection.out:
            return
        now = time.monotonic()
        if not connection.started:
            if not connection.buffer:
                self.wait_for_more(connection)
                return
            connection.begin(now, self.deadline)
        try:
            if not self.read_head(connection) or not self.intake.reserve(connection):
                return
            request = connection.take(now)
        except ProtocolError as error:
            self.intake.stand_in.refuse(connection, error.status, error.code, str(error))
            return
        if request is not None:
            self.intake.hand_over(connection, request)
        elif connection.paused:
            self.pool.watch(connection, 0)  # what is here comes first
            self.due.append((connection, WRITE))
        else:
            self.wait_for_more(connection)

    def read_head(self, connection: Connection) -> bool:
        """Read the head of the arriving request if it is complete; False if the request is refused or dropped."""
        arrived = connection.head_arrived()
        if arrived is not None:
            self.pool.head_ended(connection)
            return self.intake.begin(connection, arrived)
        if connection.in_head:
            self.pool.head_begun(connection)
        return connection in self.pool

    def wait_for_more(self, connection: Connection) -> None:
        """Leave a connection until more of it comes; if nothing will, that was all of it."""
        if connection.ended:
            self.pool.drop(connection)
        else:
            self.intake.look_at_rest(connection)
