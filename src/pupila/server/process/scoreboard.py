"""The scoreboard: heartbeat and load of every worker, one row of shared memory each; and readiness, drawn from it.

Made before the fork. A worker writes its own row; the supervisor and the other workers read it. Eight aligned bytes are
written at once, so that a reader never sees half a number, and a process that is killed leaves its row as it was.
"""

import math
import mmap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np


class SharedTable:
    """rows x columns of float64, all 0 at first."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows = rows
        self.columns = columns
        self._memory = mmap.mmap(-1, max(rows * columns * 8, mmap.PAGESIZE))
        self._cells = memoryview(self._memory).cast("d")

    def row(self, index: int) -> "memoryview[float]":
        """Return one row."""
        return self._cells[index * self.columns : (index + 1) * self.columns]

    def sum(self, column: int) -> float:
        """Return the sum of a column over all rows."""
        return sum(self._cells[column : self.rows * self.columns : self.columns])

    def holds(self, first: int, value: float) -> bool:
        """Return whether a row has this value in one of its columns from `first` on."""
        table = np.frombuffer(self._memory, np.float64, self.rows * self.columns)
        return bool((table.reshape(self.rows, self.columns)[:, first:] == value).any())

    def sums(self) -> list[float]:
        """Return the sums of all columns: a hundred times as fast as one after the other."""
        table = np.frombuffer(self._memory, np.float64, self.rows * self.columns)
        found: list[float] = table.reshape(self.rows, self.columns).sum(axis=0).tolist()
        return found


PID, HEARTBEAT, DUE, READY, CONNECTIONS, WAITING, LEAVING, ACCEPTED, STARTS, LOADING, KILLED, DEADLY = range(12)
PENDING, KEPT, DROPPED, MARKS = range(4)
"""Columns of feedback_writer.py's table: pictures that wait to be written, were written, were given up. From MARKS on
the names of those that wait."""

FRESH = 1.0
"""Seconds without a heartbeat after which a worker does not count as alive."""


class Scoreboard(SharedTable):
    """Rows of the columns named above; times are of time.monotonic, which all processes share."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers, DEADLY + 1)

    def clear(self, slot: int) -> None:
        """Forget the worker that used this row, but not how many there were, and what is known of files."""
        row = self.row(slot)
        for column in range(STARTS):
            row[column] = 0.0

    def blame(self, slot: int, fault: bool, killed: bool, stalled: bool) -> None:
        """Note for all workers whether the file that this one was loading is what ended it.

        A `fault` of its own is. What `stalled` it is, too, and if it was `killed`, as where the system is short of
        memory, the file may be what takes it, and gets a second try; neither is if another worker could load the file.
        """
        rows = [self.row(each) for each in range(self.rows)]
        file, killed = rows[slot][LOADING], killed and not stalled
        again = killed and any(row[KILLED] == file for row in rows)
        is_accepted = any(row[ACCEPTED] == file for row in rows)
        rows[slot][KILLED] = file if killed else 0.0
        if file and (fault or ((again or stalled) and not is_accepted)):
            for row in rows:
                row[DEADLY] = file
        rows[slot][LOADING] = 0.0

    def claim(self, slot: int, file: float) -> bool:
        """Note that the worker of this row loads a file, unless another does, or has just ended over it."""
        self.row(slot)[LOADING] = file
        if all(self.row(other)[LOADING] != file for other in range(self.rows) if other != slot):
            return True
        self.row(slot)[LOADING] = 0.0
        return False

    def accept(self, slot: int, file: float) -> None:
        """Note that the worker of this row has loaded a file, which clears that of having got one killed."""
        self.row(slot)[ACCEPTED] = file
        for row in map(self.row, range(self.rows)):
            if row[KILLED] == file:
                row[KILLED] = 0.0

    def living(self) -> "Iterator[tuple[int, memoryview[float]]]":
        """Yield number and content of the rows of the workers that are ready and have a fresh heartbeat."""
        now = time.monotonic()
        for slot in range(self.rows):
            row = self.row(slot)
            if row[READY] and now - row[HEARTBEAT] < FRESH:
                yield slot, row

    def ready(self) -> int:
        """Return how many workers are ready."""
        return sum(1 for _ in self.living())

    def least_busy(self) -> tuple[float, int]:
        """Return the connections of the living worker that has the fewest, and its row; infinity if none lives."""
        return min(((row[CONNECTIONS], slot) for slot, row in self.living()), default=(math.inf, -1))

    def resident_bytes(self) -> dict[int, int]:
        """Return the memory of each living worker, by row."""
        found: dict[int, int] = {}
        for slot in range(self.rows):
            try:
                pages = int(Path(f"/proc/{int(self.row(slot)[PID])}/statm").read_text().split()[1])
            except (OSError, ValueError, IndexError):
                continue
            found[slot] = pages * 4096
        return found


@dataclass
class Health:
    """The state of one worker process, and through the scoreboard of all."""

    scoreboard: Scoreboard | None = None
    """None outside `serve`, where this process is the only one we know of."""
    draining: bool = False
    refused: str | None = None
    """Why the model file that is in place now is not the one that serves."""

    def workers(self) -> int:
        """Return how many workers are ready."""
        return self.scoreboard.ready() if self.scoreboard else 1

    def status(self) -> str:
        """Return "ready", or in a word or two why not."""
        if self.draining:
            return "draining"
        return "ready" if self.workers() else "no worker"
