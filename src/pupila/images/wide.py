"""Pictures of more than 8 bits a colour: which of their values is black and which is white.

Cameras and microscopes store 10, 12 or 14 bits in 16, and programs write floats from 0 to 1 or to 255. What is white is
chosen by the largest value. Where there are negative values, or none of the usual ranges fits, a picture is stretched
from its smallest value to its largest. TIFFs of numbers that Pillow reads wrong or not at all are read strip by strip.
"""

import io
import itertools
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from pupila.images import limits, tiff

WHITES = (255, 1023, 4095, 16383, 65535)
"""The largest values of 8, 10, 12, 14 and 16 bits."""
OVERSHOOT = 0.02
"""By how much of their range floats may pass its ends: enlarging a picture makes them do so."""
AT_ONCE = 2**20
"""Values that are converted at once: each takes a score of bytes meanwhile."""

GRAY_ALPHA = "LA;16B"
"""As Pillow names 16 bits of gray and of transparency."""
SCALED = "scaled"
"""In a picture's info: its values go up to 65535, whichever it uses."""
FLOATS = 3
LETTERS = {1: "u", 2: "i", 3: "f"}
"""What kind of number a value is, as NumPy names it."""
MAX_BYTES = 200_000_000
"""Of the unpacked numbers."""

Numbers = NDArray[Any]


def eight_bits(values: Numbers) -> NDArray[np.uint8]:
    """Return numbers of any type, [H, W] or [H, W, colours], as 0 to 255; what is no number counts as black."""
    blocks = [values[place] for place in _places(values.shape)]
    ends = [(part.min(), part.max()) for part in (part[np.isfinite(part)] for part in blocks) if part.size]
    low, high = min((float(a) for a, _ in ends), default=0.0), max((float(b) for _, b in ends), default=0.0)
    black, white = span(low, high, values.dtype.kind == "f")
    scale = 255.0 / (white - black) if white > black else 0.0
    result = np.empty(values.shape, np.uint8)
    for place, part in zip(_places(values.shape), blocks, strict=True):
        with np.errstate(all="ignore"):  # what makes no sense is black, and needs no remark
            plain = np.nan_to_num(part.astype(np.float64), nan=black, posinf=white, neginf=black)
            result[place] = np.clip((plain - black) * scale + 0.5, 0, 255)
    return result


def _places(shape: Sequence[int]) -> Iterator[tuple[int | slice, ...]]:
    """Yield where the blocks of an array stand, of AT_ONCE values each at most."""
    within = math.prod(shape[1:])
    if within > AT_ONCE:
        for first, rest in itertools.product(range(shape[0]), list(_places(shape[1:]))):
            yield first, *rest
    else:
        step = AT_ONCE // max(1, within)
        for at in range(0, shape[0], step):
            yield (slice(at, at + step),)


def span(low: float, high: float, floats: bool) -> tuple[float, float]:
    """Return the values that are black and white, for a picture's smallest and largest value."""
    extra = OVERSHOOT if floats else 0.0
    for white in (1, *WHITES) if floats else WHITES:
        if -extra * max(high, 0.0) <= low and high <= white * (1 + extra):
            return 0.0, float(white)
    return low, high


