"""Shares one computation among many requests: bounded, fair, with deadlines. Knows neither HTTP nor images.

It has no thread of its own: the request that finds the computation free runs it, for itself and for what waits, and
hands it on when its own items are done. An idle server therefore answers without a single thread switch, and there is
no thread that could die unseen.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Lane = TypeVar("Lane", bound=Hashable)


class QueueFullError(Exception):
    """Too much waits already; `retry_after` is when the queue should have room again, in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"The queue is full. Try again in {retry_after:.1f} s.")
        self.retry_after = retry_after


class DeadlineError(Exception):
    """The request's time was over before its answer was there."""


class Ticket(Generic[Item, Result, Lane]):
    """One request's place in the queue."""

    __slots__ = ("answered", "begun", "error", "items", "lane", "results", "taken", "turn")

    def __init__(self, items: Sequence[Item], lane: Lane, turn: threading.Lock) -> None:
        self.items = items
        self.lane = lane
        self.turn = turn
        """Held while there is nothing to do for the waiting thread; released to wake it."""
        self.taken = 0
        self.answered = 0
        self.begun = 0.0
        self.results: list[Result | None] = [None] * len(items)
        self.error: BaseException | None = None


class Scheduler(Generic[Item, Result, Lane]):
    """Runs `compute(items, lane)` for one batch at a time, at most `batch` items each, turn by turn among requests."""

    def __init__(
        self,
        compute: Callable[[Sequence[Item], Lane], Sequence[Result]],
        batch: int = 1,
        max_waiting: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compute = compute
        self._batch = batch
        self._max_waiting = max_waiting
        self._clock = clock
        self._lock = threading.Lock()
        self._queue: deque[Ticket[Item, Result, Lane]] = deque()
        self._busy = False
        self._waiting = 0
        self._seconds_per_item = 0.0

    @property
    def waiting(self) -> int:
        """Items accepted and not yet in computation."""
        return self._waiting

    def run(self, items: Sequence[Item], lane: Lane, deadline: float) -> list[Result]:
        """Return the results in order; items of different lanes are never computed together.

        Raises QueueFullError at once, DeadlineError when the clock reaches `deadline`, or what an item raised.
        """
        return self.run_timed(items, lane, deadline)[0]

    def run_timed(self, items: Sequence[Item], lane: Lane, deadline: float) -> tuple[list[Result], float]:
        """Like `run`; return also when the first item's computation began, by the clock given."""
        turn = threading.Lock()
        turn.acquire()
        ticket = Ticket[Item, Result, Lane](items, lane, turn)
        with self._lock:
            self._admit(ticket, deadline)
            leads = not self._busy
            self._busy = True
        if not leads:
            leads = self._wait(ticket, deadline)
        if leads:
            self._lead(ticket, deadline)
        if ticket.error is not None:
            raise ticket.error
        if ticket.answered < len(items):
            raise DeadlineError
        return ticket.results, ticket.begun  # type: ignore[return-value]  # every place is filled

    def _admit(self, ticket: Ticket[Item, Result, Lane], deadline: float) -> None:
        """Take the ticket into the queue. A request is let in on an empty queue whatever its size."""
        delay = self._waiting * self._seconds_per_item
        if self._waiting and self._waiting + len(ticket.items) > self._max_waiting:
            raise QueueFullError(delay)
        if self._clock() + delay >= deadline:
            raise QueueFullError(delay) if delay else DeadlineError
        self._queue.append(ticket)
        self._waiting += len(ticket.items)

    def _wait(self, ticket: Ticket[Item, Result, Lane], deadline: float) -> bool:
        """Sleep until answered (False), or until it is this thread's turn to compute (True), or until the deadline."""
        if not ticket.turn.acquire(timeout=max(deadline - self._clock(), 0)):
            with self._lock:
                if not ticket.turn.acquire(blocking=False):
                    self._drop(ticket)
                    return False
        return ticket.answered < len(ticket.items) and ticket.error is None

    def _lead(self, own: Ticket[Item, Result, Lane], deadline: float) -> None:
        """Compute batches until the own ticket is done, then hand the lead to the first who waits."""
        try:
            while own.answered < len(own.items) and own.error is None and self._clock() < deadline:
                with self._lock:
                    batch = self._next_batch()
                self._run(batch)
        finally:
            with self._lock:
                self._drop(own)
                self._busy = bool(self._queue)
                if self._queue:
                    self._queue[0].turn.release()

    def _next_batch(self) -> list[tuple[Ticket[Item, Result, Lane], int]]:
        """Take up to `batch` items of one lane, one a ticket and round again: many do not starve single ones."""
        batch: list[tuple[Ticket[Item, Result, Lane], int]] = []
        lane = self._queue[0].lane
        for _ in range(self._batch):
            ticket = next((t for t in self._queue if t.lane == lane), None)
            if ticket is None:
                break
            batch.append((ticket, ticket.taken))
            ticket.taken += 1
            self._queue.remove(ticket)
            if ticket.taken < len(ticket.items):
                self._queue.append(ticket)
        self._waiting -= len(batch)
        return batch

    def _run(self, batch: list[tuple[Ticket[Item, Result, Lane], int]]) -> None:
        """Compute a batch and answer it. If it fails it is split, so that only the culprit's request fails."""
        items = [ticket.items[index] for ticket, index in batch]
        started = self._clock()
        for ticket, _ in batch:
            ticket.begun = ticket.begun or started
        try:
            results = self._compute(items, batch[0][0].lane)
        except Exception as error:
            if len(batch) > 1:
                self._run(batch[: len(batch) // 2])
                self._run(batch[len(batch) // 2 :])
                return
            self._fail(batch[0][0], error)
            return
        each = (self._clock() - started) / len(batch)
        self._seconds_per_item += 0.1 * (each - self._seconds_per_item)
        self._answer(batch, results)

    def _answer(self, batch: list[tuple[Ticket[Item, Result, Lane], int]], results: Sequence[Result]) -> None:
        for (ticket, index), result in zip(batch, results, strict=True):
            ticket.results[index] = result
            ticket.answered += 1
            if ticket.answered == len(ticket.items) and ticket.error is None:
                ticket.turn.release()

    def _fail(self, ticket: Ticket[Item, Result, Lane], error: Exception) -> None:
        with self._lock:
            self._drop(ticket)
            if ticket.error is None:
                ticket.error = error
                ticket.turn.release()

    def _drop(self, ticket: Ticket[Item, Result, Lane]) -> None:
        """Take a ticket out of the queue, if it is still there; items in computation are computed in vain."""
        if ticket in self._queue:
            self._queue.remove(ticket)
            self._waiting -= len(ticket.items) - ticket.taken
