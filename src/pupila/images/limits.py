"""Bounds what decoding a picture file may cost, by how the file is built, before any decoder reads it.

A file of half a megabyte can have ten thousand scans that each go through all pixels, or a thousand texts that each
unpack to a megabyte. What decoders do with such was measured; the limits are far above what programs write. Files are
walked through in a loop, never by recursion, and without copies.
"""

import re
from collections.abc import Iterator

from pupila.images import boxes, exif
from pupila.images.exif import ExcessError

MAX_SCANS = 100
"""Scans of a JPEG. Programs write about ten, for which decoding takes some three times as long as for a single one."""
MAX_SEGMENTS = 1_000
"""Marker segments of a JPEG: Pillow copies all of its EXIF once more for each segment of it."""
MAX_BLOCKS = 20_000
"""Chunks of a PNG or WebP, blocks of a GIF before its first picture: microseconds each."""
MAX_PACKED = 64
"""Packed texts and colour profiles of a PNG: each may unpack to a megabyte."""

TINY = 4096
"""Bytes up to which counting what looks like a scan is quicker than walking."""

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""A JPEG's next marker; zero bytes and restarts are part of a scan."""
START_OF_SCAN, START_OF_PICTURE, END_OF_PICTURE = 0xDA, 0xD8, 0xD9
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
PACKED = (b"iCCP", b"zTXt", b"iTXt")
PLAIN = (b"1", b"2", b"3")
MAX_PLAIN = 4 * 2**20
"""Bytes of a PPM whose numbers are written as text: Pillow reads them one by one."""
FIRST_CHUNK = 12
"""Where the chunks of a WebP file begin."""
CONTAINERS = (b"ANMF", b"ANIM", b"VP8X", b"RIFF", b"LIST")
"""Chunks of a WebP that no frame may hold."""


def passes(kind: str, data: bytes, max_pixels: int) -> int:
    """Return how often decoding goes through all pixels: the scans of a JPEG that it keeps in memory, else 1.

    Raises ExcessError. A damaged file is left to the decoder.
    """
    if kind == "JPEG":
        return _jpeg(data)
    if kind == "PNG":
        _png(data)
    elif kind == "GIF":
        _gif(data)
    elif kind == "TIFF":
        exif.check([memoryview(data)])
    elif kind == "WEBP":
        _webp(data)
    elif kind in ("HEIF", "AVIF"):
        boxes.check(data, max_pixels)
    elif kind == "PPM" and data[1:2] in PLAIN and len(data) > MAX_PLAIN:
        raise ExcessError(f"more than {MAX_PLAIN:,} bytes of numbers written as text")
    return 1


def jpeg_frame(data: bytes) -> bytes:
    """Return a JPEG's frame header, from its marker on; nothing if there is none."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(data, at)
        if found is None or data[found.start() + 1] == START_OF_SCAN:
            break
        at = found.end()
        if data[at - 1] in FRAMES:
            return data[at - 1 : at + 9]
        at += int.from_bytes(data[at : at + 2], "big")
    return b""


def _jpeg(data: bytes) -> int:
    """Walk from marker to marker as libjpeg does; a scan that holds all components at once is the only one read."""
    if len(data) < TINY and data.count(b"\xff\xda") < 2:
        return 1
    scans = segments = 0
    components, progressive, at = b"", False, 2
    blocks: list[tuple[bytes, memoryview]] = []
    while (found := MARKER.search(data, at)) and (kind := data[found.start() + 1]) != END_OF_PICTURE:
        at = found.end()
        segments += 1
        if segments > MAX_SEGMENTS:
            raise ExcessError(f"more than {MAX_SEGMENTS:,} segments")
        if kind in (0xE1, 0xE2):
            blocks += _directories(data, at)
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
    exif.check(_joined(blocks))
    return max(scans, 1)


def _joined(segments: list[tuple[bytes, memoryview]]) -> list[memoryview]:
    """Return the blocks of a JPEG's segments: Pillow joins those of EXIF, which may be cut into several."""
    parts = [content for name, content in segments if name == b"Exif"]
    if sum(map(len, parts)) > exif.MAX_BLOCK:
        raise ExcessError(f"more than {exif.MAX_BLOCK:,} bytes of EXIF")
    others = [content for name, content in segments if name != b"Exif"]
    return [*others, parts[0] if len(parts) == 1 else memoryview(b"".join(parts))]


def _directories(data: bytes, at: int) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the name and the content of a JPEG's segment if it holds EXIF or the directory of an MPO."""
    end = at + int.from_bytes(data[at : at + 2], "big")
    name = data[at + 2 : at + 6]
    if name in (b"Exif", b"MPF\0"):
        yield name, memoryview(data)[at + (8 if name == b"Exif" else 6) : end]


def _png(data: bytes) -> None:
    """Count chunks up to the end."""
    packed, at = 0, 8
    blocks: list[memoryview] = []
    for _ in range(MAX_BLOCKS):
        kind = data[at + 4 : at + 8]
        if len(kind) < 4 or kind == b"IEND":
            exif.check(blocks)
            return
        packed += kind in PACKED
        length = int.from_bytes(data[at : at + 4], "big")
        if kind == b"eXIf":
            blocks.append(_block(data, at + 8, at + 8 + length))
        if packed > MAX_PACKED:
            raise ExcessError(f"more than {MAX_PACKED} texts and profiles")
        at += 12 + length
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


def chunks(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk of a WebP file between two places: its kind, and where its content begins and should end."""
    while at + 8 <= end:
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], at + 8, at + 8 + length
        at += 8 + length + length % 2


def _webp(data: bytes) -> None:
    """Count chunks, those of frames too. A frame holds one picture, and never other frames."""
    number = 0
    blocks = []
    for kind, start, end in chunks(data, FIRST_CHUNK, len(data)):
        number += 1
        if kind == b"EXIF":
            blocks.append(_block(data, start, end))
        inner = chunks(data, start + 16, min(end, len(data))) if kind == b"ANMF" else ()
        for part, _, _ in inner:
            number += 1
            if part in CONTAINERS:
                raise ExcessError("frames within frames")
            if number > MAX_BLOCKS:
                break
        if number > MAX_BLOCKS:
            raise ExcessError(f"more than {MAX_BLOCKS:,} chunks")
    exif.check(blocks)


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


def _block(data: bytes, start: int, end: int) -> memoryview:
    """Return an EXIF block that is part of a file, without the name before it."""
    return memoryview(data)[start + 6 * data.startswith(b"Exif\0\0", start) : end]