def narrowed(image: Image.Image) -> Image.Image:
    """Return a loaded picture of one colour with 8 bits a value."""
    values = np.asarray(image)
    pixels = (values // 257).astype(np.uint8) if image.info.get(SCALED) else eight_bits(values)
    if getattr(image, "tag_v2", {}).get(tiff.PHOTOMETRIC) == 0:  # in a TIFF 0 may be white, which Pillow passes over
        pixels = 255 - pixels
    small = Image.fromarray(pixels)
    small.info = image.info
    return small


class PpmNumbers(ImageFile.PyDecoder):
    """Scales the numbers of a PPM or PGM whose head says what is white: Pillow's own takes them one by one."""

    _pulls_fd = True

    def decode(self, buffer: Any) -> tuple[int, int]:
        """Set the pixels, as Pillow does; raises ValueError if they end early."""
        highest, is_wide = self.args[-1], self.mode == "I"
        kind, white = np.dtype("u1" if highest < 256 else ">u2"), WHITES[-1] if is_wide else WHITES[0]
        count = self.state.xsize * self.state.ysize * Image.getmodebands(self.mode)
        data = (self.fd or io.BytesIO(buffer)).read(count * kind.itemsize)
        scaled = np.rint(np.arange(256**kind.itemsize) / highest * white)
        table = np.minimum(scaled, white).astype("<i4" if is_wide else "u1")
        pixels = table[np.frombuffer(data, kind, len(data) // kind.itemsize)]
        self.set_as_raw(pixels.tobytes(), "I;32" if is_wide else self.mode)
        return -1, 0


Image.register_decoder("pupila_ppm", PpmNumbers)


def prepare_ppm(image: ImageFile.ImageFile) -> None:
    """Note of an unloaded PGM whether its head says what is white: its values are brought to 16 bits then."""
    codec, *_, arguments = image.tile[0]
    if image.mode == "I" and isinstance(arguments, tuple) and arguments[-1] < WHITES[-1]:
        image.info[SCALED] = True
    if codec == "ppm":
        image.tile = [image.tile[0]._replace(codec_name="pupila_ppm")]


def low_bytes(image: Image.Image) -> str | None:
    """Return how Pillow names the other half of each value, where an unloaded file has 16 bits a colour."""
    halves = {
        "RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "RGB;16N": "RGB;16B", "RGBA;16N": "RGBA;16B",
        GRAY_ALPHA: GRAY_ALPHA,
    }  # fmt: skip
    if image.format not in ("PNG", "TIFF") or not getattr(image, "tile", None):
        return None
    arguments = image.tile[0].args  # type: ignore[attr-defined]
    return halves.get(arguments[0] if isinstance(arguments, tuple) else arguments)


def joined(image: Image.Image, data: bytes, low: str) -> Image.Image:
    """Return a picture of 16 bits a colour, of which Pillow keeps the high bytes, brightened if it uses fewer bits."""
    highest = max(band[1] for band in image.getextrema()[:3])  # type: ignore[index]
    white = next(white for white in WHITES if highest <= white >> 8)
    if white == WHITES[-1]:
        return image
    other = _other_half(image, data, low)
    rows = max(1, AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        box = 0, top, image.width, min(top + rows, image.height)
        part, second = np.array(image.crop(box)), np.asarray(other.crop(box))
        values = part[..., :3].astype(np.uint32) * 256 + (second[..., 1:2] if low == GRAY_ALPHA else second[..., :3])
        part[..., :3] = np.minimum(values * 255 // white, 255)
        image.paste(Image.fromarray(part), box)
    return image


def _other_half(image: Image.Image, data: bytes, low: str) -> Image.Image:
    """Return a picture with the low bytes of each value; those of gray with transparency are in its second band."""
    if low == GRAY_ALPHA:  # a PNG with another head: one of four bytes a pixel
        head = data[12:24] + b"\x08\x06" + data[26:29]
        data = data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
        return Image.open(io.BytesIO(data), formats=["PNG"])
    other = Image.open(io.BytesIO(data), formats=[str(image.format)])
    other.tile = [
        tile._replace(args=(low, *tile.args[1:]) if isinstance(tile.args, tuple) else low) for tile in other.tile
    ]
    other.load()
    return other


class NumbersTiff(ImageFile.ImageFile):
    """A TIFF of numbers that Pillow reads wrong or not at all: RGB of 16 bits in planes, floats in colour, 64 bits.

    In strips, as they are or packed by deflate. Opening anything else fails, and is left to Pillow.
    """

    format = "TIFF"
    format_description = "TIFF of 16 to 64 bits a colour"

    def _open(self) -> None:
        self.content: bytes = self.fp.read()  # type: ignore[union-attr]
        self.tags = tiff.directory(self.content)
        samples, kind = self._one(tiff.SAMPLES, 1), self._one(tiff.KIND, 1)
        (size,) = set(self.tags.get(tiff.BITS, (1,)))
        wide = size in (16, 32, 64) and (samples > 1 or size != 16 or kind != 1)
        plain = self._one(tiff.PACKING, 1) in (1, 8, 32946) and tiff.TILES not in self.tags
        plain = plain and self._one(tiff.PREDICTOR, 1) in ((1, 2) if kind < FLOATS else (1,))
        if not wide or not plain or kind not in LETTERS or self._one(tiff.PHOTOMETRIC, 1) > 2 or not 1 <= samples <= 5:
            raise SyntaxError("a TIFF for Pillow")
        order = "<" if self.content.startswith(b"II") else ">"
        self.numbers = np.dtype(f"{order}{LETTERS[kind]}{size // 8}")
        self._size = self._one(tiff.WIDTH, 0), self._one(tiff.HEIGHT, 0)
        if not 0 < math.prod(self.size) * samples * self.numbers.itemsize <= MAX_BYTES:
            raise SyntaxError("too large for this way")
        transparent = self._one(tiff.EXTRA, 0) in (1, 2)
        self._mode = {1: "L", 2: "LA" if transparent else "L"}.get(samples, "RGBA" if transparent else "RGB")
        self.tag_v2 = {limits.ORIENTATION: self._one(limits.ORIENTATION, 1)}
        self.tile = []

    def _one(self, tag: int, default: int) -> int:
        return self.tags.get(tag, (default,))[0]

    def load(self) -> Any:
        """Read the numbers, as soon as they are asked for."""
        if self._im is None:
            values = self._values()
            colours = len(self.mode.rstrip("A"))
            pixels = eight_bits(values[..., :colours])
            if self._one(tiff.PHOTOMETRIC, 1) == 0:
                pixels = 255 - pixels
            if self.mode.endswith("A"):
                pixels = np.concatenate([pixels, eight_bits(values[..., colours : colours + 1])], axis=2)
            self.im = Image.fromarray(pixels[..., 0] if self.mode == "L" else pixels).im
        return super().load()

    def _values(self) -> Numbers:
        width, height = self.size
        samples, planes = self._one(tiff.SAMPLES, 1), self._one(tiff.PLANES, 1) == 2
        rows = min(self._one(tiff.ROWS_PER_STRIP, height), height)
        in_plane = math.ceil(height / rows)
        row_bytes = width * self.numbers.itemsize * (1 if planes else samples)
        strips = []
        for number in range(in_plane * (samples if planes else 1)):
            wanted = min(rows, height - number % in_plane * rows) * row_bytes
            start = self.tags[tiff.STRIPS][number]
            strip = self.content[start : start + self.tags[tiff.LENGTHS][number]]
            if self._one(tiff.PACKING, 1) != 1:
                strip = zlib.decompressobj().decompress(strip, wanted)
            if len(strip) < wanted:
                raise EOFError
            strips.append(strip[:wanted])
        values = np.frombuffer(b"".join(strips), self.numbers)
        pixels = values.reshape(height, width, samples)
        if planes:
            pixels = np.moveaxis(values.reshape(samples, height, width), 0, 2)
        return pixels.cumsum(axis=1, dtype=pixels.dtype) if self._one(tiff.PREDICTOR, 1) == 2 else pixels
