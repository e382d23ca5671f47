"""Tiles of a TIFF that are far larger than the picture are refused before libtiff makes room for one."""

import lzma
import struct
import sys
import time
import zlib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
from PIL import Image
from server_kit import encode, picture, serving, write_model

from pupila import images
from pupila.errors import ImageError

GROUP4, DEFLATE = 4, 8
LIMITS = images.ImageLimits(max_pixels=1_000_000)
Row = tuple[int, int, int, int]


def tiff(
    tile: tuple[int, int], *more: Row, side: int = 64, bits: int = 1, packing: int = GROUP4, samples: int = 1,
    data: bytes = b"",
) -> bytes:  # fmt: skip
    """Return a TIFF of one tile, whose pixels are missing but for `data`; `more` stands behind the other entries."""
    rows = [
        (256, 3, 1, side), (257, 3, 1, side), (258, 3, 1, bits), (259, 3, 1, packing), (262, 3, 1, 0),
        (277, 3, 1, samples), (322, 4, 1, tile[0]), (323, 4, 1, tile[1]), (324, 4, 1, 0), (325, 4, 1, len(data)), *more,
    ]  # fmt: skip
    end = 8 + 2 + 12 * len(rows) + 4
    rows = [(*row[:3], end if row[0] == 324 else row[3]) for row in rows]
    entries = b"".join(struct.pack("<HHII", *row) for row in rows)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(rows)) + entries + bytes(4) + data


WHITE = b"\xff" * 15_000 + b"\x00\x10\x01"
HUGE = {
    "tile": tiff((120_000, 120_000), data=WHITE),
    "tile, one side": tiff((64, 2**31 - 64), data=WHITE),
    "tile, samples": tiff((10_000, 5_000), bits=16, samples=6, packing=DEFLATE, data=bytes(100)),
    "tile, signed": tiff((64, 64), side=64, data=WHITE).replace(
        struct.pack("<HHII", 322, 4, 1, 64), struct.pack("<HHII", 322, 9, 1, 2**32 - 1)),
    "tiles that hang over": tiff((16, 2_000_000), side=60, data=WHITE),
    "strip": tiff((0, 0), (278, 4, 1, 60_000), side=60_000, data=WHITE),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_tile_of_far_more_pixels_than_the_picture_is_refused(name: str) -> None:
    with pytest.raises(ImageError, match=r"over the limit of 50 megapixels") as caught:
        images.decode(HUGE[name], 32)
    assert caught.value.code == "image_too_many_pixels"


def strips(count: int, size: int, packing: int, *more: Row, bits: int = 8, said: bool = True) -> bytes:
    """Return a TIFF of one column, each of whose strips is the same bytes."""
    rows = [
        (256, 3, 1, 1), (257, 4, 1, count), (258, 3, 1, bits), (259, 3, 1, packing), (262, 3, 1, 1),
        (273, 4, count, 0), (277, 3, 1, 1), (278, 3, 1, 1), *[(279, 4, count, 4 * count)] * said, *more,
    ]  # fmt: skip
    end = 8 + 2 + 12 * len(rows) + 4
    rows = sorted((*row[:3], row[3] + end if row[0] in (273, 279) else row[3]) for row in rows)
    entries = b"".join(struct.pack("<HHII", *row) for row in rows)
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(rows)) + entries + bytes(4)
    places = struct.pack("<I", end + 8 * count) * count + struct.pack("<I", size) * count
    return head + places + bytes(size)


FLOATS, BACKWARDS, PACKBITS = (339, 3, 1, 3), (266, 3, 1, 2), 32773
SHARED = {
    "numbers": strips(20_000, 19 * 2**20, 1, FLOATS, bits=32),
    "packed numbers": strips(20_000, 19 * 2**20, DEFLATE, FLOATS, bits=32),
    "bits backwards": strips(20_000, 2**20, PACKBITS, BACKWARDS),
    "bits backwards, of lengths unsaid": strips(20_000, 2**20, PACKBITS, BACKWARDS, said=False),
}


