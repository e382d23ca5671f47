"""From bytes or a file to uint8 pixels: the only decode, limit and resize code, used by training and by serving alike.

Knows nothing of models, data sets or HTTP. The whole picture is always kept: no crop. A photo that is not square is
squashed, or with `letterbox` put between two bars: which of them is chosen by training and kept in the manifest.
"""

import functools
import io
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from pupila.errors import ImageError
from pupila.images import limits as structure
from pupila.images.exif import ExcessError
from pupila.images.geometry import letterboxed, orientation, squashed, upright

Args = ParamSpec("Args")
Value = TypeVar("Value")

Pixels = NDArray[np.uint8]
"""uint8 [H, W, 3], RGB."""

PilImage = Image.Image

Gate = Callable[[int], AbstractContextManager[None]]
"""Asked for leave to decode so many pixels; it may make the caller wait. Of a JPEG with more scans than programs write,
each pixel counts as often as it is gone through more than usual."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "AVIF")
"""What is decoded, recognised by content and not by name. A short list keeps rarely used decoders out of reach."""

OPENERS = tuple(kind for kind in FORMATS if kind != "MPO")
"""Pillow's openers: the one for JPEG yields MPO, and a name without an opener would end the search."""

MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
"""How picture files begin: what begins so and cannot be read is damaged, not foreign."""

FRAMINGS = ("squash", "letterbox")
"""How a photo that is not square becomes one: its sides scaled each for itself, or both alike with bars beside it."""

USUAL_SCANS = 10
"""Scans of a progressive JPEG as programs write it."""

HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
"""What stands at byte 8 of the pictures that iPhones take."""

# Our own limit is checked on the header and names the fix; Pillow's louder one stays as a second line of defence.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Pillow warns of odd metadata in words that the sender chooses: a way to fill a server's log.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
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


def open_gate(_: int) -> AbstractContextManager[None]:
    """Let everybody through at once."""
    return nullcontext()


@_without_history
def decode(
    source: bytes | Path,
    size: int,
    limits: ImageLimits = DEFAULT_LIMITS,
    framing: str = FRAMINGS[0],
    gate: Gate = open_gate,
) -> Pixels:
    """Return the picture as uint8 [size, size, 3]: upright, on white, the whole of it, made square as `framing` says.

    `gate` is entered with the number of pixels while they are decoded, for callers with many threads. Raises ImageError
    for anything that is not a whole picture within the limits; OSError if a path cannot be read.
    """
    data = source.read_bytes() if isinstance(source, Path) else source
    image, passes = _open(data, limits)
    pixels = image.width * image.height * max(passes, USUAL_SCANS) // USUAL_SCANS
    if min(image.size) >= 4 * size:  # JPEG only: decodes at 1/2, 1/4 or 1/8, never below twice the size
        image.draft("RGB", (2 * size, 2 * size))
    if passes == 1 and "progressive" not in image.info:  # else all coefficients are kept, at whatever scale
        pixels = image.width * image.height
    with gate(pixels):
        return _squared(_upright(_load(image), size), size, framing)


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
    return _squared(_upright(_load(image), size), size, framing)


@_without_history
def as_png(picture: PilImage | Pixels) -> bytes:
    """Return a PIL image or pixels [H, W, 3] as a PNG file: upright, on white, of full size."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    return encode_png(np.asarray(_upright(_load(image), max(image.size))))


def _squared(whole: Image.Image, size: int, framing: str) -> Pixels:
    square = letterboxed(whole, size) if framing == "letterbox" else squashed(whole, size)
    # What np.asarray(square) gives, in half the time: of small pictures it would be a tenth of all.
    return np.frombuffer(square.tobytes(), dtype=np.uint8).reshape(size, size, 3)


def resize(pixels: Pixels, size: int) -> Pixels:
    """Return pixels that come from elsewhere than a picture file as [size, size, 3], resized as decode() does it."""
    return np.asarray(squashed(Image.fromarray(pixels), size))


@_without_history
def sides(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Return width and height in pixels as stored, from the header alone; raises ImageError as decode() does."""
    return _open(data, limits)[0].size


