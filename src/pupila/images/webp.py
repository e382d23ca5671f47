"""Decodes a still WebP picture with the libwebp that Pillow has loaded: the same pixels in a quarter of the memory.

Pillow decodes through libwebp's reader of animations, which holds two canvases, and copies the pixels twice: 64 MB for
4 megapixels. Where the library is not found, there is nothing here to use, and Pillow's own way remains. Linux.
"""

import contextlib
import ctypes
from functools import cache
from pathlib import Path

MAPS = Path("/proc/self/maps")
CHANNELS = 4


def decode(data: bytes, width: int, height: int) -> bytearray | None:
    """Return the pixels as R, G, B, A from top to bottom; None if that cannot be done here, or not with this file."""
    library = _library()
    if library is None:
        return None
    pixels = bytearray(width * height * CHANNELS)
    first = ctypes.c_uint8.from_buffer(pixels)  # not an array: ctypes would remember a type for every length
    done = library.WebPDecodeRGBAInto(data, len(data), ctypes.byref(first), len(pixels), width * CHANNELS)
    return pixels if done else None


@cache
def _library() -> ctypes.CDLL | None:
    with contextlib.suppress(OSError, AttributeError):  # no such system, or a Pillow that has none or hides it
        lines = MAPS.read_text().splitlines()
        paths = {line.split()[-1] for line in lines if "/libwebp-" in line or "/libwebp." in line}
        for path in paths:
            library = ctypes.CDLL(path)
            library.WebPDecodeRGBAInto.restype = ctypes.c_void_p
            library.WebPDecodeRGBAInto.argtypes = (
                ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int,
            )  # fmt: skip
            return library
    return None


def is_webp(data: bytes) -> bool:
    """True for what begins as a WebP file does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def first_frame(data: bytes) -> bytes | None:
    """Return the first frame of an animated WebP as a picture of its own, None if there is no whole one.

    Pillow's decoder wants all frames whole before it gives the first. The layout is that of RFC 9649, section 2.7.
    """
    start = 12
    while is_webp(data) and start + 8 <= len(data):
        kind, length = data[start : start + 4], int.from_bytes(data[start + 4 : start + 8], "little")
        body = data[start + 8 : start + 8 + length]
        if kind == b"ANMF" and len(body) == length > 16:
            alpha = 0x10 if body[16:20] == b"ALPH" else 0
            extended = b"VP8X" + (10).to_bytes(4, "little") + bytes([alpha, 0, 0, 0]) + body[6:12]
            content = b"WEBP" + extended + body[16:]
            return b"RIFF" + len(content).to_bytes(4, "little") + content
        start += 8 + length + length % 2
    return None
