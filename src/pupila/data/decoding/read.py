"""Labelled picture files, made into Splits. Knows the steps in between, and nothing of where the files lie."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from pupila.data.decoding.decode import choose_size, decode_pictures, median_aspect, sample_sides
from pupila.data.decoding.pool import Decoders
from pupila.data.layouts.files_by_folder import Arranged, Labelled, alike, class_names
from pupila.data.splits import Part, Skipped, Splits, assemble
from pupila.errors import DataError
from pupila.images import ImageLimits


def read_pictures(
    arranged: Arranged,
    name: str,
    where: str,
    size: int | None,
    limits: ImageLimits,
    framing: str = "squash",
    decoders: Decoders | None = None,
) -> Splits:
    """Decode all splits in one go, so that there is one progress bar and the workers start once.

    Raises DataError, whose text begins with `where`, if the classes make no data set or a class is unreadable.
    """
    classes = class_names(arranged.splits, where)
    items = [item for members in arranged.splits.values() for item in members]
    sources = [item.entry.source for item in items]
    sides = sample_sides(sources, limits)
    images, failed = decode_pictures(sources, size or choose_size(sides), limits, framing, decoders)
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.asarray([numbers[item.category] for item in items], dtype=np.int64)
    readable = np.ones(len(items), dtype=np.bool_)
    readable[list(failed)] = False
    parts: dict[str, Part] = {}
    ends = list(accumulate(len(members) for members in arranged.splits.values()))
    for (split, members), end in zip(arranged.splits.items(), ends, strict=True):
        all_rows = slice(end - len(members), end)
        rows = np.arange(end - len(members), end)[readable[all_rows]]
        chosen = [items[row] for row in rows]
        _check_readable(members, chosen, failed, all_rows.start, f"{where}: {split}")
        pixels = images[all_rows] if len(chosen) == len(members) else images[rows]  # a view where it can be
        parts[split] = Part(pixels, labels[rows], [f"{item.category}/{item.name}" for item in chosen])
    skipped = [Skipped(items[row].entry.name, reason) for row, reason in sorted(failed.items())]
    skipped += [Skipped(entry.name, "It lies in no class folder.") for entry in arranged.strays]
    skipped += arranged.skipped
    notes = (*arranged.notes, *alike(classes))
    made = assemble(name, classes, parts, skipped, layout=arranged.layout, notes=notes)
    return replace(made, aspect=median_aspect(sides), framing=framing)


def _check_readable(
    members: Sequence[Labelled], readable: Sequence[Labelled], failed: Mapping[int, str], start: int, where: str
) -> None:
    """Raise DataError, with the first of the reasons, if a class has lost all its pictures in a split."""
    lost = sorted({item.category for item in members} - {item.category for item in readable})
    if lost:
        row, item = next((row, item) for row, item in enumerate(members, start) if item.category == lost[0])
        raise DataError(
            f"{where}: none of the pictures of '{lost[0]}' can be read ({item.entry.name}: {failed[row]}). "
            "Replace them or remove the class."
        )
