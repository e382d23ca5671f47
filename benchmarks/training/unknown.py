"""How well a model tells unknown pictures: the area under the ROC curve, 0.5 is chance, and the share that is marked.

    python benchmarks/training/unknown.py MODEL cifar10 TINY_IMAGENET [MORE ...]
    python benchmarks/training/unknown.py MODEL digits TINY_IMAGENET --all

Known: the test pictures of the first data set, or all if it has no test split. Unknown: the validation pictures of
Tiny ImageNet whose class is none of CIFAR-10's ten, once more those of them whose class is in no folder of outliers
that outside.py writes, handwritten digits, the pictures that the program makes, and of each further data set what is
not close to one of the ten, up to 15 pictures a class (Caltech-101: 78 classes). Printed for the score that is served
and for candidates; `by_file` is what the model file's own threshold marks. Distances are measured from training
pictures' features. With --all every picture of the second data set is unknown: for a model of other classes than
CIFAR-10's. docs/models/cifar10.md says where Tiny ImageNet comes from, and how its validation part becomes class
folders.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from outside import CLOSE_TO_THE_TEN, outside, taught_classes

from pupila.data import Dataset, load_dataset
from pupila.evaluation.evaluate import predict_features, predict_scores
from pupila.evaluation.unknown import energy, made_pictures, threshold, unit
from pupila.predictor import Predictor

Values = NDArray[np.float64]
REFERENCE = 5_000
"""Training pictures that distances are measured from."""
NEIGHBOUR = 5
EACH = 15
"""Pictures of each class of a further data set."""


def main() -> None:
    """Print one JSON line for each kind of unknown pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("known")
    parser.add_argument("unknown")
    parser.add_argument("more", nargs="*")
    parser.add_argument("--all", action="store_true", help="the known classes are not CIFAR-10's ten")
    options = parser.parse_args()
    predictor = Predictor.load(options.model)
    known = load_dataset(options.known, predictor.manifest.input_size)
    test = known.test or known.train
    rows = np.linspace(0, len(known.train) - 1, min(REFERENCE, len(known.train)), dtype=np.int64)
    scores = candidates(predictor, known.train.take(rows))
    tested = {name: score(test.images) for name, score in scores.items()}
    own = predictor.manifest.unknown_threshold
    if own is None:
        raise SystemExit("The model has no unknown score.")
    print(json.dumps({"known": "test", "n": len(test), "by_file": share_above(tested["served"], own)}), flush=True)
    strangers = load_dataset(options.unknown, predictor.manifest.input_size).validation
    if strangers is None:
        raise SystemExit("The second data set needs a validation split.")
    kinds = [(options.unknown, strangers.images)] if options.all else sides(predictor, strangers, options.more)
    for name, pictures in itertools.chain(
        kinds, made_pictures(test.images, predictor.manifest.input_size, 200).items()
    ):
        found = {kind: score(pictures) for kind, score in scores.items()}
        figures = {kind: round(auroc(tested[kind], values), 4) for kind, values in found.items()}
        marked = {kind: share_above(values, threshold(tested[kind])) for kind, values in found.items()}
        marked["by_file"] = share_above(found["served"], own)
        print(json.dumps({"unknown": name, "n": len(pictures), "auroc": figures, "marked": marked}), flush=True)


def candidates(predictor: Predictor, reference: Dataset) -> dict[str, Callable[[NDArray[np.uint8]], Values]]:
    """Return each score as a function of pictures."""
    _, features = predict_features(predictor, reference.images)
    mahalanobis, nearest = Mahalanobis(features, reference.labels), neighbours(features)
    temperature = predictor.manifest.temperature
    return {
        "served": lambda pictures: predict_scores(predictor, pictures)[:, -1].astype(np.float64),
        "energy": lambda pictures: energy(predict_features(predictor, pictures)[0], temperature),
        "neighbours": lambda pictures: nearest(predict_features(predictor, pictures)[1]),
        "mahalanobis": lambda pictures: mahalanobis(predict_features(predictor, pictures)[1]),
    }


def sides(predictor: Predictor, strangers: Dataset, more: list[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield the kinds of pictures of none of the ten and their names."""
    size = predictor.manifest.input_size
    none_of_the_ten = set(outside(strangers.classes))
    never_shown = none_of_the_ten - taught_classes(strangers.classes)
    yield "tiny-imagenet outside the ten", of_classes(strangers, none_of_the_ten)
    yield "those of classes that are never outliers", of_classes(strangers, never_shown)
    yield "digits", load_dataset("digits", size).train.images
    for source in more:
        others = load_dataset(source, size).train
        far = np.array([name not in CLOSE_TO_THE_TEN and not name.startswith("BACKGROUND") for name in others.classes])
        rows = [row for k in np.flatnonzero(far) for row in np.flatnonzero(others.labels == k)[:EACH]]
        yield source, others.images[rows]


def share_above(values: Values, limit: float) -> float:
    """Return the share of values above the limit."""
    return round(float((values > limit).mean()), 4)


def of_classes(pictures: Dataset, names: set[str]) -> NDArray[np.uint8]:
    """Return the pictures of these classes."""
    return pictures.images[[pictures.classes[label] in names for label in pictures.labels]]


def auroc(known: Values, unknown: Values) -> float:
    """Return how often an unknown picture scores higher than a known one, ties counting half; 0.5 is chance.

    Exact: the Mann-Whitney statistic over the number of pairs.
    """
    ordered = np.sort(known)
    below = np.searchsorted(ordered, unknown, side="left")
    up_to = np.searchsorted(ordered, unknown, side="right")
    return float((below + up_to).sum() / (2 * len(known) * len(unknown)))


class Mahalanobis:
    """Squared distance to the nearest class mean, in the spread that all classes share (Lee et al., 2018)."""

    def __init__(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        values = np.asarray(features, dtype=np.float64)
        present, compact = np.unique(labels, return_inverse=True)
        means = np.stack([values[labels == label].mean(axis=0) for label in present])
        deviations = values - means[compact]
        (n, d), covariance = values.shape, deviations.T @ deviations / len(values)
        weight = d / (n + d)  # drawn towards the identity, so that few pictures give a matrix that can be inverted
        shrunk = (1 - weight) * covariance + weight * np.trace(covariance) / d * np.eye(d)
        variances, axes = np.linalg.eigh(shrunk)
        self._whitener = axes / np.sqrt(variances)
        self._means = means @ self._whitener

    def __call__(self, features: NDArray[np.float32]) -> Values:
        """Return [N] for features [N, D]."""
        white = np.asarray(features, dtype=np.float64) @ self._whitener
        squares = (white**2).sum(axis=1)[:, np.newaxis] + (self._means**2).sum(axis=1)
        return np.asarray((squares - 2 * white @ self._means.T).min(axis=1))


def neighbours(reference: NDArray[np.float32]) -> Callable[[NDArray[np.float32]], Values]:
    """Return the distance to the fifth nearest training picture, features scaled to length 1 (Sun et al., 2022)."""
    rows = unit(reference)

    def score(features: NDArray[np.float32]) -> Values:
        cosines = np.partition(unit(features) @ rows.T, -NEIGHBOUR, axis=1)[:, -NEIGHBOUR]
        return np.asarray(np.sqrt(np.maximum(2.0 - 2.0 * cosines, 0.0)))

    return score


if __name__ == "__main__":
    main()
