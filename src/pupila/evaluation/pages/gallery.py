"""Selects what a model gets wrong: the most confident mistakes, the most confused pairs, and where it looked."""

from collections.abc import Mapping, Sequence

import numpy as np

from pupila import images
from pupila.data import Dataset
from pupila.evaluation.metrics import Floats, Int64
from pupila.evaluation.pages.html import SIDE, Figure
from pupila.images import Pixels
from pupila.predictor import Predictor

HEAT = np.asarray([(0, 0, 30), (80, 20, 120), (200, 50, 80), (250, 150, 40), (255, 250, 170)], dtype=np.float64)
"""Colours of a map from 0 to 1, in equal steps."""

HEAT_OPACITY = 0.6
"""Of the hottest place: the picture stays visible beneath."""


def confident_mistakes(probabilities: Floats, labels: Int64, most: int, classes: tuple[int, ...] = ()) -> Int64:
    """Return the indices of wrong answers, the most confident first, at most so many.

    classes: only of pictures of these that are taken for one of these.
    """
    answers = probabilities.argmax(axis=1)
    wrong = answers != labels
    if classes:
        wrong &= np.isin(labels, classes) & np.isin(answers, classes)
    indices = np.flatnonzero(wrong)
    order = np.argsort(-probabilities[indices].max(axis=1), kind="stable")
    return indices[order[:most]]


def confused_pairs(confusion: Int64, most: int) -> list[tuple[int, int]]:
    """Return the pairs of classes with mistakes between them, the most frequent first, at most so many."""
    both_ways = np.triu(confusion + confusion.T, k=1)
    order = np.argsort(-both_ways, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, both_ways.shape), strict=True)
    return [(int(first), int(second)) for first, second in pairs if both_ways[first, second]]


def exhibits(
    predictor: Predictor, dataset: Dataset, labels: Int64, indices: Sequence[int] | Int64, links: Mapping[str, str]
) -> list[Figure]:
    """Return the pictures at these indices, each beside the activation map of the answered class over it.

    `labels` are in the model's order of classes. links: the address of a picture's file, by the picture's name.
    """
    if not len(indices):
        return []
    outputs = predictor.outputs(dataset.images[np.asarray(indices)])
    names, shown = predictor.manifest.classes, []
    for index, chances, cam in zip(indices, predictor.probabilities(outputs.logits), outputs.cam, strict=True):
        answer, picture = int(chances.argmax()), enlarge(dataset.images[index])
        name = dataset.names[int(index)] if dataset.names else f"picture {index}"
        caption = f"{names[int(labels[index])]} → {names[answer]}, {chances[answer]:.0%}"
        shown.append(Figure([picture, overlaid(picture, cam)], caption, name, links.get(name, "")))
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
