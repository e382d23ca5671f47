"""Bounds what decoding a picture file may cost, by how the file is built, before any decoder reads it.

One rule for all: each byte counts as the pixels that take as long as the worst such byte does, whatever the file says.

A file of half a megabyte can have ten thousand scans that each go through all pixels, a thousand texts that each unpack
to a megabyte, or EXIF entries that all point at the same bytes. The limits are far above what programs write. Files are
walked through in a loop, never by recursion, and without copies. HEIC and AVIF are in boxes.py.
"""

import itertools
import re
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MAX_SCANS = 100
"""Scans of a JPEG. Programs write about ten, for which decoding takes some three times as long as for a single one."""
MAX_SEGMENTS = 1_000
"""Marker segments of a JPEG, and the parts that Pillow reads one by one: resources of Photoshop, tables, colours."""
FILLING = 64
"""Bytes between segments that count as one, up to the first scan: Pillow reads them one by one."""
MAX_BLOCKS = 20_000
"""Chunks of a PNG or WebP, blocks of a GIF before its first picture: microseconds each."""
MAX_PACKED = 64
"""Packed texts and colour profiles of a PNG: each may unpack to a megabyte."""

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""A JPEG's next marker; zero bytes and restarts are part of a scan."""
RESTART_MARKER = re.compile(rb"\xff[\xd0-\xd7]")
START_OF_SCAN, START_OF_PICTURE, END_OF_PICTURE, NO_MARKER = 0xDA, 0xD8, 0xD9, 0x00
WITHOUT_LENGTH = frozenset({*range(0xC0), 0xC8, START_OF_PICTURE, END_OF_PICTURE, *range(0xF0, 0xFE)})
"""Markers behind which Pillow skips no bytes, whatever length they say; libjpeg refuses 0xC8 and 0xF0 to 0xFD."""
INTERVAL, TABLES, PHOTOSHOP, METADATA, SEVERAL = 0xDD, 0xDB, 0xED, 0xE1, 0xE2
NAMES = {METADATA: b"Exif\0\0", SEVERAL: b"MPF\0"}
"""What segments with directories begin with, by their marker."""
FRAMES = frozenset({*range(0xC0, 0xD0), 0xDE}) - {0xC4, 0xC8, 0xCC}
"""Headers of frames, and that of a hierarchy of them, which libjpeg refuses."""
PLAIN_FRAMES, PLAIN_SEGMENTS, PLAIN_HEAD = (0xC0, 0xC1), 100, 2**20
"""Frames of a plain JPEG, of one scan with Huffman codes; and its segments and bytes before that, at most."""
PROGRESSIVE, HUFFMAN = (0xC2, 0xC6, 0xCA, 0xCE), (0xC0, 0xC1, 0xC2)
CODES = 80
"""Passes that one counts as whose codes may take much by themselves: the arithmetic ones of a JPEG, and those of a
lossless WebP or of its transparency, of which each 16 pixels may have tables of their own."""
COLOURED, DEEP = 20, 50
"""Passes that one counts as of a PNG in colour, and of one of 16 bits, which is read once for each of their halves."""
LOSSY, LOSSLESS, DEFLATED = 2, 126, 3
"""Pixels that take as long as a byte may of a lossy WebP; of one that is lossless or transparent, where nothing but
tables of codes takes 5 microseconds a byte; and of a PNG. Of a JPEG of several scans it is 1, of others a quarter."""
RESTART, MAX_RESTARTS = 32, 16_000
"""Pixels that take as long as a block of a JPEG may behind a restart where its data has ended, which is read as 64
codes of 16 bits; and restarts beyond which no more are looked for, as those are too many to be decoded in a worker."""
SEGMENT, CHUNK, UNPACKED, ENTRY = 1_000, 250, 60_000, 300
"""Pixels that take as long as a part that Pillow reads by itself: a segment, a chunk, a packed text, an entry of EXIF.
A pixel is some 40 ns."""
WINDOW = 2**17
"""Bytes that are searched in one go: other threads wait meanwhile, for some milliseconds at most."""
PACKED = (b"iCCP", b"zTXt", b"iTXt")
PLAIN = (b"1", b"2", b"3")
MAX_SLOW, MAX_SLOW_PIXELS = 4 * 2**20, 4_000_000
"""Of what Pillow decodes in Python, a number or a run at a time: bytes of a PPM written as text or of a BMP packed as
runs, and pixels of the latter."""
MAX_PPM_HEAD = 4096
"""Bytes of a PPM before its pixels, comments included: Pillow reads them one by one."""
PPM_WORD = rb"(?:\s(?:\s|#[^\r\n]*+[\r\n])*+[^\s#]{1,10})"
PPM_HEAD = re.compile(rb"P(?:[14]%b{2}|[2356f]%b{3})\s" % (PPM_WORD, PPM_WORD))
FIRST_CHUNK = 12
"""Where the chunks of a WebP file begin."""
CONTAINERS = (b"ANMF", b"ANIM", b"VP8X", b"RIFF", b"LIST")
"""Chunks of a WebP that no frame may hold."""

