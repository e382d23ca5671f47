"""How far a confidence can be trusted, and the one number that mends it: the temperature. Knows only logits and labels.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
"""

import math
from dataclasses import dataclass

import numpy as np

from pupila.evaluation.logits import Floats, Int64, check, log_softmax

BINS = 15
"""As in Guo et al., so that figures can be compared."""

COLDEST, HOTTEST = 0.01, 100.0
"""Where the temperature is searched: far beyond any that a trained network has needed."""


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
