"""What the processes of one server know of each other: a page of shared memory, one row a worker. Knows no HTTP.

Made before the fork. Each worker writes its own row only; the arbiter and the other workers read it.
"""

import mmap
import time

FIELDS = ("pid", "beat", "due", "ready", "connections", "waiting", "load")
PID, BEAT, DUE, READY, CONNECTIONS, WAITING, LOAD = range(len(FIELDS))

FRESH = 1.0
"""Seconds without a sign of life after which a worker does not count as alive."""


class Board:
    """Rows of float64."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._memory = mmap.mmap(-1, max(rows * len(FIELDS) * 8, mmap.PAGESIZE))
        self._cells = memoryview(self._memory).cast("d")

    def row(self, slot: int) -> "memoryview[float]":
        """Return one worker's row, to be indexed by PID, BEAT, ..."""
        width = len(FIELDS)
        return self._cells[slot * width : (slot + 1) * width]

    def clear(self, slot: int) -> None:
        """Forget the worker that used this row."""
        row = self.row(slot)
        for index in range(len(FIELDS)):
            row[index] = 0.0

    def ready(self) -> int:
        """Return how many workers are ready and have shown a sign of life just now."""
        now = time.monotonic()
        rows = [self.row(slot) for slot in range(self.rows)]
        return sum(1 for row in rows if row[READY] and now - row[BEAT] < FRESH)

    def fewest_connections(self) -> float:
        """Return the connections of the living worker that has the fewest."""
        now = time.monotonic()
        rows = [self.row(slot) for slot in range(self.rows)]
        return min((row[CONNECTIONS] for row in rows if row[READY] and now - row[BEAT] < FRESH), default=0.0)

    def waiting(self) -> float:
        """Return the requests that wait in all workers."""
        return sum(self.row(slot)[WAITING] for slot in range(self.rows))
