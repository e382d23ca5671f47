"""Decodes many picture files into one array on all cores, in order, with progress, and makes Splits of them."""

import json
import math
import mmap
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import IO

import numpy as np

from pupila import images
from pupila._arguments import counted
from pupila._workers import Worker, WorkerPool, usable_cores
from pupila.data import decode_worker
from pupila.data.dataset import Pictures, SkippedFiles, SplitArrays, Splits, assemble
from pupila.data.decode_worker import Sources, decode_into, pack
from pupila.data.layouts.labelled import DetectedLayout, LabelledFile, alike, check_names, class_names, odd_names
from pupila.data.sources.archive import check_memory, room_for
from pupila.data.sources.files import shortened
from pupila.errors import DataError, ImageError
from pupila.images import ImageLimits
from pupila.images.process import MEMORY
from pupila.progress import progress_bar

SIZES = (32, 64, 96, 128, 160, 224)
MAX_ROWS = 2_000_000
"""Pictures of arrays or of a table in parquet: however small they are, each grows to the smallest size at least."""
RESIZING = 12
"""What a pixel of a picture of an array takes while that is resized: three bytes, and Pillow's four and three."""
LFS_POINTER = "Git LFS pointer"
"""What the reason of a picture that is one says."""
SIZE_SAMPLE = 1000
"""Headers looked at to choose a size, evenly spaced: the median of so many is close enough."""
CHUNK = 128
"""Pictures in one job, at most: few enough for a smooth progress bar, enough for its own cost not to matter."""
CHUNK_BYTES = 16 * 2**20
"""Bytes in one job, at most, but for the last picture: they are copied to the process."""
FEW = 256
"""Up to here this process decodes by itself: starting others takes longer than they would save."""
LOST = b'"Reading it ended the process, twice: the picture is damaged, or the machine is out of memory."\n'

Failed = dict[int, str]
"""The reason for each picture that could not be read, by its index: its pixels are zero."""


