"""Strips metadata from picture files: EXIF, XMP, IPTC, comments, profiles, thumbnails, and what follows the end.

The coded data of a JPEG or WebP stays as it is, byte for byte. Around it only what decoding needs is kept, each part
once and of its own length. All other files are left to be written anew from their pixels: None.
"""

import re
import struct

JPEG_KEPT = frozenset((*range(0xC0, 0xC8), *range(0xC9, 0xD0), 0xDA, 0xDB, 0xDD))
"""Tables, frame and scan headers. Markers and their meaning: ITU-T T.81, table B.1."""
NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
"""Ends coded data: there a zero or a restart number follows each 0xFF byte."""
WEBP_ANIMATED, WEBP_ALPHA = 0x02, 0x10
"""Flags of VP8X: RFC 9649, section 2.7."""


def strip(data: bytes, orientation: int = 1) -> tuple[bytes, str] | None:
    """Return the file without its metadata, and its kind: jpg or webp.

    `orientation` is what the metadata said (EXIF: 1 is upright). None for other formats, for a file whose structure is
    not as it should be, and for an animation or a WebP that is not upright: write these anew from their pixels.
    """
    stripped, kind = None, ""
    if data.startswith(b"\xff\xd8\xff"):
        stripped, kind = _jpeg(data, orientation), "jpg"
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP" and orientation == 1:
        stripped, kind = _webp(data), "webp"
    return None if stripped is None else (stripped, kind)


def _jpeg(data: bytes, orientation: int) -> bytes | None:
    """Keep the segments that decoding needs, and the coded data; end with the end of the first picture."""
    kept = [b"\xff\xd8"]
    if orientation != 1:
        kept.append(_orientation_segment(orientation))
    at = 2
    while (found := NEXT_MARKER.match(data, at)) is not None:
        marker, start = found[1][0], found.end()
        if marker == 0xD9:
            return b"".join([*kept, b"\xff\xd9"])
        length = int.from_bytes(data[start : start + 2], "big")
        at = start + length
        if length < 2 or at > len(data):
            return None
        content = data[start + 2 : at]
        if marker in JPEG_KEPT:
            kept.append(bytes((0xFF, marker)) + data[start:at])
        elif marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
            kept.append(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + content[11:12])  # how colours are coded, and no more
        elif marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14:
            kept.append(b"\xff\xe0\0\x10" + content[:12] + b"\0\0")  # the two zeros: no thumbnail
        if marker == 0xDA:
            end = NEXT_MARKER.search(data, at)
            if end is None:
                return None
            kept.append(data[at : end.start()])
            at = end.start()
    return None


def _orientation_segment(orientation: int) -> bytes:
    """Return an EXIF block that says which way up the picture is, and nothing else."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    block = b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    return b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block


def _webp(data: bytes) -> bytes | None:
    """Keep the coded picture and its transparency; None for an animation, or if there is no whole picture."""
    parts: dict[bytes, bytes] = {}
    at, end = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= end and not parts.keys() & {b"VP8 ", b"VP8L"}:
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + length > end:
            return None
        parts.setdefault(data[at : at + 4], data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    extended = parts.get(b"VP8X", bytes(10))
    wanted: tuple[bytes, ...] = (b"VP8L",) if b"VP8L" in parts else (b"ALPH", b"VP8 ")
    kept = [name for name in wanted if name in parts]
    if len(extended) < 10 or extended[0] & WEBP_ANIMATED or kept in ([], [b"ALPH"]):
        return None
    if b"VP8X" in parts:
        parts[b"VP8X"] = bytes((extended[0] & WEBP_ALPHA,)) + bytes(3) + extended[4:10]
        kept.insert(0, b"VP8X")
    content = b"WEBP" + b"".join(_webp_chunk(name, parts[name]) for name in kept)
    return b"RIFF" + len(content).to_bytes(4, "little") + content


def _webp_chunk(name: bytes, content: bytes) -> bytes:
    return name + len(content).to_bytes(4, "little") + content + b"\0" * (len(content) % 2)
