"""From bytes or a file to uint8 pixels: the only decode, limit and resize code, used by training and by serving alike.

Knows nothing of models, data sets or HTTP. The whole picture is always kept: no crop. A photo that is not square is
squashed, or with `letterbox` put between two bars: which of them is chosen by training and kept in the manifest.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin

from pupila import structure, webp
from pupila.errors import ImageError

Pixels = NDArray[np.uint8]
"""uint8 [H, W, 3], RGB."""

Gate = Callable[[int], AbstractContextManager[None]]
"""Asked for leave to decode so many pixels; it may make the caller wait. Of a JPEG with more scans than programs write,
each pixel counts as often as it is gone through more than usual."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "AVIF")
"""What is decoded, recognised by content and not by name. A short list keeps rarely used decoders out of reach."""

OPENERS = tuple(kind for kind in FORMATS if kind != "MPO")
"""Pillow's openers: the one for JPEG yields MPO, and a name without an opener would end the search."""

MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
"""How picture files begin: what begins so and cannot be read is damaged, not foreign."""

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

FRAMINGS = ("squash", "letterbox")
"""How a photo that is not square becomes one: its sides scaled each for itself, or both alike with bars beside it."""

BARS = (124, 116, 104)
"""Colour of the bars: the mean of ImageNet's pixels, so that the network sees next to nothing there."""

USUAL_SCANS = 10
"""Scans of a progressive JPEG as programs write it."""

STRIP = 2**20
"""Pixels of a big picture that are shrunk at once."""

MAX_EXIF = 2**20
"""Bytes of an EXIF block in which an orientation is looked for: a JPEG's has 64 kB."""

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


def open_gate(_: int) -> AbstractContextManager[None]:
    """Let everybody through at once."""
    return nullcontext()


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
        upright = _convert(_load(image, data), size)
        square = _letterbox(upright, size) if framing == "letterbox" else _resize(upright, size)
    # What np.asarray(square) gives, in half the time: of small pictures it would be a tenth of all.
    return np.frombuffer(square.tobytes(), dtype=np.uint8).reshape(size, size, 3)


def resize(pixels: Pixels, size: int) -> Pixels:
    """Return pixels that come from elsewhere than a picture file as [size, size, 3], resized as decode() does it."""
    return np.asarray(_resize(Image.fromarray(pixels), size))


