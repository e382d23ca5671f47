"""How many of the copies that ciFAIR names are found, and how many of those that are found it does not name.

    python benchmarks/data/cifair.py CIFAR10 duplicates_cifar10.csv

The list is ciFAIR's (Barz and Denzler, 2020, github.com/cvjena/cifair, meta/): a test and a train index each, in the
order of the original files. CIFAR10 is a copy sorted by class, in that order within each class, so that a picture is
near the tenth of its index: where exactly, is told by the likest pair there, in windows that become narrower.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from verdict import verdict

from pupila.data import load_dataset
from pupila.data.quality.duplicates import centred, find_duplicates, shrink

CLASSES, SIZES = 10, (1000, 5000)
"""Pictures of a class in test and in train."""
ROUNDS = ((0.0, 50, 120), (0.97, 30, 70), (0.95, 20, 45), (0.93, 15, 35), (0.9, 12, 30))
"""Likeness from which a pair tells where its neighbours are, and the windows, in places of test and of train."""

Place = tuple[float, int, int, int]
"""Likeness, class, place in the class in test, place in train."""
Shift = Callable[[int, int], float]


def likest(
    pair: tuple[int, int], shifts: tuple[Shift, Shift], windows: tuple[int, int], rows: list[np.ndarray]
) -> Place:
    """Return the likest pair near where the indices of `pair` must be; rows: of test, mirrored test, train."""
    found = []
    for category in range(CLASSES):
        ranges = []
        for index, shift, window, size in zip(pair, shifts, windows, SIZES, strict=True):
            middle = min(max(index / CLASSES + shift(category, index), 0), size - 1)
            ranges.append(
                category * size + np.arange(max(0, int(middle - window)), min(size, int(middle + window) + 1))
            )
        test, train = ranges
        for seen in rows[:2]:
            likeness = seen[test] @ rows[2][train].T
            first, second = np.unravel_index(likeness.argmax(), likeness.shape)
            here = (int(test[first]) % SIZES[0], int(train[second]) % SIZES[1])
            found.append((float(likeness[first, second]), category, *here))
    return max(found)


def shift_of(pairs: list[tuple[int, int]], places: list[Place], side: int, least: float) -> Shift:
    """Return how far from the tenth of its index a picture of a class is: as the five nearest sure ones are."""

    def shift(category: int, index: int) -> float:
        sure = [
            (p[side], q[2 + side]) for p, q in zip(pairs, places, strict=True) if q[0] >= least and q[1] == category
        ]
        near = sorted(sure, key=lambda known: abs(known[0] - index))[:5]
        return float(np.median([place - known / CLASSES for known, place in near])) if near else 0.0

    return shift


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("list", type=Path)
    chosen = parser.parse_args()
    splits = load_dataset(chosen.data, 32)
    assert splits.test is not None
    train, test = splits.train.images, splits.test.images
    mirrored = np.ascontiguousarray(test[:, :, ::-1])
    rows = [centred(shrink(pictures, 8)) for pictures in (test, mirrored, train)]
    pairs = [(int(row["TestID"]), int(row["TrainID"])) for row in csv.DictReader(chosen.list.open())]
    places: list[Place] = []
    for least, *windows in ROUNDS:
        shifts = tuple(shift_of(pairs, places, side, least) for side in (0, 1)) if places else (lambda *_: 0.0,) * 2
        places = [likest(pair, shifts, tuple(windows), rows) for pair in pairs]
    named = {(c * SIZES[0] + here, c * SIZES[1] + there) for _, c, here, there in places}
    across = [
        (p.second - len(train), p.first) for p in find_duplicates([train, test]) if p.first < len(train) <= p.second
    ]
    called, theirs = {one for one, _ in across}, {one for one, _ in named}
    print(f"ciFAIR names {len(pairs)} pairs, of which {len(named & set(across))} are found")
    print(f"{len(called):,} test pictures are called copies, of which ciFAIR names {len(called & theirs)}")
    others = len(called - theirs) / len(test)
    print(verdict("called copies and not named by ciFAIR, of all test pictures", others, 0.01, at_most=True))


if __name__ == "__main__":
    main()
