"""Bounds the tiles and strips of a TIFF: libtiff unpacks one as a whole, which may be far larger than the picture."""

import math

from pupila.images.limits import ExcessError, PixelsError, entries, first_directory
from pupila.images.wide import BITS, HEIGHT, ROWS_PER_STRIP, SAMPLES, WIDTH

TILE_WIDTH, TILE_HEIGHT = 322, 323
READ = (WIDTH, HEIGHT, BITS, SAMPLES, ROWS_PER_STRIP, TILE_WIDTH, TILE_HEIGHT)
MAX_TIMES = 2
"""How often the largest picture that is allowed all tiles may cover: those at its edges hang over them."""
MAX_BITS = 64
"""Bits a pixel of the largest tile: four colours of 16."""
MAX_SAMPLES = 64
"""Numbers of one entry that are looked at: Pillow reads at most six colours."""


def check_tiles(data: bytes, max_pixels: int) -> int:
    """Return how many pixels the tiles or strips of a TIFF cover.

    Raises PixelsError if those or the bytes of one tile are far more than a picture of so many pixels has, ExcessError
    if two entries contradict each other, of which decoders take one or the other, and struct.error for what is cut off.
    """
    tags = _numbers(data)
    width, height = tags.get(WIDTH, 0), tags.get(HEIGHT, 0)
    tile_width, tile_height = tags.get(TILE_WIDTH, 0), tags.get(TILE_HEIGHT, 0)
    if not tile_width or not tile_height:
        tile_width, tile_height = width, min(tags.get(ROWS_PER_STRIP, height), height)
    if not tile_width or not tile_height:
        return 0  # for decoders to refuse
    tile = tile_width * tile_height
    covered = tile * math.ceil(width / tile_width) * math.ceil(height / tile_height)
    if covered > MAX_TIMES * max_pixels or tile * tags.get(BITS, 1) * tags.get(SAMPLES, 1) > MAX_BITS * max_pixels:
        raise PixelsError("What its tiles or strips cover")
    return covered


def _numbers(data: bytes) -> dict[int, int]:
    """Return by tag the largest number of what is looked at in the first directory."""
    block = memoryview(data)
    first = first_directory(block)
    found: dict[int, int] = {}
    if first is None:
        return found
    for entry in entries(block, *first):
        numbers = entry.numbers(block, first[0], MAX_SAMPLES) if entry.tag in READ else ()
        if numbers and found.setdefault(entry.tag, max(numbers)) != max(numbers):
            raise ExcessError("more than one size")
    return found