MAX_BLOCK = 2**20
"""Bytes of an EXIF block that is read: a JPEG's segment has 64 kB."""
MAX_ENTRIES = 4_000
"""Entries of all directories of a file: cameras write a few hundred. A block and a directory count as one each."""
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
WHOLE = (1, 3, 4, 6, 8, 9, 13, 16, 17, 18)
"""Types of whole numbers."""
BYTES = (1, 2, 6, 7)
"""Types that decoders keep as bytes; each value of the others becomes a number."""
STORAGE, SMALL_NUMBERS = range(254, 340), (1, 6)
"""Entries that say how the pixels are stored, and the types of bytes that are numbers there."""
EXIF = re.compile(rb"(?:Exif\0\0)*+")
"""Stands before a block, at times twice, and is passed over."""
XMP_ORIENTATION = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>\s*)([1-8])""")
HEADERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}


class ExcessError(Exception):
    """There is too much of something in a file; says of what."""


class PixelsError(ExcessError):
    """There are too many pixels; says of what."""


class Work(NamedTuple):
    """What decoding a picture takes."""

    passes: int = 1
    """How often it goes through all pixels: the scans of a JPEG that keeps them in memory, which are 2 at least. What
    takes longer counts more, up to CODES times."""
    coded: int = 0
    """Pixels that take as long as its coded data does beside that."""
    parts: int = 0
    """Pixels that take as long as all its parts do, most of which are read with the header."""


class TiffLayout(NamedTuple):
    """How the numbers of a block are written."""

    order: str
    """Of their bytes, as struct names it."""
    big: bool
    """Eight bytes a place, in place of four."""

    @property
    def place(self) -> str:
        """Return the type of a place in the block, as struct names it."""
        return self.order + ("Q" if self.big else "I")


class TiffEntry(NamedTuple):
    """One entry of a directory."""

    tag: int
    kind: int
    values: int
    field: bytes
    """The value itself if it is short, else where in the block it stands."""

    def place(self, layout: TiffLayout) -> int:
        """Return where the value or another directory stands."""
        place: int = struct.unpack(layout.place, self.field)[0]
        return place

    def numbers(self, block: memoryview, layout: TiffLayout, most: int) -> tuple[int, ...]:
        """Return up to so many of its values if they are whole numbers; what is negative comes as far too large.

        Raises struct.error for what is cut off.
        """
        if self.kind not in WHOLE:
            return ()
        size = SIZES[self.kind]
        pattern = f"{layout.order}{min(self.values, most)}{ {1: 'B', 2: 'H', 4: 'I', 8: 'Q'}[size] }"
        short = self.values * size <= len(self.field)
        try:
            return struct.unpack_from(pattern, *((self.field, 0) if short else (block, self.place(layout))))
        except OverflowError as error:  # a place further than can be addressed
            raise struct.error(str(error)) from error


def first_directory(block: memoryview) -> tuple[TiffLayout, int] | None:
    """Return the layout of a block and where its first directory stands; None for what is no such block."""
    order = HEADERS.get(bytes(block[:4]))
    if order is None:
        return None
    layout = TiffLayout(order, 43 in block[2:4])
    try:
        return layout, struct.unpack_from(layout.place, block, 8 if layout.big else 4)[0]
    except struct.error:
        return None


def entries(block: memoryview, layout: TiffLayout, at: int) -> Iterator[TiffEntry]:
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
        yield TiffEntry._make(fields)


def check_directories(blocks: Iterable[memoryview]) -> int:
    """Return the number of a file's blocks, their directories, and the entries of those, all together.

    Raises ExcessError if reading them costs far more than they have bytes.
    """
    number = 0
    for named in blocks:
        number = _counted(number)
        block = _nameless(named)
        first = first_directory(block)
        if first is None:
            continue
        layout, total, places = first[0], 0, [first[1]]
        for at in places:  # which grows
            number = _counted(number)
            for entry in entries(block, layout, at):
                number = _counted(number)
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
                numbers = entry.kind not in BYTES or (entry.tag in STORAGE and entry.kind in SMALL_NUMBERS)
                if numbers and entry.values > most and there >= entry.values:  # else it is damaged
                    raise ExcessError(f"more than {MAX_VALUES:,} values or strips in an entry")
    return number


def _counted(number: int) -> int:
    if number >= MAX_ENTRIES:
        raise ExcessError(f"more than {MAX_ENTRIES:,} entries")
    return number + 1


def exif_orientation(exif: bytes, xmp: bytes = b"") -> int:
    """Return the orientation that EXIF says, or else XMP; what is damaged or neither counts as 1, upright."""
    block = _nameless(memoryview(exif))
    first = first_directory(block) if len(exif) <= MAX_BLOCK else None
    if first is not None:
        layout, at = first
        for entry in itertools.islice(entries(block, layout, at), MAX_ENTRIES):
            if entry.tag == ORIENTATION and entry.kind == 3:
                value: int = struct.unpack_from(layout.order + "H", entry.field)[0]
                return value if 1 <= value <= 8 else 1
    found = XMP_ORIENTATION.search(xmp[:MAX_BLOCK])
    return int(found[1]) if found else 1


def _nameless(block: memoryview) -> memoryview:
    found = EXIF.match(block)
    return block[found.end() :] if found else block


def count_work(kind: str, data: bytes) -> Work:
    """Return what decoding a file takes. Raises ExcessError if that is too much; what is damaged is the decoder's."""
    if kind == "JPEG":
        return _jpeg(data)
    if kind == "PNG":
        return _png(data)
    if kind == "WEBP":
        return _webp(data)
    if kind == "GIF":
        _gif(data)
    elif kind == "TIFF":
        check_directories([memoryview(data)])
    elif kind == "PPM":
        _ppm(data)
    elif kind == "BMP":
        _bmp(data)
    return Work()


