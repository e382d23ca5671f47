"""One file of a data set, before it is a picture: a name and its bytes or its path. Knows nothing of layouts."""

import unicodedata
from typing import NamedTuple

# Files that come with data sets and are no pictures: passed over in silence. All else is judged by its content.
NOT_PICTURES = frozenset(
    (".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".md", ".rst", ".html", ".yaml", ".yml", ".ini", ".db", ".py")
)

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
    )
)
"""Usual endings of picture files. They decide nothing about what is in a file."""


class Entry(NamedTuple):
    """A file within a data set: as bytes if it comes out of an archive, else as the path to read it from.

    A tuple, as Listed and Labelled are: of each there is one a file, and a dataclass takes three times as long to make.
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
