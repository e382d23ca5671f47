"""Folders on disk as entries. Reads names, sizes and times only; knows nothing of classes or pictures."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pupila.data.entries import Entry, is_hidden, parts_of


@dataclass(frozen=True)
class Listed:
    """A file and what tells whether it has changed."""

    entry: Entry
    bytes: int
    modified_ns: int


def list_folder(root: Path) -> list[Listed]:
    """Return all files below a folder that are not hidden, sorted by name. Raises OSError.

    Links are followed, but not in circles.
    """
    return sorted(_walk(root, (), frozenset()), key=lambda listed: listed.entry.parts)


def _walk(folder: Path, above: tuple[str, ...], seen: frozenset[tuple[int, int]]) -> Iterator[Listed]:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in seen:
        return
    with os.scandir(folder) as found:
        for item in found:
            parts = (*above, *parts_of(item.name))
            if is_hidden(parts[-1:]):
                continue
            if item.is_dir():
                yield from _walk(Path(item.path), parts, seen | {here})
            elif item.is_file():
                status = item.stat()
                yield Listed(Entry(parts, Path(item.path)), status.st_size, status.st_mtime_ns)
