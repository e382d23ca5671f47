"""Mutations of picture files by their structure: pieces within themselves, pieces again and again, lengths that lie.

A piece is a chunk (PNG, WebP), segment (JPEG), box (HEIC, AVIF), block (GIF) or directory entry (TIFF) of a file. Where
a format has lengths and checksums, those around a piece are made right again, so that the reader gets to the fault.
"""

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

Pieces = list[tuple[bytes, bytes]]
"""Names and contents."""
SMALL, MUCH, DEEP = (2, 3, 9), (70, 1_100, 4_500, 21_000), (5, 60, 1_500)
MOST = 2**19
"""Bytes that a mutation may add."""


@dataclass(frozen=True)
class Container:
    """How a format is cut into pieces and put together again."""

    split: Callable[[bytes], tuple[bytes, Pieces, bytes]]
    """What stands before the pieces, the pieces, and what stands behind them."""
    pack: Callable[[bytes, bytes], bytes]
    """Returns a piece as bytes."""
    finish: Callable[[bytes, bytes, bytes], bytes] = lambda before, body, after: before + body + after
    names: tuple[bytes, ...] = ()
    """Names worth giving to other pieces."""


def mutate(kind: str, data: bytes, rng: random.Random, change: Callable[[bytes, random.Random], bytes]) -> bytes:
    """Return a file with one fault in its structure; as it is, where no structure is left. `change` is for contents."""
    container = CONTAINERS[kind]
    try:
        before, pieces, after = container.split(data)
    except (struct.error, IndexError):
        return data
    if not pieces:
        return data
    body = list(pieces)
    at = rng.randrange(len(body))
    name, content = body[at]
    packed = [container.pack(*piece) for piece in body]
    fault = rng.randrange(7)
    if fault == 0:
        packed[at] = nested(container, name, content, rng.choice(DEEP))
    elif fault == 1:
        packed[at] = repeated(packed[at], rng.choice(SMALL + MUCH))
    elif fault == 2:
        packed[at] = lie(packed[at], rng)
    elif fault == 3:
        packed[at] = container.pack(rng.choice((*container.names, name)), content)
    elif fault == 4:
        inner = container.pack(*body[rng.randrange(len(body))])
        packed[at] = container.pack(name, content[: rng.randrange(len(content) + 1)] + inner + content)
    elif fault == 5:
        packed[at] = container.pack(name, change(content, rng))
    else:
        packed.insert(rng.randrange(len(packed) + 1), packed[at])
        del packed[rng.randrange(len(packed))]
    return container.finish(before, b"".join(packed), after)


def nested(container: Container, name: bytes, content: bytes, depth: int) -> bytes:
    """Put a piece into itself, again and again."""
    head = content[:16]
    for _ in range(depth):
        content = head + container.pack(name, content)
        if len(content) > MOST:
            break
    return container.pack(name, content)


