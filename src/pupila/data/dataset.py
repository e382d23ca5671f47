"""Labelled pictures in memory: one set, its published splits and their fingerprint, and stratified splits of it.

Needs no files. Splits are seeded, and the same on any machine.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pupila._arguments import counted, first_few
from pupila.errors import DataError

Pictures = NDArray[np.uint8]
"""uint8 [N, H, W, 3], RGB."""
Integers = NDArray[np.int64]
NOTES_OF_A_KIND, NOTES = 10, 50
"""Of a data set, at most: a person reads them, and thousands of folders, tables or classes may each cause one."""
MAX_LISTED, MAX_LISTED_LETTERS = 10_000, 2_000_000
"""Skipped pictures or pairs that are listed, and letters of what is said of them: the others are counted."""
Item = TypeVar("Item")
SplitArrays = tuple[Pictures, Integers, Sequence[str]]
"""The pictures of one split in a fixed order, their labels and their names: what a source hands over."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """N labelled square pictures of one size. Raises DataError on construction if its parts do not fit together."""

    images: Pictures
    """uint8 [N, H, W, 3], H = W."""
    labels: Integers
    """int64 [N], each an index into `classes`."""
    classes: tuple[str, ...]
    names: Sequence[str] = ()
    """What each picture is called, its path within the data set where it is a file; empty where it has none."""

    def __post_init__(self) -> None:
        if problem := self._problem():
            raise DataError(f"Not a data set: {problem}.")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        """Pixels a side."""
        return int(self.images.shape[1])

    def counts(self) -> Integers:
        """Return int64 [K]: the number of pictures of each class."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)

    def take(self, indices: Sequence[int] | Integers) -> "Dataset":
        """Return the pictures at these indices, in this order, with the same classes."""
        rows = np.asarray(indices, dtype=np.int64)
        names = tuple(self.names[row] for row in rows) if self.names else ()
        return Dataset(self.images[rows], self.labels[rows], self.classes, names)

    def _problem(self) -> str:
        images, labels, classes = self.images, self.labels, self.classes
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
            return f"its images are {images.dtype} {list(images.shape)}, and must be uint8 [N, H, H, 3]"
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            return f"its labels are {labels.dtype} {list(labels.shape)}, and must be int64 [{len(images)}]"
        if self.names and len(self.names) != len(labels):
            return f"it has {len(self.names)} names for {len(labels)} pictures"
        if not len(labels) or not images.shape[1]:
            return "it has no picture"
        if len(set(classes)) != len(classes) or not all(classes):
            return "its class names must be different from each other and not empty"
        if labels.min() < 0 or labels.max() >= len(classes):
            return f"its labels go from {labels.min()} to {labels.max()}, and it has {len(classes)} class names"
        return ""


@dataclass(frozen=True)
class Skipped:
    """One picture that could not be used, and why."""

    name: str
    """Its path within the data set, for example train/cat/0001.jpg."""
    reason: str


