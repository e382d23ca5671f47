"""Many pictures into one array, on all cores, in order, with progress. Knows nothing of labels or layouts."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from pupila import images
from pupila.data.dataset import Pictures
from pupila.data.decoding.pool import Decoders, worker_count
from pupila.data.decoding.worker import Failed, Sources, read
from pupila.errors import DataError, ImageError
from pupila.images import ImageLimits
from pupila.progress import Progress

SIZES = (32, 64, 96, 128, 160, 224)
SIZE_SAMPLE = 1000
"""Headers looked at to choose a size, evenly spaced: the median of so many is close enough."""


def decode_pictures(
    sources: Sources, size: int, limits: ImageLimits, framing: str = "squash", decoders: Decoders | None = None
) -> tuple[Pictures, Failed]:
    """Return uint8 [N, size, size, 3] and, by index, the reason for each picture that could not be read.

    `decoders` are processes that were started before; without them, or if they are too few, others are started now.
    """
    if decoders is None or decoders.count < worker_count(len(sources)):
        with Decoders(len(sources)) as decoders:
            return decode_pictures(sources, size, limits, framing, decoders)
    _check_memory(len(sources), size)
    pixels = decoders.room(len(sources), size)
    failed: Failed = {}
    with Progress("decoding", len(sources)) as bar:
        for count, problems in decoders.decode(sources, pixels, limits, framing):
            failed.update(problems)
            bar.advance(count)
    return pixels, failed


def _check_memory(count: int, size: int) -> None:
    """Raise DataError if so many pictures would not fit: the system would end this process without a word."""
    needed, free = count * size * size * 3, _free_memory()
    if needed > free:
        raise DataError(
            f"{count:,} pictures of {size} x {size} pixels need {needed / 2**30:,.1f} GiB of memory, and "
            f"{free / 2**30:,.1f} are free. Choose a smaller --size: half of it needs a quarter."
        )


def _free_memory() -> float:
    """Return the bytes that may still be taken, as Linux says for machine and container; endless elsewhere."""
    free = float("inf")
    with suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024.0 * int(lines["MemAvailable"].split()[0])
    with suppress(OSError, KeyError, ValueError):  # another system of groups, or no limit: then it says "max"
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())["anon"]
        free = min(free, float(limit - int(used)))
    return free


def sample_sides(sources: Sources, limits: ImageLimits) -> list[tuple[int, int]]:
    """Return width and height of up to about SIZE_SAMPLE pictures, evenly spaced, as their headers say."""
    found = []
    for source in sources[:: max(1, len(sources) // SIZE_SAMPLE)]:
        try:
            found.append(images.sides(read(source, limits), limits))
        except (ImageError, OSError):
            continue  # is listed as skipped when its turn to be decoded comes
    return found


def choose_size(sides: Sequence[tuple[int, int]]) -> int:
    """Return the smallest of 32, 64, 96, 128, 160 and 224 not below the median of the pictures' shorter sides."""
    median = float(np.median([min(pair) for pair in sides])) if sides else SIZES[0]
    return next((size for size in SIZES if size >= median), SIZES[-1])


def median_aspect(sides: Sequence[tuple[int, int]]) -> float:
    """Return the median of longer side / shorter side: 1 for squares, 1.33 for most photos."""
    return float(np.median([max(pair) / min(pair) for pair in sides])) if sides else 1.0


def resize_pictures(pictures: Pictures, size: int) -> Pictures:
    """Bring uint8 [N, H, W, 3] to [N, size, size, 3] just as picture files are."""
    if pictures.shape[1:3] == (size, size):
        return pictures
    resized = np.empty((len(pictures), size, size, 3), dtype=np.uint8)
    with Progress("resizing", len(pictures)) as bar:
        for index, pixels in enumerate(pictures):
            resized[index] = images.resize(pixels, size)
            bar.advance()
    return resized
