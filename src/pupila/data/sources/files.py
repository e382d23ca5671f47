"""The files of a data set, and the listing of a folder: names, sizes and times. No file is opened here."""

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pupila.data.dataset import Skipped
from pupila.errors import DataError

# Files that come with data sets and are no pictures: passed over in silence. All else is judged by its content.
NOT_PICTURES = frozenset((
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".md", ".rst", ".html", ".yaml", ".yml", ".ini", ".db", ".py",
    ".mov", ".aae",  # an iPhone's, beside its photos
))  # fmt: skip

PICTURES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".mpo",
        ".avif",
        ".heic",
        ".heif",
        ".hif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    )
)
"""Usual endings of picture files. They decide nothing about what is in a file."""


class SourceFile(NamedTuple):
    """A file within a data set: as bytes if it comes out of an archive, else as the path to read it from.

    A tuple, as ListedFile and LabelledFile are: there is one of each a file, and a dataclass takes three times as long.
    """

    parts: tuple[str, ...]
    """Folders and file name, in Unicode normal form C: macOS would give the same name another spelling."""
    source: bytes | str

    @property
    def name(self) -> str:
        """The path within the data set, with forward slashes."""
        return "/".join(self.parts)

    @property
    def may_be_picture(self) -> bool:
        """False for notes and tables that lie beside the pictures."""
        return ending_of(self.parts[-1]) not in NOT_PICTURES

    def read(self) -> bytes:
        """Return the whole content; raises OSError."""
        if isinstance(self.source, bytes):
            return self.source
        with open(self.source, "rb") as file:  # noqa: PTH123 - a Path for each of so many files would cost seconds
            return file.read()


def ending_of(name: str) -> str:
    """Return a file name's ending in small letters, with its dot: as Path.suffix, and ten times faster."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def parts_of(name: str) -> tuple[str, ...]:
    """Split a name with forward slashes into its parts, without `.` and empty ones."""
    if not name.isascii():
        name = unicodedata.normalize("NFC", name)
    return tuple([part for part in name.split("/") if part not in ("", ".")])


def is_hidden(name: str) -> bool:
    """True for a file or folder that is hidden, or left behind by a packer."""
    return name.startswith(".") or name == "__MACOSX"


LINKED_AT_MOST = 10_000
"""Links to folders that are followed: a few folders that link to each other make millions of paths."""
CLOSED = "There is no permission to read it."

Waiting = tuple[str, tuple[str, ...], frozenset[tuple[int, int]]]
"""A folder still to be looked into, its name within the data set, and the identities of those above it."""


class ListedFile(NamedTuple):
    """A file and what tells whether it has changed."""

    entry: SourceFile
    bytes: int
    modified_ns: int


@dataclass
class FolderListing:
    """All files below a folder, and what else was found there."""

    files: list[ListedFile] = field(default_factory=list)
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


def list_folder(root: Path) -> FolderListing:
    """Return all files below a folder that are not hidden, sorted by name. Raises OSError.

    Links are followed, but not in circles; raises DataError if they lead on and on.
    """
    listing, linked = FolderListing(), 0
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


def _take(item: os.DirEntry[str], parts: tuple[str, ...], listing: FolderListing) -> bool:
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
            listing.files.append(ListedFile(SourceFile(parts, item.path), status.st_size, status.st_mtime_ns))
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
