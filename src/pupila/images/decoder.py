"""Decodes, limits and resizes pictures: bytes or a file to uint8 pixels, the same code for training and for serving.

The whole picture is always kept: no crop. A photo that is not square is squashed, or with `letterbox` put between two
bars; training chooses which, and the manifest keeps it.
"""

import contextlib
import functools
import io
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from pupila.errors import ImageError
from pupila.images import boxes, formats, tiff, wide
from pupila.images.limits import ORIENTATION, ExcessError, PixelsError, Work, count_work, exif_orientation

Args = ParamSpec("Args")
Value = TypeVar("Value")
Pixels = NDArray[np.uint8]
"""uint8 [H, W, 3], RGB."""
PilImage = Image.Image
DecodeLock = Callable[[int], AbstractContextManager[None]]
"""Called with what decoding costs, in pixels; may block. Width x height, times scans / 10 for a JPEG of more than 10,
with what limits.Work adds, and all that three times for a JPEG without an end marker; as many as are allowed for a long
file or one of a rare format, before it is looked into, and for one of many parts, before they are read."""
FRAMINGS = ("squash", "letterbox")
"""How a photo that is not square becomes one: its sides scaled each for itself, or both alike with bars beside it."""
USUAL_SCANS = 10
"""Scans of a progressive JPEG as programs write it."""
UNIT = 32
"""Pixels a side that are decoded of a JPEG, at least."""
READING = 40
"""How many pixels of a JPEG are read in the time in which one is decoded: a smaller scale skips none of them."""
LEVEL = 3
"""zlib's, of the PNGs that are written: at its highest one, noise of two colours takes forty times as long."""
MANY_PARTS = 250_000
"""What the parts of a file may take, in pixels, to be read with its header before the lock is asked: 10 ms."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""
BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels."""
METADATA = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
"""Where Pillow keeps what may say how a picture is to be turned."""
BARS = (124, 116, 104)
"""Colour of the bars: the mean of ImageNet's pixels, so that the network sees next to nothing there."""
STRIP = 2**20
"""Pixels of a big picture that are shrunk at once."""
MAX_SIDE = 65_535
"""Pixels of the longer side, as in JPEG and GIF: Pillow takes eight bytes more for each row, and a row is not cut."""

# Our own limit is checked on the header and names the fix; Pillow's louder one stays as a second line of defence.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Pillow warns of odd metadata in words that the sender chooses: a way to fill a server's log.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
# Texts of a PNG, unpacked; Pillow's own 64 MiB take four times as much in memory.
PngImagePlugin.MAX_TEXT_MEMORY = 16 * 2**20


@dataclass(frozen=True)
class ImageLimits:
    """What one picture may cost: checked on the number of bytes, then on the header, before any pixel is decoded."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True)
class Header:
    """What a picture file says about itself before any pixel is decoded."""

    format: str
    """One of FORMATS."""
    mode: str
    """Pillow's name, like RGB, L, CMYK."""
    width: int
    height: int
    """Pixels, as stored: EXIF rotation not yet applied."""
    orientation: int
    """EXIF: 1 is upright, or there is none."""
    note: str = ""
    """What is odd about the file, which is used all the same."""


class _Opened(NamedTuple):
    kind: str
    """As formats.sniff() names it."""
    data: bytes
    image: Image.Image
    work: Work
    note: str
    held: bool
    """Whether the lock is held already, as looking into the file cost much."""


def _without_history(function: Callable[Args, Value]) -> Callable[Args, Value]:
    """Raise an ImageError without the errors that led to it: those keep the picture's bytes in memory."""

    @functools.wraps(function)
    def plain(*args: Args.args, **kwargs: Args.kwargs) -> Value:
        try:
            return function(*args, **kwargs)
        except ImageError as error:
            code, message = error.code, str(error)
        raise ImageError(code, message)

    return plain


def no_lock(_: int) -> AbstractContextManager[None]:
    """Never block."""
    return nullcontext()


