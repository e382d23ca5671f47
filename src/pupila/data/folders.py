"""Folders on disk as entries. Reads names, sizes and times only; knows nothing of classes or pictures."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pupila.data.entries import PICTURES, Entry, ending_of, is_hidden, parts_of
from pupila.data.splits import Skipped


@dataclass(frozen=True)
class Listed:
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

    Links are followed, but not in circles.
    """
    listing = Listing()
    _walk(root, (), frozenset(), listing)
    listing.files.sort(key=lambda listed: listed.entry.parts)
    listing.skipped.sort(key=lambda skipped: skipped.name)
    return listing


def _walk(folder: Path, above: tuple[str, ...], seen: frozenset[tuple[int, int]], listing: Listing) -> None:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in seen:
        return
    with os.scandir(folder) as found:
        items = list(found)
    if not items and above:
        listing.empty.append("/".join(above))
    for item in items:
        name = item.name if item.name.isascii() else parts_of(item.name)[0]
        parts = (*above, name)
        if name[0] == "." or is_hidden((name,)):
            if item.is_dir():
                listing.hidden.append("/".join(parts))
        elif item.is_dir():
            if ending_of(item.name) in PICTURES:
                listing.skipped.append(Skipped("/".join(parts), "It is a folder with the name of a picture."))
            _walk(Path(item.path), parts, seen | {here}, listing)
        elif item.is_file():
            status = item.stat()
            listing.files.append(Listed(Entry(parts, Path(item.path)), status.st_size, status.st_mtime_ns))
        else:
            reason = "It is a link to a file that is not there." if item.is_symlink() else "It is no regular file."
            listing.skipped.append(Skipped("/".join(parts), reason))


def _listed(kind: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
    return f"{len(names):,} {kind} folder{'s' if len(names) > 1 else ''} ({shown})"
