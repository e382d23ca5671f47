"""Pictures that show none of the classes, so that the network learns to doubt what it does not know.

Hendrycks et al., "Deep Anomaly Detection with Outlier Exposure", 2019: beside each batch, a few such pictures, for
which the answer is that all classes are equally likely. The loss is in fit.py.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pupila.data import Dataset
from pupila.data.load import read_unlabelled
from pupila.data.quality.duplicates import copies_of
from pupila.errors import DataError
from pupila.images import Pixels
from pupila.recipe import Recipe
from pupila.training.distributed.process_group import ALONE, Team
from pupila.training.loop.batches import Batch, augmented, generator

APART = 3
"""Sets what is drawn for outliers apart from what is drawn for the pictures of the same batch."""


@dataclass(frozen=True, eq=False)
class Outliers:
    """uint8 [M, S, S, 3], and where they are from."""

    pictures: Pixels
    name: str
    own: int
    """Pictures left out, since they are the data set's own."""
    unreadable: int

    @property
    def fingerprint(self) -> str:
        """SHA-256, hex, over the pixels."""
        return hashlib.sha256(np.ascontiguousarray(self.pictures).data).hexdigest()

    def to_manifest(self) -> dict[str, Any]:
        """Return what a model file says of them."""
        return {"source": self.name, "pictures": len(self.pictures), "fingerprint": self.fingerprint}

    def describe(self) -> str:
        """Return what a person should know of them, in one line."""
        reasons = {"in the data set, too": self.own, "not readable as a picture": self.unreadable}
        left_out = "; ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
        return (
            f"Pictures that teach what is none of the classes: {len(self.pictures):,}; left out: {left_out or 'none'}"
        )


def read_outliers(source: Path, own: Sequence[Dataset], framing: str) -> Outliers:
    """Read all pictures in a folder or archive. own: the data set's parts.

    Raises DataError if a folder in it is named like one of their classes, or no picture is left.
    """
    read = read_unlabelled(source, own[0].size, framing)
    folders = {folder.casefold(): folder for name in read.names for folder in name.split("/")[:-1]}
    shared = [folders[name.casefold()] for name in own[0].classes if name.casefold() in folders]
    if shared:
        raise DataError(
            f"{source}: has a folder {shared[0]!r}, and that is a class to be learned. Outliers are pictures of none "
            "of the classes: take it out."
        )
    known = np.zeros(len(read.pictures), dtype=np.bool_)
    for part in own:
        known |= copies_of(read.pictures, part.images)
    if known.all():
        raise DataError(f"{source}: every picture in it is one of the data set's own. Give pictures of other things.")
    return Outliers(read.pictures[~known], source.name, int(known.sum()), read.unreadable)


def exposed(
    plain: Iterator[Batch], outliers: Tensor, recipe: Recipe, *, size: int, epoch: int, start: int = 0,
    team: Team = ALONE,
) -> Iterator[Batch]:  # fmt: skip
    """Yield one epoch's batches from number `start` on, each with `recipe.outliers` times as many outliers behind it.

    outliers: uint8 [M, H, W, 3]. What is drawn depends on seed, epoch and batch alone, as in batches.py.
    """
    for number, batch in enumerate(plain, start):
        draw = generator(recipe.seed, epoch, number, APART)
        count = max(round(recipe.outliers * batch.count), team.size)
        chosen = torch.randint(len(outliers), (count,), generator=draw).to(outliers.device)
        strange = augmented(outliers, chosen, team.part(count), recipe, epoch, draw, size)
        pictures = torch.cat([batch.pictures, strange])
        yield replace(batch, pictures=pictures, outlier_weight=len(strange) / count)