def sides(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Return width and height in pixels as stored, from the header alone; raises ImageError as decode() does."""
    return _open(data, limits)[0].size


def header(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Header:
    """Return what the header says; raises ImageError as decode() does, for nothing that comes after the header."""
    image, _ = _open(data, limits)
    return Header(image.format or "", image.mode, image.width, image.height, _orientation(image))


def stack(pictures: Sequence[Pixels]) -> NDArray[np.uint8]:
    """Join N pictures of one size into uint8 [N, H, W, 3]."""
    return np.stack(pictures) if len(pictures) > 1 else pictures[0][np.newaxis]


def encode_png(pixels: Pixels) -> bytes:
    """Return the pixels as a PNG file, which decodes to exactly the same pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def plain_png(data: bytes, longest: int, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """Return a picture file's pixels as a PNG without metadata: upright, on white, at most `longest` pixels a side.

    Raises ImageError as decode() does.
    """
    image = _convert(_load(_open(data, limits)[0], data), longest // 4)
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
        image = Image.open(io.BytesIO(data), formats=OPENERS)
    except structure.ExcessError as error:
        message = f"The picture has {error}. Save it again with another program."
        raise ImageError("image_too_complex", message) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels("The picture's size", limits) from error
    except Exception as error:  # Pillow's parsers raise nearly any type on hostile headers
        if (frame := _first_webp_frame(data)) is not None:
            return _open(frame, limits)
        if data.startswith(MAGIC) or _is_webp(data):
            raise _damaged() from error
        kind = "HEIC cannot be read" if data[8:12] in HEIC_BRANDS else "Not a picture that can be read"
        raise ImageError("image_unrecognised", f"{kind}. Send one of {', '.join(FORMATS)}.") from error
    if image.width * image.height > limits.max_pixels:
        raise _too_many_pixels(f"{image.width} x {image.height}", limits)
    return image, passes


def _too_many_pixels(what: str, limits: ImageLimits) -> ImageError:
    megapixels = limits.max_pixels / 1e6
    return ImageError("image_too_many_pixels", f"{what} is over the limit of {megapixels:g} megapixels. Scale it down.")


def _load(image: Image.Image, data: bytes) -> Image.Image:
    """Return the picture with its pixels; an animation's first."""
    try:
        if image.format == "WEBP" and not getattr(image, "is_animated", False):
            pixels = webp.decode(data, *image.size)
            if pixels is not None:
                return _of_webp(image, pixels)
        image.load()
    except Exception as error:
        raise _damaged() from error
    return image


def _of_webp(image: Image.Image, pixels: bytearray) -> Image.Image:
    """Return the picture that has these pixels, R, G, B, A, without copying them."""
    mode = "RGBA" if image.mode == "RGBA" else "RGBX"
    loaded = Image.frombuffer(mode, image.size, pixels, "raw", mode, 0, 1)
    loaded.info = image.info  # where its orientation is
    return loaded


def _convert(image: Image.Image, size: int) -> Image.Image:
    """Return the picture upright and in RGB; a palette or transparency that makes no sense counts as damage."""
    orientation = _orientation(image)
    try:
        small = _to_rgb(_shrunk(image, size))
        return small.transpose(TURNS[orientation]) if orientation in TURNS else small
    except Exception as error:  # Pillow raises ValueError, AssertionError and more
        raise _damaged() from error


def _damaged() -> ImageError:
    return ImageError("image_truncated", "The picture is cut off or damaged. Send the whole file.")


def _without_palette(image: Image.Image) -> Image.Image:
    """Return a picture whose neighbouring pixels can be averaged."""
    if image.mode.startswith("I;16"):
        return image.convert("I")
    if image.has_transparency_data and image.mode not in ("RGBA", "LA"):
        return image.convert("RGBA")
    return image.convert("RGB") if image.mode in ("P", "1") else image


def _shrunk(image: Image.Image, size: int) -> Image.Image:
    """Return a big picture at no less than four times the size, so that what follows costs little memory.

    Strip by strip, as copies in other modes take up to four times what the picture does.
    """
    factor = min(image.size) // (4 * size)
    if factor <= 1:
        return _without_palette(image)
    width, height = image.size
    rows = factor * max(1, STRIP // (factor * width))
    strips = [
        _without_palette(image.crop((0, top, width, min(top + rows, height)))).reduce(factor)
        for top in range(0, height, rows)
    ]
    small = Image.new(strips[0].mode, (strips[0].width, sum(strip.height for strip in strips)))
    for number, strip in enumerate(strips):
        small.paste(strip, (0, number * rows // factor))
    small.info = strips[0].info
    return small


def _to_rgb(image: Image.Image) -> Image.Image:
    """Turn any mode into RGB: 16 bit to 8, CMYK to RGB, transparency onto the background."""
    if image.mode == "RGB":
        return image
    if image.mode in ("I", "F"):
        image = _eight_bit(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        image = Image.alpha_composite(canvas, layer)
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale gray values of 16 bit (65,535 is white), or floats in 0 to 1, to 8 bit."""
    values = np.asarray(image, dtype=np.float64)
    scale = 255.0 if image.mode == "F" and values.max(initial=0.0) <= 1.0 else 255.0 / 65535.0
    return Image.fromarray(np.clip(np.nan_to_num(values) * scale + 0.5, 0, 255).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; a damaged EXIF block counts as none."""
    if image.format == "JPEG" and not image.info.keys() & {"exif", "xmp"}:
        return 1  # as small pictures mostly are: asking on costs a twentieth of decoding one
    if len(image.info.get("exif", b"")) > MAX_EXIF:
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _first_webp_frame(data: bytes) -> bytes | None:
    """Return the first frame of an animated WebP as a picture of its own, None if there is no whole one.

    Pillow's decoder wants all frames whole before it gives the first. The layout is that of RFC 9649, section 2.7.
    """
    start = 12
    while _is_webp(data) and start + 8 <= len(data):
        kind, length = data[start : start + 4], int.from_bytes(data[start + 4 : start + 8], "little")
        body = data[start + 8 : start + 8 + length]
        if kind == b"ANMF" and len(body) == length > 16:
            alpha = 0x10 if body[16:20] == b"ALPH" else 0
            extended = b"VP8X" + (10).to_bytes(4, "little") + bytes([alpha, 0, 0, 0]) + body[6:12]
            content = b"WEBP" + extended + body[16:]
            return b"RIFF" + len(content).to_bytes(4, "little") + content
        start += 8 + length + length % 2
    return None


def _resize(image: Image.Image, size: int) -> Image.Image:
    """Antialiased bilinear resize of the whole picture; a picture of the right size passes untouched."""
    return _scale(image, (size, size))


def _letterbox(image: Image.Image, size: int) -> Image.Image:
    """Scale both sides alike, so that the longer one fits, and put the picture in the middle of a square."""
    longer = max(image.size)
    width, height = (max(1, round(side * size / longer)) for side in image.size)
    square = Image.new("RGB", (size, size), BARS)
    square.paste(_scale(image, (width, height)), ((size - width) // 2, (size - height) // 2))
    return square


def _scale(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