class SkippedFiles(list[Skipped]):
    """The first skipped pictures, up to MAX_LISTED, and how many more there are.

    Each row of a table may name one, and all with one long path.
    """

    def __init__(self) -> None:
        self.more = 0
        """Those that are not listed."""
        self._letters = 0

    def add(self, name: str, reason: str) -> None:
        """List a picture, or count it."""
        self._letters += len(name) + len(reason)
        if len(self) < MAX_LISTED and self._letters <= MAX_LISTED_LETTERS:
            self.append(Skipped(name, reason))
        else:
            self.more += 1

    def add_all(self, others: "SkippedFiles") -> None:
        """List others behind these, or count them."""
        for item in others:
            self.add(item.name, item.reason)
        self.more += others.more


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set as it was published: with its own validation and test parts, or without."""

    name: str
    train: Dataset
    validation: Dataset | None
    """None where the source has none: cut one off `train` with split()."""
    test: Dataset | None
    """Never touched by training."""
    skipped: tuple[Skipped, ...]
    """The first of them, see `more_skipped`."""
    fingerprint: str
    """SHA-256, hex, over names, labels and pixels: the same on any machine, however its files are listed or packed."""
    layout: str = ""
    """What the arrangement of its files was recognised as, in a few words."""
    notes: tuple[str, ...] = ()
    """What was passed over on purpose, one sentence each."""
    aspect: float = 1.0
    """Median of longer side / shorter side of the pictures as they came: 1 for squares."""
    framing: str = "squash"
    """How those that are not square were made so, see images.FRAMINGS."""
    more_skipped: int = 0
    """Skipped pictures that `skipped` does not list: it holds 10,000 at most, or 2,000,000 letters."""

    def skipped_count(self) -> int:
        """Return how many pictures were skipped, listed or not."""
        return len(self.skipped) + self.more_skipped

    def parts(self) -> dict[str, Dataset]:
        """Return the parts that there are, by name, in the order train, validation, test."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}

    def part(self, name: str | None) -> tuple[Dataset, str]:
        """Return the part of that name and the name; None: test if there is one, else all there is.

        Raises DataError if the source has no such part.
        """
        parts = self.parts()
        name = name or ("test" if "test" in parts else "all")
        if name == "all":
            pictures = np.concatenate([part.images for part in parts.values()])
            labels = np.concatenate([part.labels for part in parts.values()])
            names = tuple(name for part in parts.values() for name in part.names)
            return Dataset(pictures, labels, self.train.classes, names if len(names) == len(labels) else ()), name
        if name not in parts:
            raise DataError(
                f"{self.name}: has no {name} part, only {', '.join(parts)}. Use --split {next(iter(parts))} or all."
            )
        return parts[name], name


def assemble(
    name: str,
    classes: tuple[str, ...],
    parts: Mapping[str, SplitArrays],
    skipped: Sequence[Skipped] = (),
    *,
    layout: str = "",
    notes: Sequence[str] = (),
) -> Splits:
    """Join the parts (train, and perhaps validation and test) into validated Splits with their fingerprint."""
    made = {split: Dataset(images, labels, classes, tuple(names)) for split, (images, labels, names) in parts.items()}
    validation, test, noted = made.get("validation"), made.get("test"), first_notes([*notes, *_absent(made)], NOTES)
    return Splits(name, made["train"], validation, test, tuple(skipped), fingerprint(made), layout, tuple(noted))


def first_notes(notes: Iterable[str], most: int = NOTES_OF_A_KIND) -> list[str]:
    """Return the first of them, and how many others there are."""
    notes = list(notes)
    more = len(notes) - most
    return [*notes[:most], f"Notes like these that are not shown: {more:,}."] if more > 0 else notes


def first_listed(items: Sequence[Item], letters: Callable[[Item], int]) -> Sequence[Item]:
    """Return the first of them, up to MAX_LISTED or of as many letters as MAX_LISTED_LETTERS."""
    totals = itertools.accumulate(map(letters, items[:MAX_LISTED]))
    return items[: sum(total <= MAX_LISTED_LETTERS for total in totals)]


def _absent(parts: Mapping[str, Dataset]) -> list[str]:
    """Say which classes a part has no picture of: its scores leave them out."""
    notes = []
    for name, part in parts.items():
        absent = [category for category, count in zip(part.classes, part.counts(), strict=True) if not count]
        if absent:
            notes.append(f"{name} has no picture of {first_few(absent)}: a score on it says nothing of them.")
    return notes


def fingerprint(parts: Mapping[str, Dataset]) -> str:
    """Return the SHA-256 over all that training sees. Texts go in with their lengths: none runs into the next."""
    digest = hashlib.sha256()
    for split, part in sorted(parts.items()):
        for text in itertools.chain([split, str(part.images.shape)], part.classes, part.names):
            encoded = text.encode("utf-8", "surrogateescape")
            digest.update(b"%d:%b" % (len(encoded), encoded))
        digest.update(part.labels.astype("<i8").tobytes())
        digest.update(np.ascontiguousarray(part.images).data)
    return digest.hexdigest()


