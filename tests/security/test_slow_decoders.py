"""What Pillow decodes in Python is bounded, or decoded by a decoder of ours as Pillow does."""

import io
import os
import random
import struct
import time
from pathlib import Path

import pytest
from heif_kit import box, heif
from PIL import Image

from pupila import images
from pupila.errors import ImageError
from pupila.images import boxes, formats
from pupila.images.limits import MAX_SLOW

SOON = 4.0
"""Seconds of processor time: Pillow's decoders take from ten up."""


def bmp(width: int, height: int, body: bytes, bits: int = 8) -> bytes:
    """Return a BMP packed as runs."""
    colours = bytes(value for number in range(1 << bits) for value in (number, 7 * number % 256, 255 - number, 0))
    start = 14 + 40 + len(colours)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 1 if bits == 8 else 2, len(body), 0, 0, 1 << bits, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + colours + body


def decoded(kind: str, data: bytes, ours: bool) -> bytes | None:
    try:
        image = formats.open_header(kind, data)[0] if ours else Image.open(io.BytesIO(data), formats=[kind])
        return image.convert("RGB").tobytes() if image.mode == "P" else image.tobytes()
    except (ValueError, OSError):
        return None


@pytest.mark.parametrize("head", [b"P5 9 7 254\n", b"P5 9 7 1\n", b"P5 9 7 4095\n", b"P6 9 7 100\n", b"P6 9 7 1023\n"])
def test_numbers_give_the_pixels_that_pillow_gives(head: bytes) -> None:
    files = [head + random.Random(seed).randbytes(length) for seed in range(20) for length in (378, 126, 20)]
    assert [decoded("PPM", data, True) for data in files] == [decoded("PPM", data, False) for data in files]
    assert decoded("PPM", files[0], True)


def test_decoders_that_pillow_has_in_python_are_known() -> None:
    Image.init()
    modules = {Image.OPEN[kind][0].__module__ for kind in formats.FORMATS if kind in Image.OPEN}
    in_python = {name for name, decoder in Image.DECODERS.items() if decoder.__module__ in modules}
    assert in_python == {"bmp_rle", "ppm", "ppm_plain"}  # "ppm" is replaced, the others are bounded


@pytest.mark.parametrize("bits", [4, 8])
def test_bmp_packed_as_runs_is_read(bits: int) -> None:
    pixels = decoded("BMP", bmp(200, 3, (b"\xc8\x55" + b"\0\0") * 3, bits), True)
    assert pixels is not None and len(set(pixels[::3])) == 1


@pytest.mark.parametrize(
    "text", [b"P1 9 7\n" + b"10" * 32, b"P2 9 7 99\n#\n" + b"31 " * 63, b"P3 9 7 255 " + b"7\n" * 189]
)
def test_numbers_written_as_text_are_read(text: bytes) -> None:
    assert images.decode(text, 8).max() > 0


def numbers_of_text(head: bytes, number: bytes) -> bytes:
    return head + number * ((MAX_SLOW - len(head)) // len(number))


SLOW = {
    "runs, few rows": bmp(65_000, 61, b"\1\0\0\0\0\1"),
    "runs of four bits": bmp(65_000, 61, b"\xff\1" * 16_000, 4),
    "runs, many": bmp(1400, 1400, (b"\1\1" * 1400 + b"\0\0") * 1400),
    "runs behind the end of a row": bmp(1000, 1000, b"\xff\1" * 2_000_000),
    "runs, most pixels": bmp(2_000, 2_000, (b"\xff\1" * 8 + b"\0\0") * 2_000),
    "numbers": b"P5 10000 2000 254\n" + bytes(20_000_000),
    "numbers of two bytes": b"P5 5000 2000 4095\n" + bytes(20_000_000),
    "numbers, colours": b"P6 3000 2200 254\n" + bytes(19_800_000),
    "text": numbers_of_text(b"P2 1448 1448 255\n", b"1 "),
    "text, bits": numbers_of_text(b"P1 2047 2047\n", b"1"),
    "text, comments": b"P2 1000 1000 255\n" + b"#\n1 " * 1_000 + b"1 " * 2_000_000,
}
MUCH = {
    "runs, pixels": bmp(50_000_000, 1, b"\1\0\0\0\0\1"),
    "runs, from the top": bmp(7_000, -7_000, b"\1\0\0\0\0\1"),
    "runs, bytes": bmp(1000, 1000, b"\0\0" * (MAX_SLOW // 2)),
    "text": b"P2 2000 2000 255\n" + b"1 " * (MAX_SLOW // 2),
    "comments": numbers_of_text(b"P2 1000 1000 255\n", b"#\n1 "),
}


@pytest.mark.parametrize("name", SLOW)
def test_picture_that_took_python_long_is_decoded_soon(name: str) -> None:
    begun = time.process_time()
    try:
        assert images.decode(SLOW[name], 32).shape == (32, 32, 3)
    except ImageError as error:
        assert error.code == "image_truncated"
    assert time.process_time() - begun < SOON


@pytest.mark.parametrize("name", MUCH)
def test_more_than_python_decodes_soon_is_refused(name: str) -> None:
    begun = time.process_time()
    with pytest.raises(ImageError, match="more than") as caught:
        images.decode(MUCH[name], 32)
    assert caught.value.code == "image_too_complex"
    assert time.process_time() - begun < 0.1


@pytest.mark.parametrize("tiles", [0, 40])
def test_avif_is_decoded_by_one_thread(tiles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow takes one a core of the machine, whatever share of it is given, for each decoder of a grid's tiles."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    coded = encoded(Image.effect_noise((64, 64) if tiles else (640, 640), 90).convert("RGB"))
    data = grid(coded, tiles) if tiles else coded
    image, _ = formats.open_header("AVIF", boxes.check(data, 50_000_000))
    before = len(list(Path("/proc/self/task").iterdir()))
    image.load()
    assert image.size == (64 * tiles or 640, 64 if tiles else 640)
    assert len(list(Path("/proc/self/task").iterdir())) == before


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "AVIF", speed=10)
    return file.getvalue()


def grid(tile: bytes, count: int) -> bytes:
    """Return an AVIF of so many tiles side by side, of which the last has an operating point of its own."""
    kinds = {1: b"grid"} | dict.fromkeys(range(2, count + 2), b"av01")
    setup = tile.index(b"av1C") - 4
    contents = dict.fromkeys(kinds, tile[tile.index(b"mdat") + 4 :])
    contents[1] = struct.pack(">BBBBHH", 0, 0, 0, count - 1, 64 * count, 64)
    links = [(b"dimg", 1, range(2, count + 2))]
    owned = [(count + 1, box(b"a1op", b"\1"))]
    return heif(kinds, links, {1: (64 * count, 64)}, contents, setup=tile[setup : setup + 12], owned=owned)
