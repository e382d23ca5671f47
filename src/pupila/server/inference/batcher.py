"""Shares one computation among many requests: bounded, fair, with deadlines. Knows neither HTTP nor images.

It has no thread of its own: the request that finds the computation free runs it, for itself and for what waits, and
hands it on when its own items are done. An idle server therefore answers without a single thread switch, and there is
no thread that could die unseen.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
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

    __slots__ = ("answered", "begun", "deadline", "error", "items", "lane", "party", "results", "taken")

    def __init__(self, items: Sequence[Item], lane: Lane, deadline: float, party: "Party[Item, Result, Lane]") -> None:
        self.items = items
        self.lane = lane
        self.deadline = deadline
        self.party = party
        self.taken = 0
        self.answered = 0
        self.begun = 0.0
        """When its first item's computation began, by the scheduler's clock."""
        self.results: list[Result | None] = [None] * len(items)
        self.error: Exception | None = None

    @property
    def open(self) -> bool:
        """Neither answered nor failed."""
        return self.error is None and self.answered < len(self.items)

    def found(self) -> "list[Result] | Exception":
        """Return the results in order, or why there are none."""
        return self.error or (DeadlineError() if self.open else self.results)  # type: ignore[return-value]


class Party(Generic[Item, Result, Lane]):
    """Tickets that one thread waits for together."""

    __slots__ = ("open", "tickets", "turn")

    def __init__(self, asked: Iterable[tuple[Sequence[Item], Lane, float]]) -> None:
        self.turn = threading.Lock()
        """Held while there is nothing to do for the waiting thread; released to wake it."""
        self.turn.acquire()
        self.tickets = [Ticket(items, lane, deadline, self) for items, lane, deadline in asked]
        self.open = 0
        """How many of them wait for an answer."""


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
        found = self.run_all([(items, lane, deadline)])[0].found()
        if isinstance(found, Exception):
            raise found
        return found

    def run_all(self, asked: Iterable[tuple[Sequence[Item], Lane, float]]) -> Sequence[Ticket[Item, Result, Lane]]:
        """Run several requests, each (items, lane, deadline), for one thread; return their tickets, none of them open.

        Each is admitted, answered or failed for itself, as if it had come alone.
        """
        party: Party[Item, Result, Lane] = Party(asked)
        with self._lock:
            for ticket in party.tickets:
                self._admit(ticket)
            leads = party.open > 0 and not self._busy
            self._busy = self._busy or leads
        while party.open and not leads:
            leads = self._wait(party)
        if leads:
            self._lead(party)
        return party.tickets

    def _admit(self, ticket: Ticket[Item, Result, Lane]) -> None:
        """Take the ticket into the queue. A request is let in on an empty queue whatever its size.

        As all take turns, a request of few items waits for as many of each other: two of many keep no single one out.
        """
        ahead = sum(min(len(other.items) - other.taken, len(ticket.items)) for other in self._queue)
        delay = ahead * self._seconds_per_item
        if ahead and ahead + len(ticket.items) > self._max_waiting:
            ticket.error = QueueFullError(delay)
        elif self._clock() + delay >= ticket.deadline:
            ticket.error = QueueFullError(delay) if delay else DeadlineError()
        elif ticket.items:
            self._queue.append(ticket)
            self._waiting += len(ticket.items)
            ticket.party.open += 1

    def _wait(self, party: Party[Item, Result, Lane]) -> bool:
        """Sleep until it is this thread's turn to compute (True), or until all is answered, or until a deadline."""
        nearest = min(ticket.deadline for ticket in party.tickets if ticket.open)
        if not party.turn.acquire(timeout=max(nearest - self._clock(), 0)):
            with self._lock:
                if not party.turn.acquire(blocking=False):
                    self._expire(party)
                    return False
        return party.open > 0

    def _lead(self, party: Party[Item, Result, Lane]) -> None:
        """Compute batches until the own tickets are done, then hand the lead to the first who waits."""
        try:
            while party.open:
                with self._lock:
                    self._expire(party)
                    batch = self._next_batch() if party.open else []
                if batch:
                    self._run(batch)
        finally:
            with self._lock:
                for ticket in party.tickets:
                    self._drop(ticket)
                self._busy = bool(self._queue)
                if self._queue:
                    self._queue[0].party.turn.release()

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
            with self._lock:
                self._fail(batch[0][0], error)
            return
        each = (self._clock() - started) / len(batch)
        self._seconds_per_item += 0.1 * (each - self._seconds_per_item)
        with self._lock:
            self._answer(batch, results)

    def _answer(self, batch: list[tuple[Ticket[Item, Result, Lane], int]], results: Sequence[Result]) -> None:
        for (ticket, index), result in zip(batch, results, strict=True):
            ticket.results[index] = result
            ticket.answered += 1
            if ticket.answered == len(ticket.items) and ticket.error is None:
                self._close(ticket.party)

    def _expire(self, party: Party[Item, Result, Lane]) -> None:
        """Give up what has not been answered by its deadline."""
        now = self._clock()
        for ticket in party.tickets:
            if ticket.open and now >= ticket.deadline:
                self._fail(ticket, DeadlineError())

    def _fail(self, ticket: Ticket[Item, Result, Lane], error: Exception) -> None:
        self._drop(ticket)
        if ticket.open:
            ticket.error = error
            self._close(ticket.party)

    def _close(self, party: Party[Item, Result, Lane]) -> None:
        """Note that one more of a party's tickets is done, and wake its thread after the last one."""
        party.open -= 1
        if not party.open:
            party.turn.release()

    def _drop(self, ticket: Ticket[Item, Result, Lane]) -> None:
        """Take a ticket out of the queue, if it is still there; items in computation are computed in vain."""
        if ticket in self._queue:
            self._queue.remove(ticket)
            self._waiting -= len(ticket.items) - ticket.taken
