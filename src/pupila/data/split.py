"""Cut one data set in two, or take a part of it: stratified, seeded, the same anywhere. Knows nothing of files."""

import numpy as np

from pupila.data.dataset import Dataset, Integers
from pupila.errors import DataError


def split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Return (train, validation): of each class, `fraction` of its pictures in validation, and at least one in each.

    Raises DataError if a class has fewer than two pictures or the fraction is not between 0 and 1.
    """
    train, validation = split_rows(dataset, fraction, seed)
    return dataset.take(train), dataset.take(validation)


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
            f"The class '{name}' has {_pictures(int(counts.min()))}; two are needed, one to train on and one to "
            "validate with. Add pictures to it or remove the class."
        )
    exact = np.full(len(counts), np.floor(counts.min() * fraction)) if equal else np.floor(counts * fraction + 0.5)
    chosen = _choose(dataset, np.clip(exact, 1, counts - 1).astype(np.int64), seed)
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def sample(dataset: Dataset, count: int, seed: int) -> Dataset:
    """Return `count` pictures, as many of each class as its share of the whole, at least one a class.

    Raises DataError if there are fewer pictures than that, or more classes.
    """
    counts = dataset.counts()
    present = int(np.count_nonzero(counts))
    if not present <= count <= len(dataset):
        raise DataError(
            f"Cannot take a sample of {count:,} from {_pictures(len(dataset))} of {present} classes. "
            f"Ask for {present:,} to {len(dataset):,}."
        )
    return dataset.take(np.flatnonzero(_choose(dataset, _shares(counts, count), seed)))


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count:,} pictures"


def _shares(counts: Integers, total: int) -> Integers:
    """Share `total` out in proportion to `counts`, largest remainders first, at least one to each that is not 0."""
    whole = int(counts.sum())
    exact = counts * total  # in units of 1 / whole: whole numbers only, the same on any machine
    shares = np.clip(exact // whole, np.minimum(counts, 1), counts)
    while (short := total - int(shares.sum())) != 0:
        step = 1 if short > 0 else -1
        room = shares < counts if short > 0 else shares > 1
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