def _worker_count(pictures: int) -> int:
    """Return how many processes to start: one a core that we may use, or none for few pictures.

    No more than have room for a large picture each.
    """
    cores = int(min(usable_cores(), room_for(MEMORY))) if pictures > FEW and sys.executable else 1
    return min(cores, -(-pictures // CHUNK)) if cores > 1 else 0


def _jobs(sources: Sources) -> Iterator[list[int]]:
    start = total = 0
    for index, source in enumerate(sources, 1):
        total += len(source) if isinstance(source, bytes) else 0
        if index - start == CHUNK or total >= CHUNK_BYTES or index == len(sources):
            yield list(range(start, index))
            start, total = index, 0


def _nameless_file() -> IO[bytes]:
    """Return a file in memory, or where there is no such thing, one on disk without a name."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("pupila"), "r+b")
    return tempfile.TemporaryFile()


def decode_pictures(
    sources: Sources, size: int, limits: ImageLimits, framing: str = "squash"
) -> tuple[Pictures, Failed]:
    """Return uint8 [N, size, size, 3] and, by index, the reason for each picture that could not be read.

    One process a core decodes, or this one if there are few pictures. Of equal ones in an archive, as links
    are, one is; of paths each is, whatever they lead to.
    """
    _check_memory(len(sources), size)
    first: dict[bytes | str, int] = {}
    places = [first.setdefault(source, len(first)) for source in sources]
    shape, failed, count = (len(sources), size, size, 3), Failed(), _worker_count(len(first))
    with _nameless_file() as memory, progress_bar("decoding", len(first)) as bar:
        memory.truncate(math.prod(shape) if count else 0)
        shared = mmap.mmap(memory.fileno(), 0) if count else bytearray(math.prod(shape))
        pixels = np.frombuffer(shared, dtype=np.uint8).reshape(shape)
        for rows, reasons in _decoded(list(first), pixels, count, memory.fileno(), limits, framing):
            failed.update((row, reason) for row, reason in zip(rows, reasons, strict=True) if reason)
            bar.update(len(rows))
    pixels[list(failed)] = 0  # a process may have ended in the middle of one
    for row in range(len(sources) - 1, -1, -1):  # from the end: each place is at or before its row
        if places[row] != row:
            pixels[row] = pixels[places[row]]
    return pixels, {row: failed[place] for row, place in enumerate(places) if place in failed}


def _decoded(
    sources: Sources, pixels: Pictures, count: int, memory: int, limits: ImageLimits, framing: str
) -> Iterator[tuple[Sequence[int], list[str]]]:
    """Yield the rows of each job when they are decoded, with what is wrong with each: empty if nothing is."""
    if not count:
        for rows in _jobs(sources):
            part = slice(rows[0], rows[-1] + 1)
            yield rows, decode_into(pixels[part], sources[part], limits, framing)
        return

    def packed(rows: list[int]) -> bytes:
        return pack(sources[rows[0] : rows[-1] + 1], rows[0], pixels.shape[:2], limits, framing)

    # As a file and no module, since that would import all of pupila.data: half of the time that a start takes.
    workers = [Worker([decode_worker.__file__, str(memory)], (memory,)) for _ in range(count)]
    with WorkerPool(workers) as pool:
        for rows, lines in pool.map(_jobs(sources), packed, LOST):
            yield rows, [str(json.loads(line)) for line in lines.splitlines()]


def _check_memory(count: int, size: int, more: int = 0) -> None:
    """Raise DataError if so many pictures, a copy in training and validation split, and more bytes would not fit."""
    fix = "Use fewer pictures, or a smaller size: half of it needs a quarter."
    check_memory(2 * count * size * size * 3 + more, f"{counted(count, 'picture')} of {size} x {size} pixels", fix)


def sample_sides(sources: Sources, limits: ImageLimits) -> list[tuple[int, int]]:
    """Return width and height of up to about SIZE_SAMPLE pictures, evenly spaced, as their headers say."""
    found = []
    for source in sources[:: max(1, len(sources) // SIZE_SAMPLE)]:
        try:
            header = images.header(source, limits)
            found.append((header.width, header.height))
        except (ImageError, OSError):
            continue  # is listed as skipped when its turn to be decoded comes
    return found


def choose_size(sides: Sequence[tuple[int, int]]) -> int:
    """Return the smallest of 32, 64, 96, 128, 160 and 224 not below the median of the pictures' shorter sides."""
    median = float(np.median([min(pair) for pair in sides])) if sides else SIZES[0]
    return next((size for size in SIZES if size >= median), SIZES[-1])


def resize_pictures(pictures: Pictures, size: int) -> Pictures:
    """Bring uint8 [N, H, W, 1, 3 or 4] to [N, size, size, 3] just as picture files are; transparency is left out.

    Raises DataError if they would not fit into memory.
    """
    if pictures.shape[1:] == (size, size, 3) and pictures.flags.c_contiguous:
        return pictures
    _check_memory(len(pictures), size, RESIZING * math.prod(pictures.shape[1:3]))
    resized = np.empty((len(pictures), size, size, 3), dtype=np.uint8)
    with progress_bar("resizing", len(pictures)) as bar:
        for index, pixels in enumerate(pictures):
            colours = pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3]  # a gray one is of one byte a pixel
            resized[index] = images.resize(np.ascontiguousarray(colours), size).reshape(size, size, -1)
            bar.update(1)
    return resized


def read_pictures(
    arranged: DetectedLayout,
    name: str,
    where: str,
    size: int | None,
    limits: ImageLimits,
    framing: str = "squash",
) -> Splits:
    """Decode all splits in one go, so that there is one progress bar and the workers start once.

    Raises DataError, whose text begins with `where`, if the classes make no data set or a class is unreadable.
    """
    classes = class_names(arranged.splits, where)
    items = [item for members in arranged.splits.values() for item in members]
    check_names(sum(len(item.category) + len(item.name) for item in items), len(items))
    sources = [item.entry.source for item in items]
    sides = sample_sides(sources, limits)
    images, failed = decode_pictures(sources, size or choose_size(sides), limits, framing)
    pointers = {row for row, reason in failed.items() if LFS_POINTER in reason}
    if len(pointers) > len(items) / 2:
        raise DataError(f"{where}: {_about_pointers(len(pointers))}")
    parts = _split_arrays(arranged, classes, images, failed, where)
    skipped = SkippedFiles()
    for row, reason in sorted(failed.items()):
        if row not in pointers:
            skipped.add(items[row].entry.name, reason)
    for entry in arranged.strays:
        skipped.add(entry.name, "It lies in no class folder.")
    skipped.add_all(arranged.skipped)
    notes = [*arranged.notes, *alike(classes), *odd_names(classes)]
    notes += [f"Left out: {_about_pointers(len(pointers))}"] if pointers else []
    made = assemble(name, classes, parts, skipped, layout=arranged.layout, notes=notes)
    aspect = float(np.median([max(pair) / min(pair) for pair in sides])) if sides else 1.0
    return replace(made, aspect=aspect, framing=framing, more_skipped=skipped.more)


def _split_arrays(
    arranged: DetectedLayout, classes: Sequence[str], images: Pictures, failed: Failed, where: str
) -> dict[str, SplitArrays]:
    """Cut the decoded pictures into their splits, without those that failed; raises DataError if a class is lost."""
    numbers = {name: number for number, name in enumerate(classes)}
    parts: dict[str, SplitArrays] = {}
    end = 0
    for split, members in arranged.splits.items():
        start, end = end, end + len(members)
        rows = [row for row in range(start, end) if row not in failed]
        chosen = [members[row - start] for row in rows]
        _check_readable(members, chosen, failed, start, f"{where}: {split}")
        pixels = keep_rows(images[start:end], [row - start for row in rows])
        labels = np.asarray([numbers[item.category] for item in chosen], dtype=np.int64)
        parts[split] = pixels, labels, [f"{item.category}/{item.name}" for item in chosen]
    return parts


def keep_rows(pictures: Pictures, rows: Sequence[int]) -> Pictures:
    """Return some of the pictures, in rising order, as a view: they are moved up, since a copy may not fit."""
    for place, row in enumerate(rows):
        if place != row:
            pictures[place] = pictures[row]
    return pictures[: len(rows)]


def check_rows(count: int, where: str) -> None:
    """Raise DataError if arrays or a table in parquet have too many pictures."""
    if count > MAX_ROWS:
        raise DataError(f"{where} has over {MAX_ROWS:,} rows. Cut it into several data sets.")


def _about_pointers(count: int) -> str:
    return f"Git LFS pointers in place of the pictures themselves: {count:,}. Run `git lfs pull` in its repository."


def _check_readable(
    members: Sequence[LabelledFile], readable: Sequence[LabelledFile], failed: Mapping[int, str], start: int, where: str
) -> None:
    lost = sorted({item.category for item in members} - {item.category for item in readable})
    if lost:
        row, item = next((row, item) for row, item in enumerate(members, start) if item.category == lost[0])
        raise DataError(
            f"{where}: none of the pictures of '{shortened(lost[0])}' can be read ({item.entry.name}: {failed[row]}). "
            "Replace them or remove the class."
        )
