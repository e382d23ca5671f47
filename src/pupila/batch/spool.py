"""Records on disk: written, read as a stream, and sorted with little memory. Knows nothing of what they mean.

A record is a tuple of non-empty byte strings without NUL, as paths are. In a file its fields are joined by NUL and it
ends with two, so that any file name, line breaks included, passes unchanged.
"""

import heapq
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

Record = tuple[bytes, ...]

RUN = 50_000
"""Records sorted in memory at a time: about 15 MB of paths."""
BLOCK = 2**16
END = b"\0\0"


def write(file: BinaryIO, records: Iterable[Record]) -> int:
    """Append records to a file and return how many they were."""
    count = 0
    for record in records:
        file.write(b"\0".join(record) + END)
        count += 1
    return count


def read(file: BinaryIO) -> Iterator[Record]:
    """Yield the records of a file, from where it stands."""
    rest = b""
    while block := file.read(BLOCK):
        *whole, rest = (rest + block).split(END)
        for record in whole:
            yield tuple(record.split(b"\0"))


def read_path(path: Path) -> Iterator[Record]:
    """Yield the records of a file."""
    with path.open("rb") as file:
        yield from read(file)


def sort(records: Iterable[Record], folder: Path) -> Iterator[Record]:
    """Yield the records in order; what does not fit into one run waits in nameless files in `folder`."""
    source = iter(records)
    first = sorted(itertools.islice(source, RUN))
    if len(first) < RUN:
        yield from first
        return
    with ExitStack() as stack:
        runs = []
        while first:
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder))  # leaves nothing behind if we are killed
            write(file, first)
            file.seek(0)
            runs.append(file)
            first = sorted(itertools.islice(source, RUN))
        yield from heapq.merge(*(read(file) for file in runs))
