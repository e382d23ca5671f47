"""EXIF blocks and TIFF directories, read without copying them: the orientation, and a limit on what reading costs.

Both have the same layout: a header, and directories of entries whose values stand anywhere in the block. Many entries
may point at the same bytes, and a decoder copies those once for each entry.
"""

import itertools
import re
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MAX_BLOCK = 2**20
"""Bytes of an EXIF block that is read: a JPEG's segment has 64 kB."""
MAX_ENTRIES = 4_000
"""Entries of all directories of a file: cameras write a few hundred."""
MAX_VALUES = 20_000
"""Numbers in one entry, such as the places of a TIFF's strips: microseconds each."""
MAX_COLOURS = 3 * 65536
"""Values in the palette of a TIFF."""
MAX_DIRECTORIES = 16
"""Directories of one block: Pillow reads the first, and those of EXIF, GPS and interoperability below it."""
SLACK = 2**16
"""Bytes that the values may have beyond those of the block: what odd programs write passes."""

ORIENTATION, PALETTE = 274, 320
POINTERS = (34665, 34853, 40965)
"""Entries that say where another directory stands."""
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value, by its type."""
BYTES = (1, 2, 6, 7)
"""Types that decoders keep as bytes; of the others each value becomes a number."""
XMP_ORIENTATION = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>\s*)([1-8])""")
HEADERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}


class ExcessError(Exception):
    """There is too much of something in a file; says of what."""


class PixelsError(ExcessError):
    """There are too many pixels; says of what."""


class Layout(NamedTuple):
    """How the numbers of a block are written."""

    order: str
    """Of their bytes, as struct names it."""
    big: bool
    """Eight bytes a place, in place of four."""

    @property
    def place(self) -> str:
        """Return the type of a place in the block, as struct names it."""
        return self.order + ("Q" if self.big else "I")


class Entry(NamedTuple):
    """One entry of a directory."""

    tag: int
    kind: int
    values: int
    field: bytes
    """The value itself if it is short, else where in the block it stands."""

    def place(self, layout: Layout) -> int:
        """Return where the value or another directory stands."""
        place: int = struct.unpack(layout.place, self.field)[0]
        return place


def first_directory(block: memoryview) -> tuple[Layout, int] | None:
    """Return the layout of a block and where its first directory stands; None for what is no such block."""
    order = HEADERS.get(bytes(block[:4]))
    if order is None:
        return None
    layout = Layout(order, 43 in block[2:4])
    try:
        return layout, struct.unpack_from(layout.place, block, 8 if layout.big else 4)[0]
    except struct.error:
        return None


def entries(block: memoryview, layout: Layout, at: int) -> Iterator[Entry]:
    """Yield the entries of a directory that are there."""
    number, entry = ("Q", "HHQ8s") if layout.big else ("H", "HHI4s")
    size = struct.calcsize(layout.order + entry)
    try:
        (count,) = struct.unpack_from(layout.order + number, block, at)
    except (struct.error, OverflowError):
        return
    at += struct.calcsize(layout.order + number)
    whole = min(count, max(len(block) - at, 0) // size)
    for fields in struct.iter_unpack(layout.order + entry, block[at : at + whole * size]):
        yield Entry._make(fields)


def check(blocks: Iterable[memoryview]) -> None:
    """Raise ExcessError if reading the directories of a file's blocks costs far more than they have bytes."""
    number = 0
    for block in blocks:
        first = first_directory(block)
        if first is None:
            continue
        layout, total, places = first[0], 0, [first[1]]
        for at in places:  # which grows
            for entry in entries(block, layout, at):
                number += 1
                if number > MAX_ENTRIES:
                    raise ExcessError(f"more than {MAX_ENTRIES:,} entries")
                if entry.tag in POINTERS and len(places) < MAX_DIRECTORIES:
                    places.append(entry.place(layout))
                size = entry.values * SIZES.get(entry.kind, 0)
                if size <= len(entry.field):
                    continue
                there = min(size, max(len(block) - entry.place(layout), 0))
                total += there
                if total > len(block) + SLACK:
                    raise ExcessError("more metadata than bytes, as many entries share them")
                most = MAX_COLOURS if entry.tag == PALETTE else MAX_VALUES
                if entry.kind not in BYTES and entry.values > most and there >= entry.values:  # else it is damaged
                    raise ExcessError(f"more than {MAX_VALUES:,} values or strips in an entry")


def orientation(exif: bytes, xmp: bytes = b"") -> int:
    """Return the orientation that EXIF says, or else XMP; what is damaged or neither counts as 1, upright."""
    block = memoryview(exif)[6 if exif[:6] == b"Exif\0\0" else 0 :]
    first = first_directory(block) if len(exif) <= MAX_BLOCK else None
    if first is not None:
        layout, at = first
        for entry in itertools.islice(entries(block, layout, at), MAX_ENTRIES):
            if entry.tag == ORIENTATION and entry.kind == 3:
                value: int = struct.unpack_from(layout.order + "H", entry.field)[0]
                return value if 1 <= value <= 8 else 1
    found = XMP_ORIENTATION.search(xmp[:MAX_BLOCK])
    return int(found[1]) if found else 1
