"""Fair queueing in front of Ray, whose own queue knows no clients: one with many connections would fill it.

Each of Ray's proxies has Places of its own. Requests that have none wait here, where addresses take turns, as they do
in the queues of a server.
"""

import asyncio
import os
from collections import Counter

from pupila._arguments import whole_number
from pupila.server.api.errors import DeadlineError, QueueFullError
from pupila.server.settings import Settings
from pupila.server.transport.executor import Turns

ONGOING = 8
"""Requests that a replica has in its hands at most: as many pictures as are computed together."""
WORKERS = "PUPILA_WORKERS"
"""Environment variable: replicas at most."""
MAX_WAITING = Settings.max_waiting
"""Requests that may wait; as many places there are where the number of replicas is not known."""
SHARE = 3 / 4
"""Of all places, what one address may have: so another's request finds one at once."""


class Places:
    """Of one proxy: requests that Ray has, and those that wait until it may have them. Used in the event loop."""

    def __init__(self) -> None:
        self._most = ONGOING * (whole_number(os.environ.get(WORKERS, "")) or 0) or MAX_WAITING
        self._share = max(1, int(SHARE * self._most))
        self._taken: Counter[str] = Counter()
        """Places by address."""
        self._turns: Turns[tuple[str, asyncio.Future[None]]] = Turns()

    async def take(self, line: str, deadline: float) -> None:
        """Wait for a place for one more request of this address, until `deadline` on the event loop's clock.

        Raises QueueFullError where too many wait, or DeadlineError.
        """
        is_free = self._taken.total() < self._most and self._taken[line] < self._share
        if not is_free and len(self._turns) >= MAX_WAITING:
            if not self._turns.can_give_way(line):
                raise QueueFullError(1)
            _, last = self._turns.give_way()
            if not last.done():
                last.set_exception(QueueFullError(1))
        mine = asyncio.get_running_loop().create_future()
        self._turns.add(line, (line, mine))
        self._give()
        try:
            async with asyncio.timeout_at(deadline):
                await mine
        except BaseException as error:
            if not mine.cancelled() and mine.exception() is None:  # it came at the same moment
                self.leave(line)
            if isinstance(error, TimeoutError):
                raise DeadlineError from None
            raise

    def leave(self, line: str) -> None:
        """Give a place back."""
        self._taken[line] -= 1
        if not self._taken[line]:
            del self._taken[line]
        self._give()

    def _give(self) -> None:
        """Give the places that are free to those whose turn it is."""
        while len(self._turns) and self._taken.total() < self._most:
            try:
                line, waiting = self._turns.next({line for line, count in self._taken.items() if count >= self._share})
            except LookupError:
                return
            if not waiting.done():  # else it has been given up
                self._taken[line] += 1
                waiting.set_result(None)