@pytest.mark.parametrize("name", SHARED)
def test_strips_that_share_bytes_are_refused_at_once(name: str) -> None:
    """They took a minute: all bytes of each strip were copied, or turned round."""
    begun = time.process_time()
    with pytest.raises(ImageError, match="more tiles or strips than bytes") as caught:
        images.decode(SHARED[name], 32)
    assert caught.value.code == "image_too_complex"
    assert time.process_time() - begun < 0.5


def test_few_strips_that_share_bytes_are_read() -> None:
    assert images.decode(strips(100, 1_000, PACKBITS), 32).shape == (32, 32, 3)


def packed_by_lzma(dictionary: int) -> bytes:
    """Return a strip of zeros whose packer says how much memory unpacking it takes, as a power of two."""
    data = lzma.compress(bytes(64), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**dictionary}])
    return tiff((8, 8), side=8, bits=8, packing=34925, data=data)


def test_strip_of_lzma_takes_no_memory() -> None:
    """It took a gigabyte; the packer may say up to four."""
    code = "import resource, sys; from pupila import images, errors\n"
    code += "size = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; data = sys.stdin.buffer.read()\n"
    code += "before = size()\ntry: images.decode(data, 32)\nexcept errors.ImageError as error: print(error.code)\n"
    code += "print(size() - before)"
    found = run([sys.executable, "-c", code], input=packed_by_lzma(30), capture_output=True, check=True)
    refusal, growth = found.stdout.split()
    assert refusal == b"image_too_complex" and int(growth) < 50_000


def test_two_sizes_of_which_decoders_take_one_are_refused() -> None:
    with pytest.raises(ImageError, match="entries that contradict each other") as caught:
        images.decode(tiff((64, 64), (322, 4, 1, 120_000), data=WHITE), 32)
    assert caught.value.code == "image_too_complex"


def test_huge_tile_takes_no_memory_of_a_server(tmp_path: Path) -> None:
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", '{"port": 0, "workers": 1}') as server:
        for _ in range(10):
            server.predict(picture())
        before = server.memory()
        for _ in range(3):
            refusal = server.predict(HUGE["tile"])
            assert (refusal.status_code, refusal.json()["error"]["code"]) == (413, "image_too_many_pixels")
        assert server.memory() - before < 5


def test_most_memory_of_a_huge_tile() -> None:
    """In a process of its own, whose most memory is known."""
    code = """
import contextlib, resource, sys
from pupila import errors, images
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with contextlib.suppress(errors.ImageError):
    images.decode(data, 32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = run([sys.executable, "-c", code], input=HUGE["tile"], capture_output=True, check=True, timeout=60)
    assert int(done.stdout) < 50_000  # KiB


def test_large_tile_counts_as_a_large_picture() -> None:
    asked = []

    def lock(pixels: int) -> AbstractContextManager[None]:
        asked.append(pixels)
        return nullcontext()

    data = tiff((4_096, 2_048), bits=8, packing=DEFLATE, data=zlib.compress(bytes(4_096 * 2_048)))
    assert images.decode(data, 32, lock=lock).shape == (32, 32, 3)
    assert asked == [images.DEFAULT_LIMITS.max_pixels]  # as any TIFF does


@pytest.mark.parametrize("packing", ["raw", "tiff_deflate", "tiff_lzw", "jpeg", "packbits"])
def test_ordinary_strips_and_tiles_are_read(packing: str) -> None:
    gray = Image.fromarray(np.full((900, 1_100), 200, np.uint8))
    for plain in (gray, gray.convert("RGB"), gray.convert("CMYK")):
        data = encode(plain, "TIFF", compression=packing)
        assert abs(int(images.decode(data, 32, LIMITS).mean()) - 200) < 3
    if packing == "tiff_deflate":
        tile = tiff((256, 256), side=200, bits=8, packing=DEFLATE, data=zlib.compress(bytes(256 * 256)))
        assert images.decode(tile, 32).min() == 255
