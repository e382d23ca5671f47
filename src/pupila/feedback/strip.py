"""Strips metadata from picture files: EXIF, XMP, IPTC, comments, profiles, thumbnails, and what follows the end.

The coded data stays as it is, byte for byte, so that not one pixel changes. Around it only what decoding needs is kept,
each part once and of its own length. A file that is put together in another way is left to be written anew: None.
"""

import re
import struct
import zlib
from collections.abc import Iterator

JPEG_KEPT = frozenset((*range(0xC0, 0xC8), *range(0xC9, 0xD0), 0xDA, 0xDB, 0xDD))
"""Tables, frame and scan headers. Markers and their meaning: ITU-T T.81, table B.1."""
NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
"""Ends coded data: there a zero or a restart number follows each 0xFF byte."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_TRANSPARENCY = {0: 2, 2: 6, 3: 256}
"""Bytes of a tRNS chunk at most, by colour type: W3C, "Portable Network Graphics", third edition, 11.3.1."""
PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Numbers a pixel, by colour type."""
PNG_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7: where each pass begins, and its steps."""
WEBP_ANIMATED = 0x02
WEBP_METADATA = 0x20 | 0x08 | 0x04
"""The flags of VP8X that announce a colour profile, EXIF and XMP: RFC 9649, section 2.7."""
ANMF_HEADER = 16


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
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        stripped, kind = _webp(data), "webp"
    else:
        return None
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


def _png(data: bytes) -> bytes | None:
    """Keep IHDR and IDAT, and PLTE and tRNS where the colour type has a use for them."""
    kept: dict[bytes, bytes] = {}
    most = {b"IHDR": 13}
    for name, content in _png_chunks(data):
        if name == b"IEND":
            break
        if name == b"IHDR" and len(content) == 13:
            most |= {b"PLTE": 768 if content[9] == 3 else 0, b"tRNS": PNG_TRANSPARENCY.get(content[9], 0)}
        if name == b"IDAT":
            kept[name] = kept.get(name, b"") + content
        elif most.get(name):
            if name in kept or len(content) > most[name]:
                return None
            kept[name] = content
    if not {b"IHDR", b"IDAT"} <= kept.keys() or name != b"IEND":
        return None
    used = _png_used(kept[b"IDAT"], kept[b"IHDR"])
    kept |= {b"IDAT": kept[b"IDAT"][:used], b"IEND": b""}
    return PNG_SIGNATURE + b"".join(map(_png_chunk, kept, kept.values())) if used else None


def _png_used(packed: bytes, header: bytes) -> int:
    """Return how many bytes of the packed pixels unpack to the picture; 0 if they unpack to something else."""
    width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * PNG_SAMPLES.get(colours, 4)
    left = sum(
        rows * (1 + (columns * bits + 7) // 8)
        for x, y, across, down in (PNG_PASSES if interlaced else ((0, 0, 1, 1),))
        if (columns := -(-max(width - x, 0) // across)) and (rows := -(-max(height - y, 0) // down))
    )
    inflater, rest = zlib.decompressobj(), packed
    try:
        while not inflater.eof and rest and left >= 0:
            left -= len(inflater.decompress(rest, 2**20))
            rest = inflater.unconsumed_tail
    except zlib.error:
        return 0
    return len(packed) - len(inflater.unused_data) if inflater.eof and not left else 0


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of each chunk that is there as a whole."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            return
        yield data[at + 4 : at + 8], data[at + 8 : end - 4]
        at = end


def _png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _webp(data: bytes) -> bytes | None:
    """Keep VP8X, and the coded picture, or of an animation ANIM and the coded picture of each frame."""
    chunks = list(_webp_chunks(data, 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))))
    name, extended = chunks[0] if chunks else (b"", b"")
    kept = [b"WEBP"]
    if name == b"VP8X":
        if len(extended) < 10:
            return None
        kept.append(_webp_chunk(name, bytes((extended[0] & ~WEBP_METADATA,)) + extended[1:10]))
    if name == b"VP8X" and extended[0] & WEBP_ANIMATED:
        kept += [_webp_chunk(name, content[:6]) for name, content in chunks if name == b"ANIM"][:1]
        frames = [content for name, content in chunks if name == b"ANMF"]
        pictures = [_webp_picture(list(_webp_chunks(frame, ANMF_HEADER, len(frame)))) for frame in frames]
        for frame, picture in zip(frames, pictures, strict=True):
            kept.append(_webp_chunk(b"ANMF", frame[:ANMF_HEADER] + picture))
    else:
        pictures = [_webp_picture(chunks)]
        kept += pictures
    content = b"".join(kept)
    return b"RIFF" + len(content).to_bytes(4, "little") + content if pictures and all(pictures) else None


def _webp_picture(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Return the chunks of the first coded picture, its transparency first; nothing if there is none."""
    alpha = b""
    for name, content in chunks:
        if name == b"ALPH" and not alpha:
            alpha = _webp_chunk(name, content)
        if name in (b"VP8 ", b"VP8L"):
            return (alpha if name == b"VP8 " else b"") + _webp_chunk(name, content)
    return b""


def _webp_chunks(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of each chunk that is there as a whole."""
    while at + 8 <= end:
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + length > end:
            return
        yield data[at : at + 4], data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _webp_chunk(name: bytes, content: bytes) -> bytes:
    return name + len(content).to_bytes(4, "little") + content + b"\0" * (len(content) % 2)
