"""Decoders in place of those that Pillow has in Python, which take a pixel or a number at a time: a minute for a file.

They give the same pixels, and hold for the picture that use() is called with, not for all that Pillow opens.
"""

import io
import re
from abc import ABC, abstractmethod
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from pupila.images.limits import ExcessError

MAX_RUNS = 500_000
"""Runs of a BMP that is packed as runs: half a microsecond each."""
COMMENT = re.compile(rb"#[^\r\n]*+[\r\n]?")
DIGITS = re.compile(rb"[\d\s]*+")
BITS = re.compile(rb"[01\s]*+")
BLANKS = b" \t\n\r\x0b\x0c"
FROM_HEX = bytes.maketrans(b"0123456789abcdef", bytes(range(16)))
PAIRS = [bytes((value >> 4, value & 15)) for value in range(256)]
SINGLE = [bytes((value,)) for value in range(256)]
BLACK_AND_WHITE = bytes.maketrans(b"01", b"\xff\x00")

Values = NDArray[np.integer[Any]]


class _Decoder(ImageFile.PyDecoder, ABC):
    """Reads a picture from its file all at once."""

    _pulls_fd = True

    def decode(self, buffer: Any) -> tuple[int, int]:
        """Set the pixels; raises ExcessError if that takes too long, ValueError if they end early."""
        self.set_from(self.fd or io.BytesIO(buffer))
        return -1, 0

    @abstractmethod
    def set_from(self, file: IO[bytes]) -> None:
        """Set the pixels that stand in the file from where it is."""

    @property
    def numbers(self) -> int:
        """Return how many there are: pixels times colours."""
        return self.state.xsize * self.state.ysize * Image.getmodebands(self.mode)

    def set_numbers(self, values: Values, highest: int) -> None:
        """Set the pixels by their values, of which `highest` is white."""
        wide = self.mode == "I"
        white = 65535 if wide else 255
        table = np.rint(np.arange(65536 if highest > 255 else 256) / highest * white)
        pixels = np.minimum(table, white).astype("<i4" if wide else "u1")[values]
        self.set_as_raw(pixels.tobytes(), "I;32" if wide else self.mode)


class Runs(_Decoder):
    """A BMP of 4 or 8 bits that is packed as runs (RLE4, RLE8)."""

    def set_from(self, file: IO[bytes]) -> None:
        """Unpack the runs; raises ExcessError for too many."""
        start = file.tell()
        rawmode = "L" if self.mode in ("1", "L") else "P"
        pixels = _unpacked(file.read(), start, self.state.xsize, self.state.ysize, self.args[1])
        self.set_as_raw(bytes(pixels), rawmode, (0, self.args[-1]))


def _unpacked(data: bytes, start: int, width: int, height: int, nibbles: bool) -> bytearray:
    """Return the pixels of runs, from the lowest row on; `start` is where in the file they stand."""
    pixels, wanted = bytearray(), width * height
    at = x = runs = 0
    while len(pixels) < wanted and at + 2 <= len(data):
        runs += 1
        if runs > MAX_RUNS:
            raise ExcessError(f"more than {MAX_RUNS:,} parts packed as runs")
        length, value = data[at], data[at + 1]
        at += 2
        left = wanted - len(pixels)
        if length:
            length = min(length, max(0, width - x))
            pixels += (PAIRS[value] * 128)[:length] if nibbles else SINGLE[value] * length
            x += length
        elif value == 0:  # the end of a row
            pixels += bytes(-len(pixels) % width)
            x = 0
        elif value == 1:  # the end of all
            break
        elif value == 2:  # a step to the right and up
            if at + 2 > len(data):
                break
            pixels += bytes(min(left, data[at] + data[at + 1] * width))
            x, at = len(pixels) % width, at + 2
        else:  # pixels one by one
            count = min(value, left)
            stored = data[at : at + ((count + 1) // 2 if nibbles else count)]
            pixels += stored.hex().encode().translate(FROM_HEX)[:count] if nibbles else stored
            x, at = x + value, at + len(stored)
            at += (start + at) % 2
    return pixels


class Numbers(_Decoder):
    """A PPM or PGM whose largest value is not 255 or 65535."""

    def set_from(self, file: IO[bytes]) -> None:
        """Scale the numbers, which have one byte or two."""
        kind = np.dtype("u1" if self.args[-1] < 256 else ">u2")
        data = file.read(self.numbers * kind.itemsize)
        self.set_numbers(np.frombuffer(data, kind, len(data) // kind.itemsize), self.args[-1])


class Text(_Decoder):
    """A PPM, PGM or PBM whose numbers are written as text."""

    def set_from(self, file: IO[bytes]) -> None:
        """Scale the numbers up to the first letter that is none; raises ValueError for one that is too large."""
        bits = self.mode == "1"
        found = (BITS if bits else DIGITS).match(COMMENT.sub(b"", file.read()))
        digits = found[0] if found else b""
        if bits:
            self.set_as_raw(digits.translate(BLACK_AND_WHITE, BLANKS)[: self.numbers], "1;8")
            return
        if not digits.strip():
            raise ValueError
        values = np.fromstring(digits, np.int64, sep=" ")[: self.numbers]
        if values.max() > self.args[-1]:
            raise ValueError
        self.set_numbers(values, self.args[-1])


REPLACED = {"bmp_rle": Runs, "ppm": Numbers, "ppm_plain": Text}
"""Pillow's names of those that it has in Python for the formats that are read."""
for _name, _decoder in REPLACED.items():
    Image.register_decoder(f"pupila_{_name}", _decoder)


def use(image: Image.Image) -> None:
    """Have a picture that is not loaded yet decoded by these."""
    if isinstance(image, ImageFile.ImageFile):
        image.tile = [
            tile._replace(codec_name=f"pupila_{tile.codec_name}") if tile.codec_name in REPLACED else tile
            for tile in image.tile
        ]