@_without_history
def decode(
    source: bytes | Path | str,
    size: int,
    limits: ImageLimits = DEFAULT_LIMITS,
    framing: str = FRAMINGS[0],
    lock: DecodeLock = no_lock,
) -> Pixels:
    """Return the picture as uint8 [size, size, 3]: upright, on white, the whole of it, made square as `framing` says.

    `lock` is held while the pixels are decoded, for callers with many threads. Raises ImageError
    for anything that is not a whole picture within the limits; OSError if a path cannot be read.
    """
    data = read(source, limits) if isinstance(source, str | Path) else source
    with _decoded(data, size, limits, lock) as image:
        return _squared(image, size, framing)


@contextlib.contextmanager
def _decoded(data: bytes, size: int, limits: ImageLimits, lock: DecodeLock) -> Iterator[Image.Image]:
    """Decode a file, upright, in RGB, and shrunk if it is over four times the size: nothing else decodes one.

    The lock is held until the block ends.
    """
    with contextlib.ExitStack() as held:
        file = _open(data, limits, lock, held)
        reduced, pixels = _draft(file, size)
        if not file.held:
            held.enter_context(lock(pixels))
        yield _upright(_load(file, reduced), size)


def _most(limits: ImageLimits) -> int:
    return max(limits.max_pixels, DEFAULT_LIMITS.max_pixels)