def repeated(piece: bytes, count: int) -> bytes:
    """Return a piece so often, or as often as there is room."""
    return piece * max(2, min(count, MOST // max(1, len(piece))))


def lie(piece: bytes, rng: random.Random) -> bytes:
    """Write another number over four or two bytes at the beginning of a piece, where its length is likely to stand."""
    number = rng.choice((0, 1, 3, 255, 65_535, 2**24, 2**31 - 1, 2**32 - 1, len(piece) * 2, max(len(piece) - 9, 0)))
    at = rng.randrange(0, min(12, len(piece)) + 1)
    order = rng.choice("<>")
    if rng.random() < 0.5:
        return piece[:at] + struct.pack(order + "I", number % 2**32) + piece[at + 4 :]
    return piece[:at] + struct.pack(order + "H", number % 2**16) + piece[at + 2 :]


def png(data: bytes) -> tuple[bytes, Pieces, bytes]:
    """Cut a PNG into chunks."""
    pieces, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        pieces.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return data[:8], pieces, b""


def png_chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def webp(data: bytes) -> tuple[bytes, Pieces, bytes]:
    """Cut a WebP into chunks."""
    pieces, at = [], 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        pieces.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return data[:12], pieces, b""


def webp_chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk with its length."""
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def webp_file(_: bytes, body: bytes, after: bytes) -> bytes:
    """Return a WebP with its length."""
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body + after


def jpeg(data: bytes) -> tuple[bytes, Pieces, bytes]:
    """Cut a JPEG into segments, up to its first scan."""
    pieces, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        pieces.append((data[at : at + 2], data[at + 4 : at + 2 + length]))
        at += 2 + max(length, 2)
    return data[:2], pieces, data[at:]


def jpeg_segment(name: bytes, content: bytes) -> bytes:
    """Return a segment, of which no more than 65,533 bytes fit."""
    return name + struct.pack(">H", min(len(content) + 2, 65_535)) + content[:65_533]


def boxes(data: bytes) -> tuple[bytes, Pieces, bytes]:
    """Cut a HEIC or AVIF into its outer boxes, or those within the one that describes its items."""
    pieces, at = [], 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big") or len(data) - at
        pieces.append((data[at + 4 : at + 8], data[at + 8 : at + length]))
        at += max(length, 8)
    return b"", pieces, b""


def box(name: bytes, content: bytes) -> bytes:
    """Return a box with its length."""
    return struct.pack(">I", 8 + len(content)) + name + content


def inner_boxes(data: bytes) -> tuple[bytes, Pieces, bytes]:
    """Cut the box that describes the items into its own."""
    at = data.find(b"meta") - 4
    if at < 0:
        return boxes(data)
    end = at + int.from_bytes(data[at : at + 4], "big")
    _, pieces, _ = boxes(data[at + 12 : end])
    return data[:at], pieces, data[end:]


def inner_file(before: bytes, body: bytes, after: bytes) -> bytes:
    """Put the box that describes the items together again."""
    return before + box(b"meta", bytes(4) + body) + after


def gif(data: bytes) -> tuple[bytes, Pieces, bytes]:
    """Cut a GIF into its first blocks and the rest."""
    at = 13 + (3 << ((data[10] & 7) + 1) if data[10:11] and data[10] & 0x80 else 0)
    head, pieces = data[:at], []
    while data[at : at + 1] == b"!":
        end = at + 2
        while end < len(data) and data[end]:
            end += 1 + data[end]
        pieces.append((data[at : at + 2], data[at + 2 : end + 1]))
        at = end + 1
    return head, [*pieces, (b"!\xfe", b"\3abc\0")], data[at:]


def tiff(data: bytes) -> tuple[bytes, Pieces, bytes]:
    """Cut a TIFF's first directory into entries; it must be the last part of the file, or nothing is cut."""
    order = "<" if data.startswith(b"II") else ">"
    if data[2:4] not in (b"*\0", b"\0*"):
        return data, [], b""
    (at,) = struct.unpack_from(order + "I", data, 4)
    if at + 2 > len(data):
        return data, [], b""
    (count,) = struct.unpack_from(order + "H", data, at)
    rows = [data[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(count)]
    return data, [(row[:2], row[2:]) for row in rows if len(row) == 12], b""


def tiff_file(before: bytes, body: bytes, _: bytes) -> bytes:
    """Put the new directory at the end of the file, and let the header point to it."""
    order = "<" if before.startswith(b"II") else ">"
    start = struct.pack(order + "I", len(before))
    count = struct.pack(order + "H", min(len(body) // 12, 65_535))
    return before[:4] + start + before[8:] + count + body + bytes(4)


METADATA = (b"eXIf", b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"PLTE", b"IDAT")
BOXES = (b"meta", b"iprp", b"ipco", b"ispe", b"ipma", b"iref", b"iloc", b"iinf", b"idat", b"moov", b"grid")
CONTAINERS = {
    "PNG": Container(png, png_chunk, names=METADATA),
    "WEBP": Container(webp, webp_chunk, webp_file, (b"ANMF", b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"EXIF", b"ANIM")),
    "JPEG": Container(jpeg, jpeg_segment, names=(b"\xff\xe1", b"\xff\xe2", b"\xff\xed", b"\xff\xc2", b"\xff\xfe")),
    "HEIF": Container(inner_boxes, box, inner_file, BOXES),
    "AVIF": Container(inner_boxes, box, inner_file, BOXES),
    "boxes": Container(boxes, box, names=BOXES),
    "GIF": Container(gif, lambda name, content: name + content, names=(b"!\xf9", b"!\xff", b"!\xfe")),
    "TIFF": Container(
        tiff,
        lambda name, content: (name + content)[:12],
        tiff_file,
        tuple(
            struct.pack("<H", tag) for tag in (256, 257, 258, 259, 273, 277, 279, 284, 324, 330, 34665, 34853, 40965)
        ),
    ),
}
"""By format; of boxes the outer ones too."""
