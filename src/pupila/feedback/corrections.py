"""Training data from a feedback store: the corrected pictures with their labels."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pupila import images
from pupila._arguments import counted
from pupila.data import Dataset
from pupila.data.quality.duplicates import copies_of
from pupila.data.sources.archive import check_memory
from pupila.errors import DataError, ImageError
from pupila.feedback.schema import Kept
from pupila.feedback.store import Store

MAX_CORRECTED = 1_000_000
"""Corrected pictures that are read, of some 1 kB each: a server with 20 GiB keeps fewer."""


@dataclass(frozen=True, eq=False)
class Corrections:
    """What people have said of collected pictures, as far as it can be trained on. Each picture counts once."""

    pictures: Dataset | None
    """With the data set's classes; None if nothing is left."""
    none: int
    """Pictures said to be none of the classes: there is no class to teach."""
    foreign: int
    """Of a class that the data set does not have."""
    held_out: int
    """That are in validation or test, too, or nearly so: to train on these would spoil the figures."""
    unreadable: int
    fingerprint: str
    """SHA-256, hex, over pixels and labels of what is left."""

    def __len__(self) -> int:
        return 0 if self.pictures is None else len(self.pictures)

    def to_manifest(self) -> dict[str, Any]:
        """Return what a model file says of it."""
        left_out = {"none": self.none, "foreign": self.foreign, "held_out": self.held_out}
        return {"pictures": len(self), "left_out": left_out, "fingerprint": self.fingerprint}

    def summary(self) -> str:
        """Return in one line how many pictures are added, and which are left out."""
        reasons = {
            "of none of the classes": self.none,
            "of classes that the data set does not have": self.foreign,
            "in validation or test, too": self.held_out,
            "not readable as a picture": self.unreadable,
        }
        left_out = "; ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
        return f"Corrected pictures added to training: {len(self):,}; left out: {left_out or 'none'}"


def read_corrections(
    folder: Path, classes: Sequence[str], size: int, held_out: Sequence[Dataset], framing: str = "squash"
) -> Corrections:
    """Return the corrected pictures of a store at size x size pixels, made square as `framing` says.

    `held_out`: what must not be trained on. Raises DataError if there is no store, or nothing in it is corrected.
    """
    store = Store(folder)
    try:
        store.check_pages()
        rows = store.corrected(limit=MAX_CORRECTED + 1)
        if len(rows) > MAX_CORRECTED:
            raise DataError(
                f"{folder}: has more corrected pictures than the limit of {MAX_CORRECTED:,}. Delete some of them."
            )
        corrected = list({kept.sha256: kept for kept in rows}.values())  # one a picture
        if not corrected:
            raise DataError(f"{folder}: nobody has corrected a picture yet. Do so on the page /review of the server.")
        none = [kept for kept in corrected if kept.correction is None]
        named = [kept for kept in corrected if kept.correction in classes]
        what = f"{counted(len(named), 'picture')} of {size} x {size} pixels"
        fix = "Use fewer pictures, or a smaller size: half of it needs a quarter."
        check_memory(2 * len(named) * size * size * 3, what, fix)
        pairs = [(kept, _pixels(store, kept, size, framing)) for kept in sorted(named, key=lambda kept: kept.sha256)]
    finally:
        store.close()
    read = [(kept, pixels) for kept, pixels in pairs if pixels is not None]
    stacked = np.stack([pixels for _, pixels in read]) if read else np.empty((0, size, size, 3), dtype=np.uint8)
    seen = np.zeros(len(read), dtype=np.bool_)
    for dataset in held_out if read else ():
        seen |= copies_of(stacked, dataset.images)
    chosen = [pair for pair, is_seen in zip(read, seen, strict=True) if not is_seen]
    labels = np.asarray([classes.index(kept.correction or "") for kept, _ in chosen], dtype=np.int64)
    return Corrections(
        pictures=Dataset(stacked[~seen], labels, tuple(classes)) if chosen else None,
        none=len(none),
        foreign=len(corrected) - len(none) - len(named),
        held_out=len(read) - len(chosen),
        unreadable=len(pairs) - len(read),
        fingerprint=_fingerprint(chosen),
    )


def joined(training: Dataset, corrections: Corrections) -> Dataset:
    """Return what to train on with the corrected pictures behind it."""
    added = corrections.pictures
    if added is None:
        return training
    pictures = np.concatenate([training.images, added.images])
    return Dataset(pictures, np.concatenate([training.labels, added.labels]), training.classes)


def _pixels(store: Store, kept: Kept, size: int, framing: str) -> images.Pixels | None:
    try:
        data = store.read(kept)
        return None if data is None else images.decode(data, size, framing=framing)
    except (ImageError, OSError):
        return None


def _fingerprint(chosen: Sequence[tuple[Kept, images.Pixels]]) -> str:
    digest = hashlib.sha256()
    for kept, pixels in chosen:
        digest.update(f"{kept.correction}\0".encode() + np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()
