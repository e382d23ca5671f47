"""From bytes to pixels: the only code that decodes and resizes pictures."""

from pupila.images.decoder import (
    DEFAULT_LIMITS,
    FORMATS,
    FRAMINGS,
    Gate,
    Header,
    ImageLimits,
    Pixels,
    decode,
    encode_png,
    header,
    open_gate,
    plain_png,
    resize,
    sides,
    stack,
)

__all__ = [
    "DEFAULT_LIMITS",
    "FORMATS",
    "FRAMINGS",
    "Gate",
    "Header",
    "ImageLimits",
    "Pixels",
    "decode",
    "encode_png",
    "header",
    "open_gate",
    "plain_png",
    "resize",
    "sides",
    "stack",
]
