"""Formats that Pillow decodes in Python are decoded by decoders of ours: as Pillow does, within a bounded time."""

import io
import random
import struct
import time

import pytest
from PIL import Image

from pupila import images
from pupila.errors import ImageError
from pupila.images import formats, quick
from pupila.images.limits import MAX_PLAIN

MAX_BYTES = images.DEFAULT_LIMITS.max_bytes
SOON = 2.0
"""Seconds of processor time: Pillow's decoders take from ten up."""


def bmp(width: int, height: int, body: bytes, bits: int = 8) -> bytes:
    """Return a BMP packed as runs."""
    colours = bytes(value for number in range(1 << bits) for value in (number, 7 * number % 256, 255 - number, 0))
    start = 14 + 40 + len(colours)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 1 if bits == 8 else 2, len(body), 0, 0, 1 << bits, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + colours + body


def runs(seed: int, number: int, bits: int) -> bytes:
    """Return runs of every kind, and one that fills what is left."""
    chance, body = random.Random(seed), b""
    for _ in range(number):
        kind = chance.choice(["run", "row", "step", "one by one"])
        if kind == "run":
            body += bytes((chance.randrange(1, 9), chance.randrange(256)))
        elif kind == "row":
            body += b"\0\0"
        elif kind == "step":
            body += bytes((0, 2, chance.randrange(5), chance.randrange(2)))
        else:
            count = chance.randrange(3, 9)
            stored = chance.randbytes((count * bits + 7) // 8)
            body += bytes((0, count)) + stored + bytes(len(stored) % 2)
    return body + (b"\x11\x35" + b"\0\0") * 40


def decoded(kind: str, data: bytes, ours: bool) -> bytes | None:
    try:
        image = formats.open_header(kind, data)[0] if ours else Image.open(io.BytesIO(data), formats=[kind])
        return image.convert("RGB").tobytes() if image.mode == "P" else image.tobytes()
    except (ValueError, OSError):
        return None


@pytest.mark.parametrize("bits", [4, 8])
def test_runs_give_the_pixels_that_pillow_gives(bits: int) -> None:
    pixels = [[decoded("BMP", bmp(17, 12, runs(seed, 12, bits), bits), ours) for seed in range(200)] for ours in (0, 1)]
    assert pixels[0] == pixels[1]
    assert sum(each is not None for each in pixels[0]) > 100


@pytest.mark.parametrize("head", [b"P5 9 7 254\n", b"P5 9 7 1\n", b"P5 9 7 4095\n", b"P6 9 7 100\n", b"P6 9 7 1023\n"])
def test_numbers_give_the_pixels_that_pillow_gives(head: bytes) -> None:
    files = [head + random.Random(seed).randbytes(length) for seed in range(20) for length in (378, 126, 20)]
    assert [decoded("PPM", data, True) for data in files] == [decoded("PPM", data, False) for data in files]
    assert decoded("PPM", files[0], True)


@pytest.mark.parametrize("kind", [b"P1 9 7\n", b"P2 9 7 255\n", b"P2 9 7 99\n", b"P2 9 7 4095\n", b"P3 9 7 31\n"])
@pytest.mark.parametrize("between", [b" ", b"\n\t ", b" # remark 1 2\n ", b"\r#\r"])
def test_text_gives_the_pixels_that_pillow_gives(kind: bytes, between: bytes) -> None:
    most = 2 if kind[1:2] == b"1" else int(kind.split()[-1]) + 1
    numbers = [b"%d" % random.Random(seed).randrange(most) for seed in range(9 * 7 * 3)]
    whole = kind + between.join(numbers) + b"\n"
    files = [
        whole,
        whole[:40],
        kind,
        kind + b"-1 " * 200,
        kind + b"70000 " * 200,
        kind + b"9" * 400,
        whole + b"\n# end",
    ]
    assert [decoded("PPM", data, True) for data in files] == [decoded("PPM", data, False) for data in files]
    assert decoded("PPM", whole, True)


def test_none_of_the_decoders_that_pillow_has_in_python_is_used() -> None:
    Image.init()
    modules = {Image.OPEN[kind][0].__module__ for kind in formats.FORMATS if kind in Image.OPEN}
    in_python = {name for name, decoder in Image.DECODERS.items() if decoder.__module__ in modules}
    assert in_python == set(quick.REPLACED)


def numbers_of_text(head: bytes, number: bytes) -> bytes:
    return head + number * ((MAX_PLAIN - len(head)) // len(number))


SLOW = {
    "runs, one row": bmp(50_000_000, 1, b"\1\0\0\0\0\1"),
    "runs of four bits": bmp(50_000_000, 1, b"\1\0\0\0\0\1", 4),
    "runs, many": bmp(700, 700, (b"\1\1" * 700 + b"\0\0") * 700),
    "runs, most pixels": bmp(7_000, 7_000, (b"\xff\1" * 28 + b"\0\0") * 7_000),
    "numbers": b"P5 10000 2000 254\n" + bytes(20_000_000),
    "numbers of two bytes": b"P5 5000 2000 4095\n" + bytes(20_000_000),
    "numbers, colours": b"P6 3000 2200 254\n" + bytes(19_800_000),
    "text": numbers_of_text(b"P2 1448 1448 255\n", b"1 "),
    "text, bits": numbers_of_text(b"P1 2047 2047\n", b"1"),
    "text, comments": numbers_of_text(b"P2 1000 1000 255\n", b"#\n1 "),
}


@pytest.mark.parametrize("name", SLOW)
def test_picture_that_took_python_long_is_decoded_soon(name: str) -> None:
    begun = time.process_time()
    try:
        assert images.decode(SLOW[name], 32).shape == (32, 32, 3)
    except ImageError as error:
        assert error.code == "image_truncated"
    assert time.process_time() - begun < SOON


def test_too_many_runs_are_refused() -> None:
    begun = time.process_time()
    with pytest.raises(ImageError, match="more than 500,000 parts") as caught:
        images.decode(bmp(1000, 1000, b"\0\0" * (MAX_BYTES // 2 - 1_000)), 32)
    assert caught.value.code == "image_too_complex"
    assert time.process_time() - begun < SOON
