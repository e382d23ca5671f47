"""TIFFs of numbers that Pillow reads wrong or not at all, read strip by strip into 8 bits."""

import math
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from pupila.images import exif
from pupila.images.wide import Numbers, eight_bits

WIDTH, HEIGHT, BITS, PACKING, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIPS, SAMPLES, ROWS_PER_STRIP, LENGTHS, PLANES = 273, 277, 278, 279, 284
PREDICTOR, TILES, TILE_LENGTHS, EXTRA, KIND = 317, 324, 325, 338, 339
FLOATS = 3
LETTERS = {1: "u", 2: "i", 3: "f"}
"""What kind of number a value is, as NumPy names it."""
MAX_BYTES = 200_000_000
"""Of the unpacked numbers."""


class NumbersTiff(ImageFile.ImageFile):
    """A TIFF of numbers that Pillow reads wrong or not at all: RGB of 16 bits in planes, floats in colour, 64 bits.

    In strips, as they are or packed by deflate. Opening anything else fails, and is left to Pillow.
    """

    format = "TIFF"
    format_description = "TIFF of 16 to 64 bits a colour"

    def _open(self) -> None:
        self.content: bytes = self.fp.read()  # type: ignore[union-attr]
        self.tags = directory(self.content)
        samples, kind = self._one(SAMPLES, 1), self._one(KIND, 1)
        (size,) = set(self.tags.get(BITS, (1,)))
        wide = size in (16, 32, 64) and (samples > 1 or size != 16 or kind != 1)
        plain = self._one(PACKING, 1) in (1, 8, 32946) and TILES not in self.tags
        plain = plain and self._one(PREDICTOR, 1) in ((1, 2) if kind < FLOATS else (1,))
        if not wide or not plain or kind not in LETTERS or self._one(PHOTOMETRIC, 1) > 2 or not 1 <= samples <= 5:
            raise SyntaxError("a TIFF for Pillow")
        order = "<" if self.content.startswith(b"II") else ">"
        self.numbers = np.dtype(f"{order}{LETTERS[kind]}{size // 8}")
        self._size = self._one(WIDTH, 0), self._one(HEIGHT, 0)
        if not 0 < math.prod(self.size) * samples * self.numbers.itemsize <= MAX_BYTES:
            raise SyntaxError("too large for this way")
        transparent = self._one(EXTRA, 0) in (1, 2)
        self._mode = {1: "L", 2: "LA" if transparent else "L"}.get(samples, "RGBA" if transparent else "RGB")
        self.tag_v2 = {exif.ORIENTATION: self._one(exif.ORIENTATION, 1)}
        self.tile = []

    def _one(self, tag: int, default: int) -> int:
        return self.tags.get(tag, (default,))[0]

    def load(self) -> Any:
        """Read the numbers, as soon as they are asked for."""
        if self._im is None:
            values = self._values()
            colours = len(self.mode.rstrip("A"))
            pixels = eight_bits(values[..., :colours])
            if self._one(PHOTOMETRIC, 1) == 0:
                pixels = 255 - pixels
            if self.mode.endswith("A"):
                pixels = np.concatenate([pixels, eight_bits(values[..., colours : colours + 1])], axis=2)
            self.im = Image.fromarray(pixels[..., 0] if self.mode == "L" else pixels).im
        return super().load()

    def _values(self) -> Numbers:
        """Return all numbers, [H, W, values a pixel]."""
        width, height = self.size
        samples, planes = self._one(SAMPLES, 1), self._one(PLANES, 1) == 2
        rows = min(self._one(ROWS_PER_STRIP, height), height)
        in_plane = math.ceil(height / rows)
        row_bytes = width * self.numbers.itemsize * (1 if planes else samples)
        strips = []
        for number in range(in_plane * (samples if planes else 1)):
            wanted = min(rows, height - number % in_plane * rows) * row_bytes
            start = self.tags[STRIPS][number]
            strip = self.content[start : start + self.tags[LENGTHS][number]]
            if self._one(PACKING, 1) != 1:
                strip = zlib.decompressobj().decompress(strip, wanted)
            if len(strip) < wanted:
                raise EOFError
            strips.append(strip[:wanted])
        values = np.frombuffer(b"".join(strips), self.numbers)
        pixels = values.reshape(height, width, samples)
        if planes:
            pixels = np.moveaxis(values.reshape(samples, height, width), 0, 2)
        return pixels.cumsum(axis=1, dtype=pixels.dtype) if self._one(PREDICTOR, 1) == 2 else pixels


def directory(data: bytes) -> dict[int, tuple[int, ...]]:
    """Return the whole numbers in the first directory of a TIFF, by tag; raises struct.error for what is cut off."""
    block = memoryview(data)
    first = exif.first_directory(block)
    if first is None:
        raise SyntaxError("no TIFF")
    layout, at = first
    found = {}
    for entry in exif.entries(block, layout, at):
        letter = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(entry.kind)
        if letter and 0 < entry.values <= exif.MAX_VALUES:
            pattern = f"{layout.order}{entry.values}{letter}"
            short = struct.calcsize(pattern) <= len(entry.field)
            place = (entry.field, 0) if short else (block, entry.place(layout))
            found[entry.tag] = struct.unpack_from(pattern, *place)
    return found


def is_misread(data: bytes) -> bool:
    """True for colours of more than 8 bits in planes: Pillow takes the bytes of one for those of several."""
    tags = directory(data)
    return tags.get(PLANES, (1,))[0] == 2 and max(tags.get(BITS, (1,))) > 8 and tags.get(SAMPLES, (1,))[0] > 1


def unusual(data: bytes) -> str | None:
    """Return what kind of TIFF it is, if all its parts are there; None for one that is cut off."""
    try:
        tags = directory(data)
        parts = (STRIPS, LENGTHS) if STRIPS in tags else (TILES, TILE_LENGTHS)
        starts, lengths = tags[parts[0]], tags[parts[1]]
    except (SyntaxError, struct.error, KeyError):
        return None
    if any(start + length > len(data) for start, length in zip(starts, lengths, strict=False)):
        return None
    kind = {1: "", 2: "signed ", 3: "float "}.get(tags.get(KIND, (1,))[0], "odd ")
    bits, packing = tags.get(BITS, (1,))[0], tags.get(PACKING, (1,))[0]
    return f"a TIFF of a kind that is not read ({kind}{bits} bits, compression {packing})"
