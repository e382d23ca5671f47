"""What is right and wrong with a data set, as numbers and names. Lays nothing out, and changes nothing."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from pupila.data.dataset import Dataset
from pupila.data.layouts.cifar import find_version
from pupila.data.layouts.detect import arrange
from pupila.data.load import load_dataset
from pupila.data.quality.class_balance import imbalance, remedy
from pupila.data.quality.duplicates import Pair, find_duplicates
from pupila.data.quality.survey import Survey, survey
from pupila.data.sources.source import NAMES, find_source
from pupila.data.splits import Splits
from pupila.images import DEFAULT_LIMITS, ImageLimits

UNIFORM = 2.0
"""Standard deviation of each colour, 0 to 255, below which a picture shows nothing."""


@dataclass(frozen=True)
class Place:
    """One picture: its part, its row there, its name and its class."""

    part: str
    row: int
    name: str
    category: str


@dataclass(frozen=True)
class Twins:
    """Two pictures that are one."""

    first: Place
    second: Place
    exact: bool
    mirrored: bool
    similarity: float

    @property
    def leak(self) -> bool:
        """True if they are in different parts: one trains the model that the other is to judge."""
        return self.first.part != self.second.part

    @property
    def disagree(self) -> bool:
        """True if they are of different classes: one of the labels is wrong, or both."""
        return self.first.category != self.second.category


@dataclass(frozen=True, eq=False)
class Inspection:
    """Everything that a report says about one data set."""

    splits: Splits
    survey: Survey | None
    """None for data sets that are not made of picture files."""
    twins: tuple[Twins, ...]
    """Across parts first, then those of different classes, then exact ones, then by likeness."""
    uniform: tuple[Place, ...]

    @property
    def leaks(self) -> tuple[Twins, ...]:
        """The twins across parts."""
        return tuple(twins for twins in self.twins if twins.leak)

    def leaked(self, exact: bool | None = None) -> dict[str, int]:
        """Return, by part, how many of the pictures have a twin in a part that comes before; exact ones only, or not.

        The parts come in the order train, validation, test: so it is the pictures that are to judge that are counted.
        """
        chosen = [twins for twins in self.leaks if exact is None or twins.exact == exact]
        rows = {part: {t.second.row for t in chosen if t.second.part == part} for part in self.splits.parts()}
        return {part: len(found) for part, found in rows.items() if found}

    def imbalance(self) -> float:
        """Return how many pictures the largest class of train has for one of the smallest."""
        return imbalance(self.splits.train.counts())

    def to_json(self) -> dict[str, Any]:
        """Return all of it but the pixels."""
        splits = self.splits
        parts = {
            name: dict(zip(part.classes, part.counts().tolist(), strict=True)) for name, part in splits.parts().items()
        }
        files = self.survey and {
            "formats": dict(self.survey.formats),
            "modes": dict(self.survey.modes),
            "sizes": self.survey.quantiles(),
            "rotated": self.survey.rotated,
            "odd": [asdict(item) for item in self.survey.odd],
        }
        return {
            "name": splits.name,
            "layout": splits.layout,
            "notes": list(splits.notes),
            "fingerprint": splits.fingerprint,
            "size": splits.train.size,
            "counts": parts,
            "leaked": self.leaked(),
            "leaked_exact": self.leaked(exact=True),
            "twins": [{**asdict(twins), "leak": twins.leak} for twins in self.twins],
            "skipped": [asdict(item) for item in splits.skipped],
            "uniform": [asdict(place) for place in self.uniform],
            "files": files or None,
            "imbalance": self.imbalance(),
            "balance": remedy(splits.train.counts(), "auto"),
        }


def inspect_dataset(
    source: str | Path, size: int | None = None, *, cache: Path | None = None, limits: ImageLimits = DEFAULT_LIMITS
) -> Inspection:
    """Load a source as training does, and look at it from all sides; raises what load_dataset() raises."""
    splits = load_dataset(source, size, cache=cache, limits=limits)
    files = None if source in NAMES else _survey(Path(source), limits)
    places = _places(splits)
    parts = splits.parts()
    pairs = find_duplicates([part.images for part in parts.values()])
    uniform = [places(row) for row in _uniform(list(parts.values()))]
    return Inspection(splits, files, _sorted(pairs, places), tuple(uniform))


def _survey(path: Path, limits: ImageLimits) -> Survey | None:
    collected = find_source(path).collect()
    if find_version(collected.entries) is not None:
        return None
    arranged = arrange(collected, str(path))
    return survey([item.entry for members in arranged.splits.values() for item in members], limits)


def _places(splits: Splits) -> Callable[[int], Place]:
    """Return what finds the picture of a row, counted through all parts."""
    parts = splits.parts()
    starts = [0, *accumulate(len(part) for part in parts.values())]
    named = list(parts.items())

    def place(row: int) -> Place:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        name, part = named[number]
        own = row - starts[number]
        names = splits.names.get(name)
        return Place(name, own, names[own] if names else str(own), part.classes[int(part.labels[own])])

    return place


def _sorted(pairs: Sequence[Pair], places: Callable[[int], Place]) -> tuple[Twins, ...]:
    twins = [Twins(places(p.first), places(p.second), p.exact, p.mirrored, p.similarity) for p in pairs]
    return tuple(sorted(twins, key=lambda t: (not t.leak, not t.disagree, not t.exact, -t.similarity)))


def _uniform(parts: Sequence[Dataset]) -> list[int]:
    """Return the rows, through all parts, of pictures that show next to nothing."""
    rows: list[int] = []
    start = 0
    for part in parts:
        for index, picture in enumerate(part.images):
            if picture.reshape(-1, 3).std(axis=0).max() < UNIFORM:  # each colour for itself: all red is uniform too
                rows.append(start + index)
        start += len(part)
    return rows
