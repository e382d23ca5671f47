"""Takes out of a picture file all that is not the picture: EXIF, XMP, comments, thumbnails, what follows the end.

Works on the file's own structure, so that not one pixel changes. What it does not know, it leaves to others: None.
"""

import re
import struct

JPEG_KEPT = frozenset((*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD))
"""Tables, frame and scan headers. Markers and their meaning: ITU-T T.81, table B.1."""
NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
"""Ends coded data: there a zero or a restart number follows each 0xFF byte."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_KEPT = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
"""The chunks that say what the pixels are: W3C, "Portable Network Graphics", third edition, 11.2 and 11.3."""
WEBP_KEPT = frozenset((b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"))
"""RFC 9649, section 2.7."""
WEBP_TOLD = 0x20 | 0x08 | 0x04
"""The flags of VP8X that announce a colour profile, EXIF and XMP."""


def strip(data: bytes, orientation: int = 1) -> tuple[bytes, str] | None:
    """Return the file without its metadata, and its kind: jpg, png or webp.

    `orientation` is what the metadata said (EXIF: 1 is upright). None for other formats, for a file whose structure is
    not as it should be, and for a PNG or WebP that is not upright: write these anew from their pixels.
    """
    if data.startswith(b"\xff\xd8\xff"):
        stripped, kind = _jpeg(data, orientation), "jpg"
    elif orientation != 1:
        return None
    elif data.startswith(PNG_SIGNATURE):
        stripped, kind = _png(data), "png"
    else:
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
        if marker in JPEG_KEPT or (marker == 0xEE and content.startswith(b"Adobe")):
            kept.append(bytes((0xFF, marker)) + data[start:at])
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


def _png(data: bytes) -> bytes | None:
    kept, at = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        if end > len(data):
            return None
        if name in PNG_KEPT:
            kept.append(data[at:end])
        if name == b"IEND":
            return b"".join(kept)
        at = end
    return None


def _webp(data: bytes) -> bytes | None:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    kept, at = [b"WEBP"], 12
    while at + 8 <= min(len(data), 8 + int.from_bytes(data[4:8], "little")):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        chunk = data[at : at + 8 + length]
        if len(chunk) < 8 + length:
            return None
        if name == b"VP8X" and length:
            chunk = chunk[:8] + bytes((chunk[8] & ~WEBP_TOLD,)) + chunk[9:]
        if name in WEBP_KEPT:
            kept.append(chunk + b"\0" * (length % 2))
        at += 8 + length + length % 2
    content = b"".join(kept)
    return b"RIFF" + len(content).to_bytes(4, "little") + content if len(kept) > 1 else None
