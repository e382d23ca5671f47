"""WebP by libwebp itself: the pixels that Pillow gives, in less memory."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pupila.images import webp

COLOURS = np.random.default_rng(0).integers(0, 255, (5, 7, 4)).astype(np.uint8)


def encoded(mode: str, lossless: bool, size: tuple[int, int] = (61, 43)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(COLOURS).convert(mode).resize(size).save(buffer, "WEBP", lossless=lossless)
    return buffer.getvalue()


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_pixels_are_those_that_pillow_gives(mode: str, lossless: bool) -> None:
    data = encoded(mode, lossless)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    pixels = webp.decode(data, 61, 43)
    assert pixels is not None
    assert np.array_equal(np.frombuffer(pixels, np.uint8).reshape(43, 61, 4), expected)


@pytest.mark.parametrize("data", [b"", b"RIFF", encoded("RGB", True)[:60], encoded("RGB", False)[:-40]])
def test_what_is_cut_off_is_not_decoded(data: bytes) -> None:
    Image.open(io.BytesIO(encoded("RGB", True))).load()  # so that Pillow has the library loaded
    assert webp.decode(data, 61, 43) is None


def test_larger_picture_than_announced_is_not_written_past_the_end() -> None:
    assert webp.decode(encoded("RGB", False), 61, 42) is None


MEASURE = """
import resource, sys
from pupila import images
data = sys.stdin.buffer.read()
images.decode(data, 32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_four_megapixels_take_little_memory() -> None:
    small, big = (
        int(subprocess.run([sys.executable, "-c", MEASURE], input=data, capture_output=True, check=True).stdout)
        for data in (encoded("RGB", False), encoded("RGB", False, (2000, 2000)))
    )
    assert big - small < 2000 * 2000 * 4 * 2 / 1024  # the pixels once, and some room; Pillow's own way takes four times
