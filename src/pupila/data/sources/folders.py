"""Folders on disk as entries. Reads names, sizes and times only; knows nothing of classes or pictures."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pupila.data.sources.entries import PICTURES, Entry, ending_of, is_hidden, parts_of
from pupila.data.splits import Skipped
from pupila.errors import DataError

LINKED_AT_MOST = 10_000
"""Links to folders that are followed: a few folders that link to each other make millions of paths."""
CLOSED = "There is no permission to read it."

Waiting = tuple[str, tuple[str, ...], frozenset[tuple[int, int]]]
"""A folder still to be looked into, its name within the data set, and the identities of those above it."""


class Listed(NamedTuple):
    """A file and what tells whether it has changed."""

    entry: Entry
    bytes: int
    modified_ns: int


@dataclass
class Listing:
    """All files below a folder, and what else was found there."""

    files: list[Listed] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    """What looks like a picture and is no file."""
    hidden: list[str] = field(default_factory=list)
    """Folders passed over because their name begins with a dot, or a packer left them behind."""
    empty: list[str] = field(default_factory=list)
    """Folders with nothing in them."""

    def notes(self) -> list[str]:
        """Say which folders were passed over."""
        kinds = {"hidden": self.hidden, "empty": self.empty}
        return [f"Ignored {_listed(kind, sorted(names))}." for kind, names in kinds.items() if names]


def list_folder(root: Path) -> Listing:
    """Return all files below a folder that are not hidden, sorted by name. Raises OSError.

    Links are followed, but not in circles; raises DataError if they lead on and on.
    """
    listing, linked = Listing(), 0
    waiting: list[Waiting] = [(str(root), (), frozenset())]
    while waiting:  # and no recursion: folders may be nested deeper than Python's calls
        folder, above, seen = waiting.pop()
        try:
            status = os.stat(folder)  # noqa: PTH116 - no Path for each of many
            here = (status.st_dev, status.st_ino)
            if here in seen:
                continue
            with os.scandir(folder) as found:
                items = list(found)
        except (PermissionError, FileNotFoundError) as error:
            if not above:
                raise
            if isinstance(error, PermissionError):  # else it was removed a moment ago
                listing.skipped.append(Skipped("/".join(above), CLOSED))
            continue
        if not items and above:
            listing.empty.append("/".join(above))
        for item in items:
            parts = (*above, item.name if item.name.isascii() else parts_of(item.name)[0])
            if _take(item, parts, listing):
                linked += item.is_symlink()
                waiting.append((item.path, parts, seen | {here}))
        if linked > LINKED_AT_MOST:
            raise DataError(f"{root}: over {LINKED_AT_MOST:,} links to folders lead on and on. Remove such links.")
    listing.files.sort(key=lambda listed: listed.entry.parts)
    listing.skipped.sort(key=lambda skipped: skipped.name)
    return listing


def _take(item: os.DirEntry[str], parts: tuple[str, ...], listing: Listing) -> bool:
    """Note what an item is; return whether it is a folder to look into."""
    try:
        folder = item.is_dir()
        file = not folder and item.is_file()
    except OSError:  # a link to itself is neither
        folder = file = False
    if is_hidden(item.name):
        if folder:
            listing.hidden.append("/".join(parts))
    elif folder:
        if ending_of(item.name) in PICTURES:
            listing.skipped.append(Skipped("/".join(parts), "It is a folder with the name of a picture."))
        return True
    elif file:
        try:
            status = item.stat()
            listing.files.append(Listed(Entry(parts, item.path), status.st_size, status.st_mtime_ns))
        except FileNotFoundError:  # it was removed a moment ago
            return False
        except PermissionError:  # its folder may be listed, and not entered
            listing.skipped.append(Skipped("/".join(parts), CLOSED))
    else:
        reason = "It is a link to a file that is not there." if item.is_symlink() else "It is no regular file."
        listing.skipped.append(Skipped("/".join(parts), reason))
    return False


def _listed(kind: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
    return f"{len(names):,} {kind} folder{'s' if len(names) > 1 else ''} ({shown})"
