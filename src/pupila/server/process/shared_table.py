"""A table of numbers in memory that all processes of one server share. Knows nothing of what the numbers mean.

Made before the fork. A row has one writer; anybody may read. Eight aligned bytes are written at once, so that a reader
never sees half a number, and a process that is killed leaves its row as it was.
"""

import mmap


class Table:
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