def _draft(file: _Opened, size: int) -> tuple[tuple[int, int] | None, int]:
    """Have a big JPEG decoded at 1/2, 1/4 or 1/8, never below twice the size; return which size, and what it costs."""
    image, work = file.image, file.work
    least = UNIT if file.kind == "JPEG" else 1
    pixels = whole = _area(image, least) * max(work.passes, USUAL_SCANS) // USUAL_SCANS
    reduced = (2 * size, 2 * size) if min(image.size) >= 4 * size else None
    if reduced is not None:
        image.draft("RGB", reduced)
    if work.passes == 1:  # else all coefficients are kept, at whatever scale
        pixels = max(_area(image, least), whole // READING)  # of the size that was asked for
    times = formats.DECODINGS if formats.lacks_end(file.kind, file.data) else 1
    return reduced, times * (pixels + work.coded + work.parts)


def _area(image: Image.Image, least: int) -> int:
    return math.prod(max(side, least) for side in image.size)


@_without_history
def decode_image(
    picture: PilImage | Pixels, size: int, limits: ImageLimits = DEFAULT_LIMITS, framing: str = FRAMINGS[0]
) -> Pixels:
    """Return a PIL image or pixels [H, W, 3] that a program holds already as decode() returns a file's."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    if image.width * image.height > limits.max_pixels:
        raise _too_many_pixels(f"{image.width} x {image.height}", limits)
    if not min(image.size):
        raise ImageError("image_empty", "The picture has no pixels. Give one with a width and a height.")
    return _squared(_upright(image, size), size, framing)


@_without_history
def as_png(picture: PilImage | Pixels) -> bytes:
    """Return a PIL image or pixels [H, W, 3] as a PNG file: upright, on white, of full size."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    return encode_png(np.asarray(_upright(image, max(image.size))))


def _squared(whole: Image.Image, size: int, framing: str) -> Pixels:
    """Return uint8 [size, size, 3]: both sides scaled alike with bars around, or each for itself."""
    square = _scale(whole, (size, size)) if framing == "squash" else Image.new("RGB", (size, size), BARS)
    if framing != "squash":
        longer = max(whole.size)
        width, height = (max(1, round(side * size / longer)) for side in whole.size)
        square.paste(_scale(whole, (width, height)), ((size - width) // 2, (size - height) // 2))
    # What np.asarray(square) gives, in half the time: of small pictures it would be a tenth of all.
    return np.frombuffer(square.tobytes(), dtype=np.uint8).reshape(size, size, 3)


def _scale(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Antialiased bilinear resize of the whole picture; a picture of the right size passes untouched."""
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)


def resize(pixels: Pixels, size: int) -> Pixels:
    """Return pixels that come from elsewhere than a picture file as [size, size, 3], resized as decode() does it."""
    return np.asarray(_scale(Image.fromarray(pixels), (size, size)))


@_without_history
def header(source: bytes | Path | str, limits: ImageLimits = DEFAULT_LIMITS, lock: DecodeLock = no_lock) -> Header:
    """Return what the header says; raises as decode() does, for nothing that comes after the header.

    `lock` is that of decode(), asked only where a header may cost much.
    """
    data = read(source, limits) if isinstance(source, str | Path) else source
    with contextlib.ExitStack() as held:
        file = _open(data, limits, lock, held)
    image = file.image
    with _named(file.kind, data, limits):
        orientation = _orientation(image)
    note = "It has no end marker." if formats.lacks_end(file.kind, data) else file.note
    return Header(image.format or "", image.mode, image.width, image.height, orientation, note)


def stack(pictures: Sequence[Pixels]) -> NDArray[np.uint8]:
    """Join N pictures of one size into uint8 [N, H, W, 3]."""
    return np.stack(pictures) if len(pictures) > 1 else pictures[0][np.newaxis]


def encode_png(pixels: Pixels) -> bytes:
    """Return the pixels as a PNG file, which decodes to exactly the same pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=LEVEL)
    return buffer.getvalue()


@_without_history
def plain_png(data: bytes, longest: int, limits: ImageLimits = DEFAULT_LIMITS, lock: DecodeLock = no_lock) -> bytes:
    """Return a picture file's pixels as a PNG without metadata: upright, on white, at most `longest` pixels a side.

    `lock` and errors are those of decode().
    """
    with _decoded(data, longest // 4, limits, lock) as image:
        image.thumbnail((longest, longest), Image.Resampling.BILINEAR)
    return encode_png(np.asarray(image))


@_without_history
def read(path: Path | str, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """Return a picture file's bytes; raises ImageError if there are more than the limit, which are not read."""
    descriptor = os.open(path, os.O_RDONLY)  # no file object: for a small picture that costs as much as reading it
    try:
        size = os.fstat(descriptor).st_size
        if size > limits.max_bytes:
            raise _too_many_bytes(size, limits)
        data = os.read(descriptor, limits.max_bytes + 1)
        while len(data) != size and len(data) <= limits.max_bytes and (more := os.read(descriptor, 2**20)):
            data += more  # only ever of a pipe, or of a file that is on a network
        return data
    finally:
        os.close(descriptor)


def _open(data: bytes, limits: ImageLimits, lock: DecodeLock, held: contextlib.ExitStack) -> _Opened:
    """Read the header; the lock is put into `held` first where that may cost much. Raises ImageError."""
    if not data:
        raise ImageError("image_empty", "The picture is empty (0 bytes). Send the file's content.")
    if len(data) > limits.max_bytes:
        raise _too_many_bytes(len(data), limits)
    rare = formats.is_rare(data)
    if rare:
        held.enter_context(lock(_most(limits)))
    kind = formats.sniff(data)
    with _named(kind, data, limits):
        work = count_work(kind, data)
    if not rare and work.parts > MANY_PARTS:
        rare = True
        held.enter_context(lock(_most(limits)))
    with _named(kind, data, limits):
        if kind in ("HEIF", "AVIF"):
            data = boxes.check(data, limits.max_pixels)
        if kind == "TIFF":
            tiff.check_tiles(data, limits.max_pixels)
        data, wrong = formats.without_wrong_texts(data) if kind == "PNG" else (data, "")
        image, note = formats.open_header(kind, data)
    if image.width * image.height > limits.max_pixels:
        raise _too_many_pixels(f"{image.width} x {image.height}", limits)
    if max(image.size) > MAX_SIDE:
        message = (
            f"A side of {max(image.size):,} pixels is over the limit of {MAX_SIDE:,}. Cut it into several pictures."
        )
        raise ImageError("image_too_many_pixels", message)
    return _Opened(kind, data, image, work, wrong or note, rare)


@contextlib.contextmanager
def _named(kind: str, data: bytes, limits: ImageLimits) -> Iterator[None]:
    """Raise what goes wrong while a file is looked into as an ImageError that names it."""
    try:
        yield
    except PixelsError as error:
        raise _too_many_pixels(str(error), limits) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels("The picture's size", limits) from None
    except Exception as error:  # Pillow's parsers raise nearly any type on hostile headers
        raise _failed(kind, data, error) from None


def _too_many_bytes(size: int, limits: ImageLimits) -> ImageError:
    message = f"The picture has {size:,} bytes, over the limit of {limits.max_bytes:,}. Make it smaller."
    return ImageError("image_too_many_bytes", message)


def _too_many_pixels(what: str, limits: ImageLimits) -> ImageError:
    megapixels = limits.max_pixels / 1e6
    return ImageError("image_too_many_pixels", f"{what} is over the limit of {megapixels:g} megapixels. Scale it down.")


def _load(file: _Opened, reduced: tuple[int, int] | None) -> Image.Image:
    low = wide.low_bytes(file.image) if file.kind in ("PNG", "TIFF") else None
    try:
        try:
            file.image.load()
        except Exception:  # of nearly any type
            mended = formats.load_damaged(file.kind, file.data, reduced)
            if mended is None:
                raise
            return mended
        return wide.joined(file.image, file.data, low) if low else file.image
    except Exception as error:
        raise _failed(file.kind, file.data, error) from None


def _upright(image: Image.Image, size: int) -> Image.Image:
    """Return the picture upright and in RGB, shrunk if it is over four times the size.

    A palette or transparency that makes no sense counts as damage.
    """
    try:
        image.load()
        turn = TURNS.get(_orientation(image))
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # one colour of more than 8 bits
            image = wide.narrowed(image)
        if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
            image = image.convert("RGB")  # most programs leave its fourth byte empty, and mean no transparency
        small = _small_rgb(image, size)
        return small if turn is None else small.transpose(turn)
    except Exception as error:  # Pillow raises ValueError, AssertionError and more
        raise _failed("", b"", error) from None


def _failed(kind: str, data: bytes, error: Exception) -> ImageError:
    if isinstance(error, ImageError):
        return error
    if isinstance(error, ExcessError):
        return ImageError("image_too_complex", f"The picture has {error}. Save it again with another program.")
    if isinstance(error, MemoryError | RecursionError):
        message = "The picture takes more memory than there is. Save it again with another program."
        return ImageError("image_too_complex", message)
    what = formats.unusual(kind, data, error)
    if what is not None:
        return formats.unrecognised(what, formats.SAVE)
    return ImageError("image_truncated", "The picture is cut off or damaged. Send the whole file.")


def _orientation(image: Image.Image) -> int:
    """Return the orientation by EXIF, or else by XMP: 1 is upright, or it is not said or damaged."""
    info = image.info
    if not info.keys() & METADATA and image.format != "TIFF":
        return 1  # as small pictures mostly are: asking on costs a twentieth of decoding one
    if image.format == "TIFF" and (value := image.tag_v2.get(ORIENTATION)):  # type: ignore[attr-defined]
        return int(value) if value in TURNS else 1
    block = info.get("exif")
    if not isinstance(block, bytes):
        block = b""  # a PNG's text of that name
    if not block and (text := info.get("Raw profile type exif")):
        with contextlib.suppress(ValueError):
            block = bytes.fromhex("".join(text.split("\n", 3)[3:]))  # which passes over further line ends
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    return exif_orientation(block, xmp if isinstance(xmp, bytes) else b"")  # a TIFF's may be numbers


def _without_palette(image: Image.Image) -> Image.Image:
    """Return a picture whose neighbouring pixels can be averaged."""
    if image.has_transparency_data and image.mode not in ("RGBA", "LA"):
        return image.convert("RGBA")
    return image.convert("RGB") if image.mode in ("P", "1") else image


def _small_rgb(image: Image.Image, size: int) -> Image.Image:
    """Return a picture in RGB, a big one at no less than four times the size.

    Strip by strip, as copies in other modes take up to four times what the picture does.
    """
    factor = max(1, min(image.size) // (4 * size))
    width, height = image.size
    rows = factor * max(1, STRIP // (factor * width))
    if height <= rows:
        return _reduced(image, factor)
    strips = (_reduced(image.crop((0, top, width, min(top + rows, height))), factor) for top in range(0, height, rows))
    small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for number, strip in enumerate(strips):
        small.paste(strip, (0, number * rows // factor))
    return small


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    plain = _without_palette(image)
    return _to_rgb(plain.reduce(factor) if factor > 1 else plain)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Turn any mode into RGB: 16 bit to 8, CMYK to RGB, transparency onto the background."""
    if image.mode == "RGB":
        return image
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        image = Image.alpha_composite(canvas, layer)
    return image.convert("RGB")
