"""The first directory of a TIFF: what its tiles may cost, and whether it is of a kind that no decoder here reads.

libtiff unpacks a tile or a strip as a whole, which may be far larger than the picture.
"""

import contextlib
import itertools
import math
import struct

from pupila.images import limits

WIDTH, HEIGHT, BITS, PACKING, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIPS, SAMPLES, ROWS_PER_STRIP, LENGTHS, PLANES = 273, 277, 278, 279, 284
PREDICTOR, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_LENGTHS, EXTRA, KIND = 317, 322, 323, 324, 325, 338, 339
READ = (
    WIDTH, HEIGHT, BITS, PACKING, PHOTOMETRIC, STRIPS, SAMPLES, ROWS_PER_STRIP, LENGTHS, PLANES, PREDICTOR, TILE_WIDTH,
    TILE_HEIGHT, TILES, TILE_LENGTHS, EXTRA, KIND, limits.ORIENTATION,
)  # fmt: skip
"""What is looked at: the numbers of all entries would take twenty times the file's bytes."""
RAW = DNG_VERSION, SUBFILE_TYPE, SUB_IFDS = 50706, 254, 330
MAX_TIMES = 2
"""How often the largest picture that is allowed all tiles may cover, as those at its edges hang over them; and how many
times the tiles or strips that a picture needs it may have, as some programs write one too many."""
MAX_BITS = 64
"""Bits a pixel of the largest tile: four colours of 16."""
MAX_SHARED, SHARED_SLACK = 8, 2**20
"""How many times the bytes of the file all tiles or strips may have, and how many more: some programs write alike ones
once. Decoders go through all bytes of each, also of those that they do not need."""
LZMA = 34925
"""A packing whose decoder takes as much memory as the file says, up to 4 GiB, whatever it unpacks to."""


def directory(data: bytes, tags: tuple[int, ...] = READ, most: int = limits.MAX_VALUES) -> dict[int, tuple[int, ...]]:
    """Return the whole numbers in the first directory of a TIFF, by tag, up to so many of each.

    Raises struct.error for what is cut off, ExcessError for two entries of which decoders take one or the other.
    """
    block = memoryview(data)
    first = limits.first_directory(block)
    found: dict[int, tuple[int, ...]] = {}
    for entry in itertools.islice(limits.entries(block, *first), limits.MAX_ENTRIES) if first else ():
        numbers = entry.numbers(block, first[0], most) if first and entry.tag in tags else ()
        if numbers and found.setdefault(entry.tag, numbers) != numbers:
            raise limits.ExcessError("entries that contradict each other")
    return found


def check_tiles(data: bytes, max_pixels: int) -> None:
    """Raise PixelsError if the tiles or strips cover, or one has bytes for, far more than a picture of so many pixels.

    Raises ExcessError if there are more of them than the picture has, if all have far more bytes than the file or may
    take any memory, and what directory() raises.
    """
    numbers = directory(data)
    _check_parts(numbers, len(data))
    tags = {tag: max(values) for tag, values in numbers.items()}
    width, height = tags.get(WIDTH, 0), tags.get(HEIGHT, 0)
    tile_width, tile_height = tags.get(TILE_WIDTH, 0), tags.get(TILE_HEIGHT, 0)
    if not tile_width or not tile_height:
        tile_width, tile_height = width, min(tags.get(ROWS_PER_STRIP, height), height)
    if not tile_width or not tile_height:
        return  # for decoders to refuse
    tile = tile_width * tile_height
    parts = math.ceil(width / tile_width) * math.ceil(height / tile_height)
    covered = tile * parts
    there = max(len(numbers.get(STRIPS, ())), len(numbers.get(TILES, ())))
    if there > MAX_TIMES * parts * max(1, tags.get(SAMPLES, 1)):
        raise limits.ExcessError("more tiles or strips than cover it")
    if covered > MAX_TIMES * max_pixels or tile * tags.get(BITS, 1) * tags.get(SAMPLES, 1) > MAX_BITS * max_pixels:
        raise limits.PixelsError("What its tiles or strips cover")


def _check_parts(tags: dict[int, tuple[int, ...]], size: int) -> None:
    packing = tags.get(PACKING, (1,))
    if LZMA in packing:
        raise limits.ExcessError("tiles or strips packed by LZMA, which may take any memory")
    for starts, lengths in ((STRIPS, LENGTHS), (TILES, TILE_LENGTHS)):
        places = tags.get(starts, ())
        unsaid = () if packing == (1,) else (size,) * len(places)  # libtiff takes as much as there is
        pairs = zip(places, tags.get(lengths, unsaid), strict=False)
        if sum(max(0, min(length, size - start)) for start, length in pairs) > MAX_SHARED * size + SHARED_SLACK:
            raise limits.ExcessError("more tiles or strips than bytes, as many of them share bytes")


def is_raw(data: bytes) -> bool:
    """True for a camera's raw file, whose first picture is a small preview or cannot be read."""
    with contextlib.suppress(struct.error, limits.ExcessError):
        tags = directory(data, RAW, 1)
        return data[8:10] == b"CR" or DNG_VERSION in tags or (SUB_IFDS in tags and any(tags.get(SUBFILE_TYPE, ())))
    return False


def is_misread(data: bytes) -> bool:
    """True for colours of more than 8 bits in planes: Pillow takes the bytes of one for those of several."""
    tags = directory(data)
    return tags.get(PLANES, (1,))[0] == 2 and max(tags.get(BITS, (1,))) > 8 and tags.get(SAMPLES, (1,))[0] > 1


def unusual(data: bytes) -> str | None:
    """Return what kind of TIFF it is, if all its parts are there; None for one that is cut off."""
    try:
        tags = directory(data)
        parts = (STRIPS, LENGTHS) if STRIPS in tags else (TILES, TILE_LENGTHS)
        starts, lengths = tags[parts[0]], tags[parts[1]]
    except (struct.error, KeyError):
        return None
    if any(start + length > len(data) for start, length in zip(starts, lengths, strict=False)):
        return None
    kind = {1: "", 2: "signed ", 3: "float "}.get(tags.get(KIND, (1,))[0], "odd ")
    bits, packing = tags.get(BITS, (1,))[0], tags.get(PACKING, (1,))[0]
    return f"a TIFF of a kind that is not read ({kind}{bits} bits, compression {packing})"
