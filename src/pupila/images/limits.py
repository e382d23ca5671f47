"""Looks at how a picture file is built before any decoder reads it, and bounds what that may cost. Knows no pixels.

A file of half a megabyte can have ten thousand scans that each go through all pixels, or a thousand texts that each
unpack to a megabyte. What decoders do with such was measured; the limits are far above what programs write.
"""

import re
import struct

MAX_SCANS = 100
"""Scans of a JPEG. Programs write about ten, for which decoding takes some three times as long as for a single one."""
MAX_SEGMENTS = 1_000
"""Marker segments of a JPEG: Pillow copies all of its EXIF once more for each segment of it."""
MAX_BLOCKS = 20_000
"""Chunks of a PNG, blocks of a GIF before its first picture, entries and strips of a TIFF: microseconds each."""
MAX_PACKED = 64
"""Packed texts and colour profiles of a PNG: each may unpack to a megabyte."""
MAX_COLOURS = 3 * 65536
"""Values in the palette of a TIFF."""

TINY = 4096
"""Bytes up to which counting what looks like a scan is quicker than walking."""

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""A JPEG's next marker; zero bytes and restarts are part of a scan."""
START_OF_SCAN, START_OF_PICTURE, END_OF_PICTURE = 0xDA, 0xD8, 0xD9
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
PACKED = (b"iCCP", b"zTXt", b"iTXt")
NUMBERS = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Types of a TIFF's entries that become Python's numbers, and their bytes; others are kept as bytes."""
PALETTE = 320


class ExcessError(Exception):
    """There is too much of something in a file; says of what."""


def passes(data: bytes) -> int:
    """Return how often decoding goes through all pixels: the scans of a JPEG that it keeps in memory, else 1.

    Raises ExcessError. A file that is no picture, or a damaged one, is left to the decoder.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG"):
        _png(data)
    elif data.startswith(b"GIF8"):
        _gif(data)
    elif data.startswith((b"II", b"MM")):
        _tiff(data)
    return 1


def _jpeg(data: bytes) -> int:
    """Walk from marker to marker as libjpeg does; a scan that holds all components at once is the only one read."""
    if len(data) < TINY and data.count(b"\xff\xda") < 2:
        return 1
    scans = segments = 0
    components, progressive, at = b"", False, 2
    while (found := MARKER.search(data, at)) and (kind := data[found.start() + 1]) != END_OF_PICTURE:
        at = found.end()
        segments += 1
        if segments > MAX_SEGMENTS:
            raise ExcessError(f"more than {MAX_SEGMENTS:,} segments")
        if kind in FRAMES:
            components, progressive = data[at + 7 : at + 8], kind in PROGRESSIVE
        elif kind == START_OF_SCAN:
            scans += 1
            if not progressive and scans == 1 and data[at + 2 : at + 3] == components:
                break
            if scans > MAX_SCANS:
                raise ExcessError(f"more than {MAX_SCANS} scans")
        if kind not in (0x01, START_OF_PICTURE):  # which have no length
            at += int.from_bytes(data[at : at + 2], "big")
    return max(scans, 1)


def _png(data: bytes) -> None:
    """Count chunks up to the end."""
    packed, at = 0, 8
    for _ in range(MAX_BLOCKS):
        kind = data[at + 4 : at + 8]
        if len(kind) < 4 or kind == b"IEND":
            return
        packed += kind in PACKED
        if packed > MAX_PACKED:
            raise ExcessError(f"more than {MAX_PACKED} texts and profiles")
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    raise ExcessError(f"more than {MAX_BLOCKS:,} chunks")


def _gif(data: bytes) -> None:
    """Count blocks up to the first picture, which is the only one that is decoded."""
    flags = data[10] if len(data) > 10 else 0
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    inside = False
    for _ in range(MAX_BLOCKS):
        kind = data[at : at + 1]
        if inside:
            at += 1 + (kind[0] if kind else 0)
            inside = kind != b"\0"
        elif kind == b"!":
            at, inside = at + 2, True
        else:
            at += 1
        if not kind or (not inside and kind in (b",", b";")):
            return
    raise ExcessError(f"more than {MAX_BLOCKS:,} blocks")


def _tiff(data: bytes) -> None:
    """Look at the entries of the first directory, of both kinds of TIFF."""
    order = "<" if data.startswith(b"II") else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    start, count, entry = ("Q", "Q", "HHQ8s") if big else ("I", "H", "HHI4s")
    try:
        (at,) = struct.unpack_from(order + start, data, 8 if big else 4)
        (number,) = struct.unpack_from(order + count, data, at)
    except struct.error:
        return
    at += struct.calcsize(order + count)
    size = struct.calcsize(order + entry)
    whole = min(number, max(len(data) - at, 0) // size)
    if whole > MAX_BLOCKS:
        raise ExcessError(f"more than {MAX_BLOCKS:,} entries")
    for tag, kind, values, _ in struct.iter_unpack(order + entry, data[at : at + whole * size]):
        most = MAX_COLOURS if tag == PALETTE else MAX_BLOCKS
        if values > most and values * NUMBERS.get(kind, len(data)) <= len(data):  # else it is damaged
            raise ExcessError(f"more than {MAX_BLOCKS:,} values or strips in an entry")
