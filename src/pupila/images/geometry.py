"""Turns an opened picture upright, converts it to RGB and makes it square.

Whatever makes no sense in a picture ends in an exception of any type: decoder.py, the caller, reports damage.
"""

import contextlib

from PIL import Image

from pupila.images import exif, wide

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


def upright(image: Image.Image, size: int) -> Image.Image:
    """Return the picture upright and in RGB, shrunk if it is over four times the size."""
    turn = TURNS.get(orientation(image))
    if wide.is_wide(image):
        image = wide.narrowed(image)
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        image = image.convert("RGB")  # most programs leave its fourth byte empty, and mean no transparency
    small = _to_rgb(_shrunk(image, size))
    return small if turn is None else small.transpose(turn)


def squashed(image: Image.Image, size: int) -> Image.Image:
    """Antialiased bilinear resize of the whole picture; a picture of the right size passes untouched."""
    return _scale(image, (size, size))


def letterboxed(image: Image.Image, size: int) -> Image.Image:
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


def orientation(image: Image.Image) -> int:
    """Return the orientation by EXIF, or else by XMP: 1 is upright, or it is not said or damaged."""
    info = image.info
    if not info.keys() & METADATA and image.format != "TIFF":
        return 1  # as small pictures mostly are: asking on costs a twentieth of decoding one
    if image.format == "TIFF" and (value := image.tag_v2.get(exif.ORIENTATION)):  # type: ignore[attr-defined]
        return value if value in TURNS else 1
    block = info.get("exif") or b""
    if not block and (text := info.get("Raw profile type exif")):
        with contextlib.suppress(ValueError):
            block = bytes.fromhex("".join(text.split("\n")[3:]))
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    return exif.orientation(block, xmp.encode() if isinstance(xmp, str) else bytes(xmp))


def _without_palette(image: Image.Image) -> Image.Image:
    """Return a picture whose neighbouring pixels can be averaged."""
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
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        image = Image.alpha_composite(canvas, layer)
    return image.convert("RGB")
