"""From bytes to pixels: the only code that decodes and resizes pictures."""

from pupila.images.decoder import (
    DEFAULT_LIMITS,
    FRAMINGS,
    DecodeLock,
    Header,
    ImageLimits,
    PilImage,
    Pixels,
    as_png,
    decode,
    decode_image,
    encode_png,
    header,
    no_lock,
    plain_png,
    read,
    resize,
    stack,
)
from pupila.images.formats import FORMATS

__all__ = [
    "DEFAULT_LIMITS",
    "FORMATS",
    "FRAMINGS",
    "DecodeLock",
    "Header",
    "ImageLimits",
    "PilImage",
    "Pixels",
    "as_png",
    "decode",
    "decode_image",
    "encode_png",
    "header",
    "no_lock",
    "plain_png",
    "read",
    "resize",
    "stack",
]