def split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Return (train, validation): of each class, `fraction` of its pictures in validation, and at least one in each.

    Raises DataError if a class has fewer than two pictures or the fraction is not between 0 and 1.
    """
    train, validation = split_rows(dataset, fraction, seed)
    return dataset.take(train), dataset.take(validation)


def held_out(splits: Splits, fraction: float, count: int, seed: int) -> tuple[Dataset, Dataset]:
    """Return what to train on and what to validate on: the data's own validation split, or a stratified share.

    count: take a sample of at most so many pictures first, 0 for all; the data's own split is then left aside. Of each
    class it has two at least, one for each side.
    """
    pool = splits.train
    if 0 < count < len(pool):
        pool = sample(pool, count, seed, least=2)
    elif splits.validation is not None:
        return pool, splits.validation
    return split(pool, fraction, seed)


def split_rows(dataset: Dataset, fraction: float, seed: int, *, equal: bool = False) -> tuple[Integers, Integers]:
    """Return the rows of train and of validation; raises as split() does.

    With `equal`, each class gives the same number to validation: `fraction` of the smallest class, rounded down, but
    at least one. That is the rule of reorg_train_valid in "Dive into Deep Learning" (d2l.ai, Kaggle CIFAR-10).
    """
    if not 0 < fraction < 1:
        raise DataError(
            f"A validation fraction of {fraction} leaves one side empty. Give one between 0 and 1, like 0.1."
        )
    counts = dataset.counts()
    if counts.min() < 2:
        name = dataset.classes[int(counts.argmin())]
        raise DataError(
            f"The class '{name}' has {counted(int(counts.min()), 'picture')}; two are needed, one to train on and one "
            "to validate with. Add pictures to it or remove the class."
        )
    exact = np.full(len(counts), np.floor(counts.min() * fraction)) if equal else np.floor(counts * fraction + 0.5)
    chosen = _choose(dataset, np.clip(exact, 1, counts - 1).astype(np.int64), seed)
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def sample(dataset: Dataset, count: int, seed: int, *, least: int = 1) -> Dataset:
    """Return `count` pictures, as many of each class as its share of the whole, at least `least` if it has them.

    Raises DataError if there are fewer pictures than that, or too many classes.
    """
    counts = dataset.counts()
    present, needed = int(np.count_nonzero(counts)), int(np.minimum(counts, least).sum())
    if not needed <= count <= len(dataset):
        raise DataError(
            f"Cannot take a sample of {count:,} from {counted(len(dataset), 'picture')} of "
            f"{counted(present, 'class')}. Ask for {needed:,} to {len(dataset):,}."
        )
    return dataset.take(np.flatnonzero(_choose(dataset, _shares(counts, count, least), seed)))


def _shares(counts: Integers, total: int, least: int) -> Integers:
    """Share `total` out in proportion to `counts`, largest remainders first, `least` to each that has so many."""
    whole = int(counts.sum())
    exact = counts * total  # in units of 1 / whole: whole numbers only, the same on any machine
    shares = np.clip(exact // whole, np.minimum(counts, least), counts)
    while (short := total - int(shares.sum())) != 0:
        step = 1 if short > 0 else -1
        room = shares < counts if short > 0 else shares > least
        owed = np.where(room, step * (exact - shares * whole), np.iinfo(np.int64).min)
        shares[int(owed.argmax())] += step
    return np.asarray(shares, dtype=np.int64)


def _choose(dataset: Dataset, wanted: Integers, seed: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return bool [N]: True for wanted[k] pictures of each class k, drawn without regard to anything but the seed."""
    if seed < 0:
        raise DataError(f"A seed of {seed} cannot be used. Give 0 or a larger whole number.")
    # Raw draws of the bit generator: NumPy promises that stream for ever, and not the one of Generator.permutation.
    draws = np.random.PCG64(seed).random_raw(len(dataset))
    by_class = np.lexsort((draws, dataset.labels))
    starts = np.cumsum(dataset.counts()) - dataset.counts()
    rank = np.arange(len(dataset)) - starts[dataset.labels[by_class]]
    chosen = np.zeros(len(dataset), dtype=np.bool_)
    chosen[by_class[rank < wanted[dataset.labels[by_class]]]] = True
    return chosen
