"""Selects what a model gets wrong: the most confident mistakes, the most confused pairs, and where it looked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pupila import images
from pupila.data import Dataset
from pupila.evaluation.metrics import Floats, Int64
from pupila.images import Pixels
from pupila.predictor import Predictor

SIDE = 96
"""Pixels a side of what is shown: three times a CIFAR picture."""

HEAT = np.asarray([(0, 0, 30), (80, 20, 120), (200, 50, 80), (250, 150, 40), (255, 250, 170)], dtype=np.float64)
"""Colours of a map from 0 to 1, in equal steps."""

HEAT_OPACITY = 0.6
"""Of the hottest place: the picture stays visible beneath."""


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One picture that was answered wrongly, and the same with the activation map of the answered class over it."""

    name: str
    """The picture's path within the data set, or its number there."""
    picture: Pixels
    overlay: Pixels
    truth: str
    answer: str
    confidence: float


@dataclass(frozen=True)
class Pair:
    """Two classes that the model takes for each other, and how often it does so in each direction."""

    first: int
    second: int
    first_as_second: int
    second_as_first: int


def confident_mistakes(probabilities: Floats, labels: Int64, most: int) -> Int64:
    """Return the indices of wrong answers, the most confident first, at most so many."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    order = np.argsort(-probabilities[wrong].max(axis=1), kind="stable")
    return wrong[order[:most]]


def confused_pairs(confusion: Int64, most: int) -> list[Pair]:
    """Return the pairs of classes with mistakes between them, the most frequent first, at most so many."""
    both_ways = np.triu(confusion + confusion.T, k=1)
    order = np.argsort(-both_ways, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(order, both_ways.shape)
    return [
        Pair(int(i), int(j), int(confusion[i, j]), int(confusion[j, i]))
        for i, j in zip(rows, columns, strict=True)
        if both_ways[i, j]
    ]


def mistakes_of(pair: Pair, probabilities: Floats, labels: Int64, most: int, shown: Sequence[int] = ()) -> Int64:
    """Return the indices of pictures of one class of the pair taken for the other, the most confident first.

    Those in `shown` are left out.
    """
    answers = probabilities.argmax(axis=1)
    first, second = pair.first, pair.second
    mixed = ((labels == first) & (answers == second)) | ((labels == second) & (answers == first))
    indices = np.setdiff1d(np.flatnonzero(mixed), np.asarray(shown, dtype=np.int64))
    return indices[np.argsort(-probabilities[indices].max(axis=1), kind="stable")[:most]]


def exhibits(predictor: Predictor, dataset: Dataset, labels: Int64, indices: Sequence[int] | Int64) -> list[Exhibit]:
    """Prepare the pictures at these indices to be shown; `labels` are in the model's order of classes."""
    if not len(indices):
        return []
    chosen = dataset.images[np.asarray(indices)]
    outputs = predictor.outputs(chosen)
    probabilities = predictor.probabilities(outputs.logits)
    names = predictor.manifest.classes
    shown = []
    for place, index in enumerate(indices):
        answer = int(probabilities[place].argmax())
        picture = enlarge(chosen[place])
        overlay = overlaid(picture, outputs.cam[place, answer])
        truth = names[int(labels[index])]
        confidence = float(probabilities[place, answer])
        name = dataset.names[int(index)] if dataset.names else f"picture {index}"
        shown.append(Exhibit(name, picture, overlay, truth, names[answer], confidence))
    return shown


def enlarge(picture: Pixels, side: int = SIDE) -> Pixels:
    """Return a square picture as uint8 [side, side, 3]: pixels repeated where that is exact, else resized."""
    size = picture.shape[0]
    if side % size == 0:
        return picture.repeat(side // size, axis=0).repeat(side // size, axis=1)
    return images.resize(picture, side)


def overlaid(picture: Pixels, activation: Floats) -> Pixels:
    """Return the picture under the positive part of a class activation map [h, w], the hottest place scaled to 1.

    Zhou et al., "Learning Deep Features for Discriminative Localization", 2016.
    """
    heat = np.maximum(np.asarray(activation, dtype=np.float64), 0.0)
    grey = (255 * heat / max(float(heat.max()), 1e-12)).astype(np.uint8)
    heat = images.resize(grey, len(picture)) / 255
    steps = np.linspace(0.0, 1.0, len(HEAT))
    colours = np.stack([np.interp(heat, steps, HEAT[:, channel]) for channel in range(3)], axis=2)
    opacity = HEAT_OPACITY * heat[:, :, np.newaxis]
    return np.asarray(np.rint((1 - opacity) * picture + opacity * colours), dtype=np.uint8)