def jpeg_frame(data: bytes) -> bytes:
    """Return a JPEG's frame header, from its marker on; nothing if there is none."""
    for kind, at, _ in itertools.islice(_markers(data), MAX_SEGMENTS):
        if kind in FRAMES:
            return data[at - 1 : at + 9]
        if kind == START_OF_SCAN:
            break
    return b""


def _jpeg(data: bytes) -> Work:
    """Count the scans; one that holds all components at once is the only one that is read."""
    scans = segments = first = 0
    components, sampling, progressive, restarts, kept, times = b"", b"", False, False, 1, 1
    blocks: list[tuple[int, memoryview]] = []
    for kind, at, filling in _markers(data):
        segments += (kind != NO_MARKER) + _parts(data, kind, at) + (0 if scans else filling // FILLING)
        if segments > MAX_SEGMENTS:
            raise ExcessError(f"more than {MAX_SEGMENTS:,} segments")
        if scans and kind == END_OF_PICTURE:
            break
        restarts |= kind == INTERVAL
        if kind in NAMES:
            blocks += _directories(data, kind, at)
        if kind in FRAMES:
            components, progressive = data[at + 7 : at + 8], kind in PROGRESSIVE
            sampling = data[at + 9 : at + int.from_bytes(data[at : at + 2], "big") : 3]
            times = times if kind in HUFFMAN else CODES
        elif kind == START_OF_SCAN:
            scans, first = scans + 1, first or at
            if not progressive and scans == 1 and data[at + 2 : at + 3] == components:
                break
            kept = 2  # all coefficients are, until the last scan is read
            if scans > MAX_SCANS:
                raise ExcessError(f"more than {MAX_SCANS} scans")
    listed = sum(len(block) for kind, block in blocks if kind == SEVERAL) // 16  # an MPO's list of its pictures
    parts = segments * SEGMENT + (listed + check_directories(_joined(blocks))) * ENTRY
    coded = len(data) // 4 if kept == 1 else len(data)
    if restarts:
        coded += _restarts(data, first) * (1 if progressive else sum((each >> 4) * (each & 15) for each in sampling))
    return Work(max(scans, kept) * times, coded, parts)


def is_plain_jpeg(data: bytes) -> bool:
    """Return whether a JPEG is as cameras write it: a single scan, without restarts, that begins in the first megabyte.

    All that is looked for in the rest of such a file is its end.
    """
    components = b"none"
    for kind, at, _ in itertools.islice(_markers(data), PLAIN_SEGMENTS):
        if kind == START_OF_SCAN:
            return data[at + 2 : at + 3] == components and data.find(b"\xff\xd9", -WINDOW) >= 0
        if kind in FRAMES:
            components = data[at + 7 : at + 8] if kind in PLAIN_FRAMES else b"none"
        if kind in (INTERVAL, NO_MARKER) or at > PLAIN_HEAD:
            break
    return False


def _restarts(data: bytes, at: int) -> int:
    """Return the pixels that take as long as the restarts of a JPEG behind a place may, for each block of a unit."""
    found = (1 for start in range(at, len(data), WINDOW) for _ in RESTART_MARKER.finditer(data, start, start + WINDOW))
    return RESTART * sum(itertools.islice(found, MAX_RESTARTS))


def _markers(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each marker of a JPEG, the place behind it, and how many bytes before it say nothing; last its end.

    NO_MARKER stands for a window without one.

    It finds every segment that Pillow reads, and every one that libjpeg does: decoders go on behind an end that comes
    before any scan, and, within a scan, behind a marker below those of frames, whatever length it says.
    """
    at = 2
    while at < len(data):
        found = MARKER.search(data, at, at + WINDOW)
        if found is None:
            yield NO_MARKER, at, min(WINDOW, len(data) - at)
            at += WINDOW - 1
            continue
        kind = data[found.start() + 1]
        yield kind, found.end(), found.start() - at
        at = found.end()
        if kind not in WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
    yield END_OF_PICTURE, len(data), max(0, len(data) - at)


def find_marker(data: bytes, at: int) -> int:
    """Return where a JPEG's next marker stands, the end of a scan; -1 if there is none."""
    windows = (MARKER.search(data, start, start + WINDOW) for start in range(at, len(data), WINDOW - 1))
    return next((found.start() for found in windows if found), -1)


def _parts(data: bytes, kind: int, at: int) -> int:
    """Return about how many parts Pillow takes a segment apart into."""
    length = int.from_bytes(data[at : at + 2], "big")
    if kind == PHOTOSHOP:
        return data.count(b"8BIM", at, at + length)
    return length // 65 if kind == TABLES else length // 3 if kind in FRAMES else 0


def _joined(segments: list[tuple[int, memoryview]]) -> list[memoryview]:
    """Return the blocks of a JPEG's segments: Pillow joins those of EXIF, which may be cut into several."""
    parts = [content for kind, content in segments if kind == METADATA]
    if sum(map(len, parts)) > MAX_BLOCK:
        raise ExcessError(f"more than {MAX_BLOCK:,} bytes of EXIF")
    others = [content for kind, content in segments if kind != METADATA]
    return [*others, *(parts if len(parts) < 2 else [memoryview(b"".join(parts))])]


def _directories(data: bytes, kind: int, at: int) -> Iterator[tuple[int, memoryview]]:
    """Yield the kind and the content of a JPEG's segment if Pillow finds EXIF or the directory of an MPO in it."""
    if data.startswith(NAMES[kind], at + 2):
        yield kind, memoryview(data)[at + 2 + len(NAMES[kind]) : at + int.from_bytes(data[at : at + 2], "big")]


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk of a PNG: its kind, where its content begins, and where its checksum should."""
    at = 8
    while len(kind := data[at + 4 : at + 8]) == 4:
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        yield kind, at + 8, end
        at = end + 4


def _png(data: bytes) -> Work:
    number = packed = unpacking = profiles = 0
    blocks = []
    for number, (kind, start, end) in enumerate(png_chunks(data), 1):
        if (kind == b"IHDR") != (number == 1):  # as the specification demands: elsewhere it could hide its depth
            raise SyntaxError
        if kind in PACKED:
            packed += 1
            unpacking += UNPACKED + DEFLATED * (min(end, len(data)) - start)
        profiles += kind == b"iCCP"
        if number > MAX_BLOCKS:
            raise ExcessError(f"more than {MAX_BLOCKS:,} chunks")
        if profiles > 1:
            raise ExcessError("more than 1 colour profile")
        if packed > MAX_PACKED:
            raise ExcessError(f"more than {MAX_PACKED} texts and profiles")
        if kind == b"eXIf":
            blocks.append(memoryview(data)[start:end])
        if len(blocks) > MAX_ENTRIES:  # each counts as one
            raise ExcessError(f"more than {MAX_ENTRIES:,} entries")
        if kind == b"IEND":
            break
    parts = number * CHUNK + unpacking + check_directories(blocks) * ENTRY
    passes = DEEP if data[24:25] == b"\x10" else COLOURED if data[25:26] in b"\2\4\6" else 1
    return Work(passes, DEFLATED * len(data), parts)


def _ppm(data: bytes) -> None:
    if data[1:2] in PLAIN and len(data) > MAX_SLOW:
        raise ExcessError(f"more than {MAX_SLOW:,} bytes of numbers written as text")
    if data[1:2] in PLAIN and data.count(b"#") > MAX_SEGMENTS:
        raise ExcessError(f"more than {MAX_SEGMENTS:,} comments")
    if len(data) > MAX_PPM_HEAD and PPM_HEAD.match(data, 0, MAX_PPM_HEAD) is None:
        raise ExcessError(f"more than {MAX_PPM_HEAD:,} bytes of numbers written as text")


def _bmp(data: bytes) -> None:
    if data[14:18] == b"\x0c\0\0\0" or data[30:34] not in (b"\1\0\0\0", b"\2\0\0\0"):
        return  # not packed as runs
    width, height = struct.unpack_from("<ii", data, 18)
    if len(data) > MAX_SLOW or abs(width * height) > MAX_SLOW_PIXELS:
        raise ExcessError(f"more than {MAX_SLOW:,} bytes or {MAX_SLOW_PIXELS:,} pixels packed as runs")


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


def chunks(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk of a WebP file between two places: its kind, and where its content begins and should end."""
    while at + 8 <= end:
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], at + 8, at + 8 + length
        at += 8 + length + length % 2


def _webp(data: bytes) -> Work:
    """Count chunks, those of frames too. A frame holds one picture, and never other frames."""
    number = 0
    blocks = []
    for kind, start, end in chunks(data, FIRST_CHUNK, len(data)):
        number += 1
        if kind == b"EXIF":
            blocks.append(memoryview(data)[start:end])
        inner = chunks(data, start + 16, min(end, len(data))) if kind == b"ANMF" else ()
        for part, _, _ in inner:
            number += 1
            if part in CONTAINERS:
                raise ExcessError("frames within frames")
            if number > MAX_BLOCKS:
                break
        if number > MAX_BLOCKS:
            raise ExcessError(f"more than {MAX_BLOCKS:,} chunks")
    parts = number * CHUNK + check_directories(blocks) * ENTRY
    passes, each = (CODES, LOSSLESS) if b"VP8L" in data or b"ALPH" in data else (1, LOSSY)
    return Work(passes, each * len(data), parts)


def first_frame(data: bytes) -> bytes | None:
    """Return the first frame of an animated WebP as a picture of its own, None if there is no whole one.

    Pillow's decoder wants all frames whole before it gives the first. The layout is that of RFC 9649, section 2.7.
    """
    for kind, start, end in chunks(data, FIRST_CHUNK, len(data)):
        if kind == b"ANMF" and start + 16 < end <= len(data):
            alpha = 0x10 if data[start + 16 : start + 20] == b"ALPH" else 0
            extended = b"VP8X" + (10).to_bytes(4, "little") + bytes([alpha, 0, 0, 0]) + data[start + 6 : start + 12]
            length = 4 + len(extended) + end - start - 16
            return b"".join(
                (b"RIFF", length.to_bytes(4, "little"), b"WEBP", extended, memoryview(data)[start + 16 : end])
            )
    return None
