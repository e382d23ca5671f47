"""Backpressure: a bounded queue of requests, with an estimate of how long a request will wait in it."""

import time
from queue import SimpleQueue
from typing import Generic, TypeVar

Job = TypeVar("Job")

FORGET = 1.0
"""Seconds without anything waiting after which the forecast is forgotten: what comes then may be of another kind."""


class ThroughputEstimate:
    """How many requests are taken up a second while others wait, averaged; what is done when idle says nothing."""

    def __init__(self) -> None:
        self.rate = 0.0
        """0 as long as nothing has waited."""
        self._since = 0.0
        self._taken = 0
        self._waited = False
        self._last_waited = 0.0

    def look(self, now: float, taken: int, waiting: bool) -> None:
        """Take note of how many have been taken up by now, and whether others wait.

        A look that finds nothing taken up lengthens the time that the next one divides by: requests that take seconds
        each must not look like none at all.
        """
        busy = waiting and self._waited
        self._waited = waiting
        if waiting:
            self._last_waited = now
        elif now - self._last_waited >= FORGET:
            self.rate = 0.0
        if busy and taken > self._taken and now > self._since:
            measured = (taken - self._taken) / (now - self._since)
            self.rate = measured if not self.rate else 0.7 * self.rate + 0.3 * measured
        if not busy or taken > self._taken:
            self._since, self._taken = now, taken

    def delay(self, waiting: int) -> float:
        """Return the seconds until so many requests should have been taken up."""
        return waiting / self.rate if self.rate else 0.0


class RequestQueue(Generic[Job]):
    """First come, first served. Each has a pace of its own: big pictures say nothing of how long small ones take."""

    def __init__(self, most: int) -> None:
        self.most = most
        """How many may wait."""
        self.taken = 0
        """How many have been taken up; counted by whoever does it."""
        self.estimate = ThroughputEstimate()
        self._jobs: SimpleQueue[Job] = SimpleQueue()

    def __len__(self) -> int:
        return self._jobs.qsize()

    def put(self, job: Job) -> None:
        """Add a request at the end."""
        self._jobs.put(job)

    def get(self) -> Job:
        """Return the first one; waits until there is one."""
        return self._jobs.get()

    def look(self, now: float) -> None:
        """Take note of how fast it goes; to be called several times a second."""
        self.estimate.look(now, self.taken, len(self) > 0)

    def retry_after(self, deadline: float) -> float | None:
        """Return None if one more can be answered by `deadline`, else the seconds until there should be room."""
        delay = self.estimate.delay(len(self))
        return delay if len(self) >= self.most or time.monotonic() + delay >= deadline else None
