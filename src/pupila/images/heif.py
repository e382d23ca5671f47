"""HEIC and HEIF, as phones write them, by libheif: read by the package pi-heif, which has no encoder."""

import io
from collections.abc import Callable
from functools import cache

from PIL import Image

from pupila.errors import ImageError


def opened(data: bytes) -> Image.Image:
    """Read the header of a HEIF file; the picture is turned upright while it is decoded, as the file says."""
    return _opener()(io.BytesIO(data))


@cache
def _opener() -> Callable[[io.BytesIO], Image.Image]:
    try:
        from pi_heif import options  # takes 0.1 s, which only those wait for who have such pictures
        from pi_heif.as_plugin import HeifImageFile
    except ImportError:
        message = "HEIC is read by the package pi-heif, which is missing. Install it with: pip install pi-heif"
        raise ImageError("image_unrecognised", message) from None
    options.DECODE_THREADS = 1
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    opener: Callable[[io.BytesIO], Image.Image] = HeifImageFile
    return opener
