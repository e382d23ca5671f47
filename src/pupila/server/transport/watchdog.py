"""Enforces every deadline of one loop's connections, and shows the arbiter a sign of life. Knows no sockets."""

import math

from pupila.server.process.scoreboard import BEAT, DUE, READY, WAITING
from pupila.server.settings import Settings
from pupila.server.transport.connection import Connection
from pupila.server.transport.connections import Pool
from pupila.server.transport.error_responses import StandIn
from pupila.server.transport.executor import Executor

TICK = 0.2
"""Seconds between two looks at the clock: how late a deadline may be noticed."""
GRACE = 0.2
"""Seconds after its deadline in which a request's own thread may still answer."""
WEDGED = 1.0
"""Seconds after its deadline from which a request that still runs means that this process must be replaced."""
HEAD_TIMEOUT = 5.0
"""Seconds from a request's first byte to the end of its head."""
LAST_WORDS = 0.5
"""Seconds that an idle connection has, when the server drains, for a request that is on its way already."""


class Clock:
    """Looked at every TICK by the loop's thread."""

    def __init__(
        self, pool: Pool, executor: Executor, stand_in: StandIn, settings: Settings, row: "memoryview[float]"
    ) -> None:
        self.pool = pool
        self.executor = executor
        self.stand_in = stand_in
        self.settings = settings
        self.row = row
        self.draining = False
        self.wedged = False
        """A request runs long past its deadline: the process has to be replaced."""

    def tick(self, now: float) -> None:
        """Look at every connection, and write down how this worker is."""
        due = math.inf
        for connection in list(self.pool.open.values()):
            due = min(due, self.check(connection, now))
        self.wedged = any(now > request.deadline + WEDGED for request in list(self.executor.running.values()))
        for line in self.executor.queues:
            line.look(now)
        self.row[BEAT] = now
        self.row[DUE] = due
        self.row[WAITING] = self.executor.waiting
        self.row[READY] = not self.draining

    def check(self, connection: Connection, now: float) -> float:
        """End what has taken too long; return when this connection's request is due."""
        request = connection.request
        if request is not None:
            if now >= request.deadline + GRACE and request.claim.acquire(blocking=False):
                message = "The answer was not ready by the request's deadline."
                self.stand_in.refuse(connection, 504, "deadline_exceeded", message)
            return request.deadline
        if connection.in_head and now >= connection.started + HEAD_TIMEOUT:
            message = f"The request's head did not arrive within {HEAD_TIMEOUT:g} seconds."
            self.stand_in.refuse(connection, 408, "upload_too_slow", message)
        elif connection.started and now >= connection.deadline:
            message = f"The request did not arrive within {self.settings.request_timeout:g} seconds."
            self.stand_in.refuse(connection, 408, "upload_too_slow", message)
        elif not connection.started and now >= connection.expires:
            self.pool.drop(connection)
        elif self.draining and connection.fresh:
            connection.expires = min(connection.expires, now + LAST_WORDS)
        return connection.deadline if connection.started else math.inf
