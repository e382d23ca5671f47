"""Pictures of more than 8 bits a colour: which of their values is black and which is white.

Cameras and microscopes store 10, 12 or 14 bits in 16, and programs write floats from 0 to 1 or to 255. What is white is
chosen by the largest value. Where there are negative values, or none of the usual ranges fits, a picture is stretched
from its smallest value to its largest.
"""

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WHITES = (255, 1023, 4095, 16383, 65535)
"""The largest values of 8, 10, 12, 14 and 16 bits."""
OVERSHOOT = 0.02
"""By how much of their range floats may pass its ends: enlarging a picture makes them do so."""
ROWS = 2**20
"""Values that are converted at once."""

Numbers = NDArray[Any]


def eight_bits(values: Numbers) -> NDArray[np.uint8]:
    """Return numbers of any type, [H, W] or [H, W, colours], as 0 to 255; what is no number counts as black."""
    step = max(1, ROWS // max(1, math.prod(values.shape[1:])))
    parts = [values[at : at + step] for at in range(0, len(values), step)]
    ends = [(part.min(), part.max()) for part in (_finite(part) for part in parts) if part.size]
    low, high = min((float(a) for a, _ in ends), default=0.0), max((float(b) for _, b in ends), default=0.0)
    black, white = span(low, high, values.dtype.kind == "f")
    scale = 255.0 / (white - black) if white > black else 0.0
    result = np.empty(values.shape, np.uint8)
    for number, part in enumerate(parts):
        with np.errstate(all="ignore"):  # what makes no sense is black, and needs no remark
            plain = np.nan_to_num(part.astype(np.float64), nan=black, posinf=white, neginf=black)
        result[number * step : (number + 1) * step] = np.clip((plain - black) * scale + 0.5, 0, 255)
    return result


def _finite(part: Numbers) -> Numbers:
    return part[np.isfinite(part)] if part.dtype.kind == "f" else part


def span(low: float, high: float, floats: bool) -> tuple[float, float]:
    """Return the values that are black and white, for a picture's smallest and largest value."""
    extra = OVERSHOOT if floats else 0.0
    for white in (1, *WHITES) if floats else WHITES:
        if -extra * max(high, 0.0) <= low and high <= white * (1 + extra):
            return 0.0, float(white)
    return low, high


def is_wide(image: Image.Image) -> bool:
    """True for a loaded picture of one colour whose values have more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def narrowed(image: Image.Image) -> Image.Image:
    """Return a loaded picture of one colour with 8 bits a value."""
    small = Image.fromarray(eight_bits(np.asarray(image)))
    small.info = image.info
    return small


def low_bytes(image: Image.Image) -> str | None:
    """Return how Pillow names the other half of each value, where an unloaded file has 16 bits a colour."""
    halves = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "RGB;16N": "RGB;16B", "RGBA;16N": "RGBA;16B"}
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
    other = Image.open(io.BytesIO(data), formats=[str(image.format)])
    other.tile = [
        tile._replace(args=(low, *tile.args[1:]) if isinstance(tile.args, tuple) else low) for tile in other.tile
    ]
    other.load()
    rows = max(1, ROWS // image.width)
    for top in range(0, image.height, rows):
        box = 0, top, image.width, min(top + rows, image.height)
        part = np.array(image.crop(box))
        values = part[..., :3].astype(np.uint32) * 256 + np.asarray(other.crop(box))[..., :3]
        part[..., :3] = np.minimum(values * 255 // white, 255)
        image.paste(Image.fromarray(part), box)
    return image
