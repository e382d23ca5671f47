"""Which labels are likely wrong: confident learning on out-of-sample probabilities. Knows those and labels only.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021. Written from the
paper. A class's threshold is the mean probability of it over the pictures labelled so; a picture that passes the
threshold of another class, and of that class most, counts as one of that class. Their numbers, by label and by what
they count as, scaled to the labels that there are, say how many of each kind are wrong; those least like their label
are named first.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pupila.evaluation.metrics import Float64, Int64


@dataclass(frozen=True, eq=False)
class Doubts:
    """What is likely wrong among N labels."""

    ranking: Int64
    """Rows [N]: the likeliest wrong label first."""
    score: Float64
    """[N], 0 to 1: the higher, the likelier is the label wrong; by row, not by rank."""
    suggested: Int64
    """[N]: the most probable class other than the label, by row."""
    count: int
    """How many labels are estimated to be wrong: the first so many of the ranking are the list to look at."""


def doubts(probabilities: Float64, labels: Int64) -> Doubts:
    """Rank labels [N] by out-of-sample probabilities [N, K]; the rows must sum to 1."""
    own = probabilities[np.arange(len(labels)), labels]
    others = probabilities.copy()
    others[np.arange(len(labels)), labels] = -1.0
    suggested = others.argmax(axis=1)
    score = 1.0 - own  # the paper's self-confidence; its normalized margin finds a third less (experiments-data.md)
    joint = estimated_joint(confident_joint(probabilities, labels), np.bincount(labels, minlength=others.shape[1]))
    count = round(len(labels) * float(joint.sum() - np.trace(joint)))
    ranking = np.lexsort((np.arange(len(labels)), -score))
    return Doubts(ranking, score, suggested.astype(np.int64), count)


def thresholds(probabilities: Float64, labels: Int64) -> Float64:
    """Return float64 [K]: the mean probability of each class over the pictures labelled so; 1 where there are none."""
    classes = probabilities.shape[1]
    sums = np.bincount(labels, probabilities[np.arange(len(labels)), labels], classes)
    counts = np.bincount(labels, minlength=classes)
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), 1.0))


def confident_joint(probabilities: Float64, labels: Int64) -> Int64:
    """Return int64 [K, K]: pictures by label (row) and by the class that they confidently are (column)."""
    classes = probabilities.shape[1]
    passes = probabilities >= thresholds(probabilities, labels) - 1e-6
    confident = passes.any(axis=1)
    counted = np.where(passes, probabilities, -1.0).argmax(axis=1)
    pairs = np.bincount(labels[confident] * classes + counted[confident], minlength=classes * classes)
    return pairs.reshape(classes, classes).astype(np.int64)


def estimated_joint(confident: Int64, counts: NDArray[np.integer]) -> Float64:
    """Return float64 [K, K] that sums to 1: each row of the confident joint scaled to the share of its label."""
    filled = confident + np.diag((confident.sum(axis=1) == 0).astype(np.int64))
    rows = filled / filled.sum(axis=1, keepdims=True) * np.asarray(counts)[:, np.newaxis]
    return np.asarray(rows / rows.sum())
