"""Strips metadata from picture files: EXIF, XMP, IPTC, comments, profiles, thumbnails, and what follows the end.

The coded data of a JPEG or WebP stays as it is, byte for byte, whatever is in it. Around it only what decoding reads is
kept, each part once and of its own length. All other files are left to be written anew from their pixels: None.
"""

import functools
import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from pupila.errors import ImageError
from pupila.images.decoder import DEFAULT_LIMITS, DecodeLock, ImageLimits, header, no_lock, plain_png
from pupila.images.limits import FIRST_CHUNK, MAX_SEGMENTS, chunks, find_marker

LONGEST = 1024
"""Pixels a side to which a picture is scaled down that cannot be kept as the file that it was."""

# Markers of a JPEG (ITU-T T.81, table B.1)
FRAMES, PROGRESSIVE = (0xC0, 0xC1, 0xC2), 0xC2
"""Frame headers of pictures in Huffman codes: others are rare."""
HUFFMAN, QUANTISATION, RESTARTS, SCAN, END = 0xC4, 0xDB, 0xDD, 0xDA, 0xD9
MOST_TABLES = {HUFFMAN: 8, QUANTISATION: 4, RESTARTS: 1}
"""In one segment: there are no more places for them, and each is looked at."""
NEXT_SEGMENT = re.compile(rb"\xff++([\xc0-\xc7\xc9-\xcf\xd9-\xef\xfe])")
"""A marker with a length, or the end: behind others decoders read on where their length would be."""
JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
"""Says how colours are coded; here with a size of pixels that says nothing, and without a thumbnail."""


@dataclass(frozen=True)
class Clean:
    """A picture file without metadata."""

    data: bytes
    kind: str
    """jpg, png or webp."""

    @functools.cached_property
    def sha256(self) -> str:
        """What the file is named by."""
        return hashlib.sha256(self.data).hexdigest()


def clean(data: bytes, limits: ImageLimits = DEFAULT_LIMITS, lock: DecodeLock = no_lock) -> Clean | None:
    """Return the picture without metadata: the same file where its structure is known, else a PNG of its pixels.

    `lock`: see images.decode(). None if it cannot be read after all.
    """
    try:
        stripped = strip(data, header(data, limits, lock).orientation)
        return stripped or Clean(plain_png(data, LONGEST, limits, lock), "png")
    except ImageError:
        return None


def strip(data: bytes, orientation: int = 1) -> Clean | None:
    """Return a JPEG or WebP without its metadata.

    `orientation` is what the metadata said (EXIF: 1 is upright). None for other formats, for a file whose structure is
    not as it should be, and for an animation or a WebP that is not upright: write these anew from their pixels.
    """
    stripped, kind = None, ""
    if data.startswith(b"\xff\xd8\xff"):
        stripped, kind = _jpeg(data, orientation), "jpg"
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP" and orientation == 1:
        stripped, kind = _webp(data), "webp"
    return None if stripped is None else Clean(stripped, kind)


