"""Coded bytes that make no pixel keep decoders busy, too: what a worker decodes itself takes some 20 ms."""

import contextlib
import io
import struct
import time
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from pupila import images
from pupila.errors import ImageError
from pupila.server.inference import LargeImageError, small_only

SOON = 0.08
"""Seconds of processor time: some 20 ms on a machine that does nothing else."""
SIZES = [2**power for power in range(9, 22)]
"""Bytes of idle codes."""


class Bits:
    """Numbers written bit by bit, the lowest first."""

    def __init__(self) -> None:
        self.value = self.number = 0

    def put(self, value: int, number: int) -> None:
        self.value |= value << self.number
        self.number += number

    def taken(self) -> bytes:
        return self.value.to_bytes(-(-self.number // 8), "little")


def one_symbol(bits: Bits, symbol: int = 0) -> None:
    """Write a prefix code of a lossless WebP that has one symbol only."""
    bits.put(0b01, 2)
    bits.put(0b1, 1) if symbol > 1 else bits.put(0, 1)
    bits.put(symbol, 8 if symbol > 1 else 1)


def equal_lengths(bits: Bits, length: int) -> None:
    """Write one whose symbols all have codes of one length."""
    order = (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12)
    place = order.index(length)
    bits.put(0, 1)
    bits.put(place - 3, 4)
    bits.put(1 << 3 * place, 3 * (place + 1))
    count = 2**length - 2
    pairs = -(-count.bit_length() // 2)
    bits.put(1 | (pairs - 1) << 1, 4)
    bits.put(count, 2 * pairs)


def groups(size: int, long: bool, start: bool = True) -> bytes:
    """Return the coded data of 8 x 8 pixels without loss, with groups of codes up to a size, of which one is used."""
    each = Bits()
    equal_lengths(each, 11) if long else one_symbol(each)
    for _ in range(4):
        one_symbol(each)
    number = min(8 * size // each.number, 65_536)
    head = Bits()
    if start:
        head.put(0x2F, 8)
        head.put(7 | 7 << 14, 32)
    head.put(0b0_111_1_1011_1_0, 11)  # no transform, 11 bits of colour cache, groups by squares of 512 pixels
    for symbol in (number - 1 & 255, number - 1 >> 8, 0, 0, 0):
        one_symbol(head, symbol)
    one = f"{each.value:0{each.number}b}"
    last = Bits()
    for _ in range(5):
        one_symbol(last)
    head.put(int(f"{last.value:0{last.number}b}" + one * (number - 1), 2), last.number + each.number * (number - 1))
    return head.taken()


def riff(*parts: tuple[bytes, bytes]) -> bytes:
    made = b"".join(name + struct.pack("<I", len(part)) + part + bytes(len(part) % 2) for name, part in parts)
    return b"RIFF" + struct.pack("<I", 4 + len(made)) + b"WEBP" + made


def transparency(size: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "WEBP", quality=10)
    head = b"\x10\0\0\0" + b"\7\0\0" * 2
    return riff((b"VP8X", head), (b"ALPH", b"\1" + groups(size, False, False)), (b"VP8 ", buffer.getvalue()[20:]))


def empty_blocks(size: int, content: bytes) -> bytes:
    """Return content packed by deflate behind blocks that hold nothing but tables of codes."""
    bits = Bits()
    bits.put(0b10_0, 3)  # one of codes of its own, and not the last
    bits.put(29 | 29 << 5 | 14 << 10, 14)
    order = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1)
    for symbol in order:
        bits.put({18: 1, 0: 2, 1: 2}.get(symbol, 0), 3)
    for zeros, ones in ((138, 0), (118, 2), (28, 1), (29, 0)):
        bits.put((zeros - 11) << 1, 8)
        bits.put(0b11_11 >> 2 * (2 - ones), 2 * ones)
    bits.put(0, 1)
    eight = sum(bits.value << bits.number * place for place in range(8)).to_bytes(bits.number, "little")
    return b"\x78\x01" + eight * (size // len(eight)) + zlib.compress(content)[2:]


def png(*parts: tuple[bytes, bytes]) -> bytes:
    head = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    chunks = (name + part for name, part in ((b"IHDR", head), *parts, (b"IEND", b"")))
    made = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


ROWS = bytes(9 * 8)


def texts(size: int) -> bytes:
    """Return a PNG whose bytes are those of texts of 40 KiB."""
    text = b"k\0\0" + empty_blocks(min(size, 40_960), b"x")
    return png(*[(b"zTXt", text)] * max(1, size // 40_960), (b"IDAT", zlib.compress(ROWS)))


def jpeg(marker: int, unit: bytes, size: int) -> bytes:
    """Return a JPEG with segments of so many units."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG")
    content = unit * (min(size, 65_000) // len(unit))
    segment = struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
    return b"\xff\xd8" + segment * max(1, size // 65_000) + buffer.getvalue()[2:]


IDLE: dict[str, Callable[[int], bytes]] = {
    "WebP, groups": lambda size: riff((b"VP8L", groups(size, False))),
    "WebP, groups of long codes": lambda size: riff((b"VP8L", groups(size, True))),
    "WebP, transparency": transparency,
    "PNG, pixels": lambda size: png((b"IDAT", empty_blocks(size, ROWS))),
    "PNG, a text": lambda size: png((b"zTXt", b"k\0\0" + empty_blocks(size, b"x")), (b"IDAT", zlib.compress(ROWS))),
    "PNG, an international text": lambda size: png(
        (b"iTXt", b"k\0\1\0\0\0" + empty_blocks(size, b"x")), (b"IDAT", zlib.compress(ROWS))
    ),
    "PNG, a profile": lambda size: png((b"iCCP", b"k\0\0" + empty_blocks(size, b"x")), (b"IDAT", zlib.compress(ROWS))),
    "PNG, texts": texts,
    "PNG, a text behind the pixels": lambda size: png(
        (b"IDAT", zlib.compress(ROWS)), (b"zTXt", b"k\0\0" + empty_blocks(size, b"x"))
    ),
    "JPEG, tables of codes": lambda size: jpeg(0xC4, bytes(17), size),
    "JPEG, comments": lambda size: jpeg(0xFE, b"x", size),
    "JPEG, profile": lambda size: jpeg(0xE2, b"ICC_PROFILE\0\1\1".ljust(65_000, b"x"), size),
}


def seconds(data: bytes) -> float:
    """Return how much processor time decoding takes where it is not left to the process; it may be refused."""
    begun = time.thread_time()
    with contextlib.suppress(LargeImageError, ImageError):
        small_only(data, 32, images.DEFAULT_LIMITS, "squash")
    return time.thread_time() - begun


@pytest.mark.parametrize("name", IDLE)
def test_what_is_decoded_in_the_worker_takes_milliseconds(name: str) -> None:
    slow = {size: min(seconds(data) for _ in range(2)) for size in SIZES for data in [IDLE[name](size)]}
    assert {size: taken for size, taken in slow.items() if taken > SOON} == {}


@pytest.mark.parametrize("name", IDLE)
def test_idle_codes_are_no_damage(name: str) -> None:
    """Else their time would say nothing."""
    assert images.decode(IDLE[name](4_096), 32).shape == (32, 32, 3)


@pytest.mark.parametrize("name", ["WebP, groups", "WebP, transparency", "PNG, pixels", "PNG, a text"])
def test_long_ones_are_left_to_the_process(name: str) -> None:
    with pytest.raises(LargeImageError):
        small_only(IDLE[name](2**18), 32, images.DEFAULT_LIMITS, "squash")
