"""The answers given so far, one line a file in the order of the listing. Knows nothing of what they are about.

Only ever appended to, so the work of a job that was killed is the first so many files of its listing. The kill may have
cut the last line short: opening drops everything from the first line that is not whole, and those files are done again.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from pupila.batch.answer import Answer


class Journal:
    """An open journal: `with Journal(path) as journal: journal.append(lines)`."""

    def __init__(self, path: Path) -> None:
        self.count, whole = _measure(path)
        """Files answered before it was opened."""
        self._file = path.open("ab", buffering=0)
        self._file.truncate(whole)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, lines: bytes) -> None:
        """Add the answers to the next files."""
        view = memoryview(lines)
        while view:
            view = view[self._file.write(view) :]

    def keep(self) -> None:
        """Return when the disk has it all."""
        os.fsync(self._file.fileno())


def read(path: Path) -> Iterator[Answer]:
    """Yield the answers up to the first line that is not whole."""
    with path.open("rb") as file:
        for line in file:
            answer = Answer.from_line(line)
            if answer is None:
                return
            yield answer


def _measure(path: Path) -> tuple[int, int]:
    """Return the number of whole lines and their bytes."""
    count = whole = 0
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if Answer.from_line(line) is None:
                    break
                count, whole = count + 1, whole + len(line)
    return count, whole