def _jpeg(data: bytes, orientation: int) -> bytes | None:
    """Return the first picture of a JPEG with the parts that decoding needs."""
    kept = _Jpeg()
    try:
        for marker, content, coded in _segments(data):
            if marker == END or (marker == SCAN and not kept.scan(content, coded)):
                break
            kept.take(marker, content)
    except (ValueError, IndexError, KeyError):
        return None
    if not kept.scanned:
        return None
    head = b"".join([b"\xff\xd8", JFIF * kept.jfif, kept.adobe, _orientation_segment(orientation)])
    return b"".join([head, *kept.parts, b"\xff\xd9"])


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield marker and content of each segment, and the coded data behind a scan header.

    Raises ValueError for what is no segment, and for more of them than are decoded.
    """
    at = 2
    for _ in range(MAX_SEGMENTS):
        found = NEXT_SEGMENT.match(data, at)
        if found is None:
            break
        marker, start = found[1][0], found.end()
        if marker == END:
            yield marker, b"", b""
        at = start + int.from_bytes(data[start : start + 2], "big")
        if at < start + 2 or at > len(data):
            break
        content, begin = data[start + 2 : at], at
        if marker == SCAN:
            at = find_marker(data, at)
            if at < 0:
                break
        yield marker, content, data[begin:at]
    raise ValueError


@dataclass
class _Jpeg:
    """What is kept of a JPEG: a table only if a scan reads it."""

    parts: list[bytes] = field(default_factory=list)
    tables: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """By segment and place: tables that no scan has read yet."""
    components: dict[int, int] = field(default_factory=dict)
    """By name: the place of its quantisation table."""
    scanned: set[int] = field(default_factory=set)
    progressive: bool = False
    jfif: bool = False
    adobe: bytes = b""

    def take(self, marker: int, content: bytes) -> None:
        """Take what is needed of a segment; raises ValueError or IndexError for one that is not as it should be."""
        if marker in (HUFFMAN, QUANTISATION, RESTARTS):
            self.tables.update(((marker, place), table) for place, table in _tables(marker, content))
        elif marker in FRAMES:
            if self.components or len(content) != 6 + 3 * content[5]:
                raise ValueError
            self.components = dict(zip(content[6::3], content[8::3], strict=True))
            self.progressive = marker == PROGRESSIVE
            self._keep(marker, content)
        elif 0xC0 <= marker <= 0xCF:
            raise ValueError
        elif marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14:
            self.jfif = True
        elif marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
            self.adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + content[11:12]  # how colours are coded, and no more

    def scan(self, content: bytes, coded: bytes) -> bool:
        """Take a scan with the tables that it reads; return whether there may be another one. Raises as take() does."""
        count = content[0]
        if not self.components or len(content) != 4 + 2 * count:
            raise ValueError
        names, places, (first, last, bits) = content[1:-3:2], content[2:-3:2], content[-3:]
        for place in places:
            if not self.progressive or (first == 0 and not bits >> 4):
                self._keep_table(HUFFMAN, place >> 4)
            if not self.progressive or last > 0:
                self._keep_table(HUFFMAN, 0x10 | place & 15)
        for name in {*names} - self.scanned:
            self._keep_table(QUANTISATION, self.components[name])
        self._keep_table(RESTARTS, 0)
        self._keep(SCAN, content)
        self.parts.append(coded)
        self.scanned |= {*names}
        return self.progressive or len(self.scanned) < len(self.components)

    def _keep_table(self, marker: int, place: int) -> None:
        if (marker, place) in self.tables:
            self._keep(marker, self.tables.pop((marker, place)))

    def _keep(self, marker: int, content: bytes) -> None:
        self.parts.append(struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content)


def _tables(marker: int, content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the place of each table in a segment, and what defines it; raises ValueError for more than have a place."""
    at = number = 0
    while at < len(content):
        number += 1
        size = 2
        if marker == QUANTISATION:
            size = 129 if content[at] >> 4 else 65
        elif marker == HUFFMAN:
            size = 17 + sum(content[at + 1 : at + 17])
        if at + size > len(content) or number > MOST_TABLES[marker]:
            raise ValueError
        place = 0 if marker == RESTARTS else content[at] & (0x1F if marker == HUFFMAN else 15)
        yield place, content[at : at + size]
        at += size


def _orientation_segment(orientation: int) -> bytes:
    """Return an EXIF block that says which way up the picture is, and nothing else; nothing if it is upright."""
    if orientation == 1:
        return b""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    block = b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    return b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block


def _webp(data: bytes) -> bytes | None:
    """Keep the chunk of the coded picture; None for an animation, for transparency in a chunk of its own, or damage."""
    whole = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    for name, start, end in chunks(data, FIRST_CHUNK, whole):
        if name in (b"ALPH", b"ANIM", b"ANMF") or end > whole:
            break
        if name in (b"VP8 ", b"VP8L"):
            content = b"WEBP" + data[start - 8 : end] + b"\0" * ((end - start) % 2)
            return b"RIFF" + len(content).to_bytes(4, "little") + content
    return None
