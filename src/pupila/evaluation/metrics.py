"""Scores of a classifier on labelled pictures, from its logits: accuracy, per class, calibration and temperature.

The temperature is the one number that mends the confidences: Guo et al., "On Calibration of Modern Neural Networks",
ICML 2017.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pupila._arguments import counted
from pupila.data.sources.archive import check_memory
from pupila.errors import DataError, ModelError

Floats = NDArray[np.float32] | NDArray[np.float64]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

TOP_K = (3, 5)
Z_95 = 1.959963984540054
"""97.5 % quantile of the normal distribution: 95 % lie within it on both sides."""
BINS = 15
"""As in Guo et al., so that figures can be compared."""
COPIES = 6
"""Of the confusion matrix, and of logits as float64: what is made of them takes so many times their numbers."""
COLDEST, HOTTEST = 0.01, 100.0
"""Where the temperature is searched: far beyond any that a trained network has needed."""


@dataclass(frozen=True)
class ClassScores:
    """One class against all others; a ratio whose denominator is 0 counts as 0 (as in scikit-learn)."""

    category: str
    precision: float
    recall: float
    f1: float
    support: int
    """How many pictures of this class there are."""


@dataclass(frozen=True, eq=False)
class Scores:
    """All fractions are in 0 to 1; calibration figures are of the answer's confidence at `temperature`."""

    accuracy: float
    n: int
    interval: tuple[float, float]
    """95 % Wilson interval of the accuracy."""
    top_k: dict[int, float]
    """How often the right class is among the first k; only for k below the number of classes."""
    balanced_accuracy: float
    """Mean recall of the classes that have pictures."""
    nll: float
    """Mean negative log likelihood, in nats."""
    ece: float
    """Expected calibration error, 15 bins."""
    uncalibrated_nll: float
    """At temperature 1."""
    uncalibrated_ece: float
    """At temperature 1."""
    temperature: float
    classes: tuple[ClassScores, ...]
    confusion: Int64
    """[K, K]: row = truth, column = answer."""

    def summary(self) -> dict[str, Any]:
        """Return the figures that fit on one line: all but those of each class."""
        figures = {name: value for name, value in vars(self).items() if name not in ("classes", "confusion")}
        top_k = {str(k): share for k, share in self.top_k.items()}
        return {**figures, "interval": list(self.interval), "top_k": top_k}

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain numbers, strings, lists and dicts; "accuracy", "n" and "interval" come first."""
        return {
            **self.summary(),
            "classes": [vars(scores) for scores in self.classes],
            "confusion": self.confusion.tolist(),
        }


def score(logits: Floats, labels: Int64, classes: Sequence[str], temperature: float = 1.0) -> Scores:
    """Score logits [N, K] against labels [N], indices into the K classes. See `check` for what is raised."""
    check(logits, labels)
    if len(classes) != logits.shape[1]:
        raise ValueError(f"Expected {logits.shape[1]} class names, got {len(classes)}.")
    confusion = confusion_matrix(logits.argmax(axis=1), labels, len(classes))
    per_class = class_scores(confusion, classes)
    n, right = len(labels), int(np.trace(confusion))
    raw = reliability(logits, labels)
    scaled = reliability(logits, labels, temperature)
    return Scores(
        accuracy=right / n,
        n=n,
        interval=wilson(right, n),
        top_k={k: top_k_accuracy(logits, labels, k) for k in TOP_K if k < len(classes)},
        balanced_accuracy=float(np.mean([c.recall for c in per_class if c.support])),
        nll=negative_log_likelihood(logits, labels, temperature),
        ece=expected_calibration_error(scaled),
        uncalibrated_nll=negative_log_likelihood(logits, labels),
        uncalibrated_ece=expected_calibration_error(raw),
        temperature=temperature,
        classes=per_class,
        confusion=confusion,
    )


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of right / n.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927; unlike the normal
    approximation it stays within 0 to 1, and is of use at 43 of 80 pictures as at 9,300 of 10,000.
    """
    share, z2 = right / n, Z_95**2
    centre = share + z2 / (2 * n)
    spread = Z_95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low, high = ((centre + side * spread) / (1 + z2 / n) for side in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def confusion_matrix(answers: Int64, labels: Int64, classes: int) -> Int64:
    """Count each pair of truth (row) and answer (column): int64 [K, K]. Raises DataError if it would not fit."""
    check_memory(8.0 * COPIES * classes**2, f"The confusions of {counted(classes, 'class')}", "Use fewer classes.")
    pairs = np.bincount(labels * classes + answers, minlength=classes * classes)
    return pairs.reshape(classes, classes).astype(np.int64, copy=False)


def top_k_accuracy(logits: Floats, labels: Int64, k: int) -> float:
    """Return how often the label is among the k largest logits; of equal ones the first counts as larger."""
    own = logits[np.arange(len(labels)), labels][:, np.newaxis]
    earlier = np.arange(logits.shape[1]) < labels[:, np.newaxis]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    return float((rank < k).mean())


def class_scores(confusion: Int64, classes: Sequence[str]) -> tuple[ClassScores, ...]:
    """Return precision, recall, F1 and support of each class."""
    right = np.diag(confusion).astype(np.float64)
    answered, support = confusion.sum(axis=0), confusion.sum(axis=1)
    precision = right / np.maximum(answered, 1)
    recall = right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(answered + support, 1)
    return tuple(
        ClassScores(name, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
        for i, name in enumerate(classes)
    )


@dataclass(frozen=True)
class Bin:
    """The pictures whose confidence is in (low, high]; accuracy and mean confidence are 0 where there are none."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def negative_log_likelihood(logits: Floats, labels: Int64, temperature: float = 1.0) -> float:
    """Return the mean of -log p(label), in nats."""
    return float(-log_softmax(logits, temperature)[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: Floats, labels: Int64) -> float:
    """Return the temperature that minimises the negative log likelihood, to about 1e-9; fit it on held-out pictures.

    The likelihood is convex in 1/T, so it has one minimum in log T, and the sign of its slope says on which side that
    lies: bisection cannot fail. With every picture right it falls for ever as T goes to 0, which says nothing of how
    confident the model may be: 1.0 then.
    """
    check(logits, labels)
    scores = np.asarray(logits, dtype=np.float64)
    label_scores = scores[np.arange(len(labels)), labels]
    if (label_scores == scores.max(axis=1)).all():
        return 1.0
    low, high = math.log(COLDEST), math.log(HOTTEST)
    while high - low > 1e-9:
        middle = (low + high) / 2
        expected = (np.exp(log_softmax(scores, math.exp(middle))) * scores).sum(axis=1)
        if (expected - label_scores).mean() > 0:  # the slope by 1/T: over-confident, so the minimum is hotter
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def reliability(logits: Floats, labels: Int64, temperature: float = 1.0, bins: int = BINS) -> tuple[Bin, ...]:
    """Sort the pictures by the confidence of the answer into equally wide bins over 0 to 1, right edges included."""
    confidence = np.exp(log_softmax(logits, temperature).max(axis=1))
    right = logits.argmax(axis=1) == labels
    edges = np.linspace(0.0, 1.0, bins + 1)
    which = np.digitize(confidence, edges[1:-1], right=True)
    count = np.bincount(which, minlength=bins)
    filled = np.maximum(count, 1)
    mean_confidence = np.bincount(which, confidence, bins) / filled
    accuracy = np.bincount(which, right, bins) / filled
    return tuple(
        Bin(float(edges[i]), float(edges[i + 1]), int(count[i]), float(mean_confidence[i]), float(accuracy[i]))
        for i in range(bins)
    )


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """Return the mean of |accuracy - confidence| over the bins, weighted by how many pictures each holds."""
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / total


def log_softmax(logits: Floats, temperature: float = 1.0) -> Float64:
    """Return log probabilities, float64 [N, K], of logits / temperature."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))


def check(logits: Floats, labels: Int64) -> None:
    """Raise DataError if there is no picture or no room for copies, ModelError if a logit is not finite.

    ValueError if shapes disagree.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"Expected logits [N, K] and labels [N], got {list(logits.shape)} and {list(labels.shape)}.")
    count, classes = logits.shape
    what = f"The answers to {counted(count, 'picture')} in {counted(classes, 'class')}"
    check_memory(8.0 * COPIES * logits.size, what, "Use fewer classes.")
    if not labels.size:
        raise DataError("There are no pictures to score. Give a data set with at least one.")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"Labels must be in 0 to {logits.shape[1] - 1}, got {labels.min()} to {labels.max()}.")
    if not np.isfinite(logits).all():
        raise ModelError("The model's logits are not finite (nan or inf). Train it again with a lower learning rate.")
