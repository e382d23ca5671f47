"""Finds every file that a job answers: walks folders and passes over hidden files.

Reads names, sizes and times only. A name says nothing about its content: every file that is not hidden is listed, so
that none is left out without a reason.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from pupila.batch import remote
from pupila.errors import DataError

Identity = tuple[int, int]
"""Device and inode: tells a file or folder from all others, however its path is spelled."""


def identities(paths: Sequence[Path | str]) -> frozenset[Identity]:
    """Return the identity of each path that exists."""
    found = [_status(os.fsencode(path)) for path in paths]
    return frozenset((status.st_dev, status.st_ino) for status in found if status is not None)


class Walk:
    """Yields (path, stamp) of each file at or below the given paths, in no particular order.

    The stamp changes with the file's size or time of change. A dangling link, and a folder that cannot be listed, are
    yielded too: they get a row with the reason. Links to folders are followed, but not in circles.
    """

    def __init__(self, paths: Sequence[Path | str], without: frozenset[Identity] = frozenset()) -> None:
        """`without` are files and folders to pass over: a job's own output, where it lies among the pictures.

        A text among the paths is an address, as s3://bucket/photos/ (see remote.py).
        """
        self.hidden = 0
        """Files and folders passed over so far, because their name starts with a dot."""
        self._paths = paths
        self._without = without

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        folders: list[tuple[bytes, frozenset[Identity]]] = []
        for path in self._paths:
            if isinstance(path, str):
                yield from remote.walk(path)
                continue
            if not os.path.lexists(path):
                raise DataError(f"{path}: there is no such file or folder. Check the path.")
            yield from self._visit(os.fsencode(path), frozenset(), folders)
        while folders:
            folder, above = folders.pop()
            for name in self._names(folder):
                yield from self._visit(os.path.join(folder, name), above, folders)  # noqa: PTH118 - bytes

    def _names(self, folder: bytes) -> Iterator[bytes]:
        with os.scandir(folder) as found:
            for item in found:
                if item.name.startswith(b"."):
                    self.hidden += 1
                else:
                    yield item.name

    def _visit(
        self, path: bytes, above: frozenset[Identity], folders: list[tuple[bytes, frozenset[Identity]]]
    ) -> Iterator[tuple[bytes, bytes]]:
        status = _status(path)
        here = (status.st_dev, status.st_ino) if status else None
        if here is not None and (here in self._without or here in above):
            return
        if here is not None and status is not None and stat.S_ISDIR(status.st_mode) and os.access(path, os.R_OK):
            folders.append((path, above | {here}))
        else:
            yield path.removeprefix(b"./"), _stamp(status)


def _status(path: bytes) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - bytes
    except OSError:
        return None


def _stamp(status: os.stat_result | None) -> bytes:
    return b"-" if status is None else b"%d:%d" % (status.st_size, status.st_mtime_ns)


def files_below(paths: Sequence[Path]) -> list[Path]:
    """Return the paths in the order given, folders replaced by their files, in memory: for a person's few pictures."""
    files: list[Path] = []
    for path in paths:
        found = sorted(record[0] for record in Walk([path])) if path.is_dir() else [os.fsencode(path)]
        files += [Path(os.fsdecode(name)) for name in found]
    return files