@_without_history
def header(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Header:
    """Return what the header says; raises ImageError as decode() does, for nothing that comes after the header."""
    image, _ = _open(data, limits)
    return Header(image.format or "", image.mode, image.width, image.height, orientation(image))


def stack(pictures: Sequence[Pixels]) -> NDArray[np.uint8]:
    """Join N pictures of one size into uint8 [N, H, W, 3]."""
    return np.stack(pictures) if len(pictures) > 1 else pictures[0][np.newaxis]


def encode_png(pixels: Pixels) -> bytes:
    """Return the pixels as a PNG file, which decodes to exactly the same pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@_without_history
def plain_png(data: bytes, longest: int, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """Return a picture file's pixels as a PNG without metadata: upright, on white, at most `longest` pixels a side.

    Raises ImageError as decode() does.
    """
    image = _upright(_load(_open(data, limits)[0]), longest // 4)
    image.thumbnail((longest, longest), Image.Resampling.BILINEAR)
    return encode_png(np.asarray(image))


def _open(data: bytes, limits: ImageLimits) -> tuple[Image.Image, int]:
    """Read the header only, and check the limits against it; return how often decoding goes through the pixels, too."""
    if not data:
        raise ImageError("image_empty", "The picture is empty (0 bytes). Send the file's content.")
    if len(data) > limits.max_bytes:
        raise ImageError(
            "image_too_many_bytes",
            f"The picture has {len(data):,} bytes, over the limit of {limits.max_bytes:,}. Make it smaller.",
        )
    try:
        passes = structure.passes(data)
        image = _opened(data)
    except ExcessError as error:
        raise ImageError("image_too_complex", f"The picture has {error}. Save it again with another program.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels("The picture's size", limits) from None
    except Exception as error:  # Pillow's parsers raise nearly any type on hostile headers
        if data.startswith(MAGIC) or structure.is_webp(data):
            raise _failed(error) from None
        kind = "HEIC cannot be read" if data[8:12] in HEIC_BRANDS else "Not a picture that can be read"
        raise ImageError("image_unrecognised", f"{kind}. Send one of {', '.join(FORMATS)}.") from None
    if image.width * image.height > limits.max_pixels:
        raise _too_many_pixels(f"{image.width} x {image.height}", limits)
    return image, passes


def _opened(data: bytes) -> Image.Image:
    """Read the header; of an animated WebP that is not whole, that of its first frame."""
    try:
        return Image.open(io.BytesIO(data), formats=OPENERS)
    except Exception:  # of nearly any type
        frame = structure.first_frame(data)
        if frame is None:
            raise
    return Image.open(io.BytesIO(frame), formats=OPENERS)


def _too_many_pixels(what: str, limits: ImageLimits) -> ImageError:
    megapixels = limits.max_pixels / 1e6
    return ImageError("image_too_many_pixels", f"{what} is over the limit of {megapixels:g} megapixels. Scale it down.")


def _load(image: Image.Image) -> Image.Image:
    """Return the picture with its pixels; an animation's first."""
    try:
        image.load()
    except Exception as error:
        raise _failed(error) from None
    return image


def _upright(image: Image.Image, size: int) -> Image.Image:
    """Return the picture upright and in RGB; a palette or transparency that makes no sense counts as damage."""
    try:
        return upright(image, size)
    except Exception as error:  # Pillow raises ValueError, AssertionError and more
        raise _failed(error) from None


def _failed(error: Exception) -> ImageError:
    """Return what is wrong with a picture for which a decoder raised this."""
    if isinstance(error, MemoryError | RecursionError):
        message = "The picture takes more memory than there is. Save it again with another program."
        return ImageError("image_too_complex", message)
    return ImageError("image_truncated", "The picture is cut off or damaged. Send the whole file.")
