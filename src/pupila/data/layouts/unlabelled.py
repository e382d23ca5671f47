"""Picture files whose labels are not asked for: from a folder or archive to pixels. Knows no splits and no classes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pupila.data.decoding.decode import decode_pictures
from pupila.data.sources.source import find_source
from pupila.errors import DataError
from pupila.images import DEFAULT_LIMITS, Pixels


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Pictures uint8 [N, S, S, 3], sorted by name, and how many could not be read."""

    pictures: Pixels
    names: tuple[str, ...]
    unreadable: int


def read_unlabelled(source: Path, size: int, framing: str = "squash") -> Unlabelled:
    """Read every picture file of a folder, or of a tar or zip archive, wherever in it. Raises DataError if none can be.

    Not kept in the cache.
    """
    entries = sorted(entry for entry in find_source(source).collect().entries if entry.may_be_picture)
    if not entries:
        raise DataError(f"{source}: there are no pictures in it.")
    pictures, failed = decode_pictures([entry.source for entry in entries], size, DEFAULT_LIMITS, framing)
    if len(failed) == len(entries):
        raise DataError(f"{source}: none of its pictures can be read ({entries[0].name}: {failed[0]}).")
    readable = np.ones(len(entries), dtype=np.bool_)
    readable[list(failed)] = False
    names = tuple(entry.name for entry, good in zip(entries, readable, strict=True) if good)
    return Unlabelled(pictures[readable], names, len(failed))
