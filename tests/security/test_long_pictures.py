"""Pictures of millions of pixels that are narrow, or have transparency, take no more memory than others."""

import struct
import sys
import zlib
from subprocess import run

import pytest

from pupila import images
from pupila.errors import ImageError
from pupila.images.decoder import MAX_SIDE

MOST_MIB = 800
"""What docs/security.md says."""
MEASURE = """
import resource, sys
from pupila import images
size = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = sys.stdin.buffer.read()
before = size()
images.decode(data, int(sys.argv[1]))
print(size() - before)
"""


def png(width: int, height: int, bits: int, colour: int, channels: int) -> bytes:
    """Return a PNG of zeros; `colour` is its colour type."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer, row = zlib.compressobj(1), bytes(1 + width * bits * channels // 8)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(2, 1_000_000), (1_000_000, 2), (MAX_SIDE + 1, 1)])
def test_longer_side_than_any_jpeg_has_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=r"A side of .* pixels is over the limit of 65,535") as caught:
        images.decode(png(*size, 8, 6, 4), 32)
    assert caught.value.code == "image_too_many_pixels"


@pytest.mark.parametrize("size", [(1, MAX_SIDE), (MAX_SIDE, 1)])
def test_longest_side_that_is_allowed_is_read(size: tuple[int, int]) -> None:
    assert images.decode(png(*size, 8, 6, 4), 32).shape == (32, 32, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "colour", "channels"), [(8, 6, 4), (8, 4, 2), (16, 6, 4)])
@pytest.mark.parametrize(("size", "side"), [((762, 65_000), 1024), ((65_000, 762), 1024), ((7_000, 7_000), 1024)])
def test_most_memory_of_a_picture_with_transparency(
    size: tuple[int, int], side: int, bits: int, colour: int, channels: int
) -> None:
    """Copies of the whole took a gigabyte, and two where it was narrow."""
    data = png(*size, bits, colour, channels)
    found = run([sys.executable, "-c", MEASURE, str(side)], input=data, capture_output=True, check=True)
    assert int(found.stdout) < MOST_MIB * 1024
