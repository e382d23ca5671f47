"""Is a picture none of the classes? Candidate scores, how well each tells, and the threshold. Higher = more unknown.

Knows logits and features; the score that is served is the energy, in predictor.py, and the tests hold the two together.
"""

from dataclasses import dataclass

import numpy as np

from pupila.evaluation.logits import Float64, Floats, Int64, log_softmax

NEIGHBOUR = 50
"""The k of the k-th nearest neighbour: what Sun et al. use for CIFAR-10."""

CHUNK = 256
"""Pictures at a time whose distances are in memory: 256 x 50,000 in float64 are 100 MB."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says of N pictures: logits [N, K] and features [N, D]."""

    logits: Floats
    features: Floats


def energy(logits: Floats, temperature: float = 1.0) -> Float64:
    """Return -T log sum exp(logits / T), [N]. Liu et al., "Energy-based Out-of-distribution Detection", 2020."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    peak = scaled.max(axis=1)
    return np.asarray(-temperature * (peak + np.log(np.exp(scaled - peak[:, np.newaxis]).sum(axis=1))))


def doubt(logits: Floats, temperature: float = 1.0) -> Float64:
    """Return 1 - confidence, [N]. Hendrycks and Gimpel, "A Baseline for Detecting Misclassified ...", 2017."""
    return np.asarray(-np.expm1(log_softmax(logits, temperature).max(axis=1)))


class Mahalanobis:
    """Squared distance to the nearest class mean, measured in the spread that all classes share.

    Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples ...", 2018.
    """

    def __init__(self, features: Floats, labels: Int64) -> None:
        """Take training features [N, D] and labels [N]."""
        values = np.asarray(features, dtype=np.float64)
        present, compact = np.unique(labels, return_inverse=True)
        means = np.stack([values[labels == label].mean(axis=0) for label in present])
        self._whitener = _whitener(values - means[compact])
        self._means = means @ self._whitener

    def score(self, features: Floats) -> Float64:
        """Return [N] for features [N, D]."""
        white = np.asarray(features, dtype=np.float64) @ self._whitener
        squares = (white**2).sum(axis=1)[:, np.newaxis] + (self._means**2).sum(axis=1)
        return np.asarray(np.maximum(squares - 2 * white @ self._means.T, 0.0).min(axis=1))


class NearestNeighbours:
    """Distance to the k-th nearest training picture, features scaled to length 1.

    Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors", 2022.
    """

    def __init__(self, features: Floats, k: int = NEIGHBOUR) -> None:
        self._reference = _normalised(features)
        self._k = min(k, len(features))

    def score(self, features: Floats) -> Float64:
        """Return [N] for features [N, D]."""
        queries = _normalised(features)
        last = len(self._reference) - self._k
        nearest = [
            np.partition(queries[start : start + CHUNK] @ self._reference.T, last, axis=1)[:, last]
            for start in range(0, len(queries), CHUNK)
        ]
        cosine = np.concatenate(nearest) if nearest else np.zeros(0)
        return np.asarray(np.sqrt(np.maximum(2.0 - 2.0 * cosine, 0.0)))


def auroc(known: Floats, unknown: Floats) -> float:
    """Return how often an unknown picture scores higher than a known one, ties counting half; 0.5 is chance.

    Exact: the Mann-Whitney statistic over the number of pairs.
    """
    if not len(known) or not len(unknown):
        raise ValueError("AUROC needs at least one known and one unknown picture.")
    ordered = np.sort(known)
    below = np.searchsorted(ordered, unknown, side="left")
    up_to = np.searchsorted(ordered, unknown, side="right")
    return float((below + up_to).sum() / (2 * len(known) * len(unknown)))


def threshold(scores_of_known: Floats, keep: float = 0.95) -> float:
    """Return the smallest score that at least the fraction `keep` of the known pictures does not exceed."""
    if not len(scores_of_known):
        raise ValueError("A threshold needs the score of at least one known picture.")
    return float(np.quantile(scores_of_known, keep, method="inverted_cdf"))


def compare_candidates(
    reference: Answers, labels: Int64, known: Answers, unknown: Answers, temperature: float = 1.0
) -> dict[str, float]:
    """Return the AUROC of each candidate, best first. `reference` are training pictures, which fit the distances."""
    mahalanobis = Mahalanobis(reference.features, labels)
    neighbours = NearestNeighbours(reference.features)
    figures = {
        "energy": auroc(energy(known.logits, temperature), energy(unknown.logits, temperature)),
        "doubt": auroc(doubt(known.logits, temperature), doubt(unknown.logits, temperature)),
        "mahalanobis": auroc(mahalanobis.score(known.features), mahalanobis.score(unknown.features)),
        "neighbours": auroc(neighbours.score(known.features), neighbours.score(unknown.features)),
    }
    return dict(sorted(figures.items(), key=lambda item: -item[1]))


def _whitener(deviations: Float64) -> Float64:
    """Return W [D, D] such that |x W| is the Mahalanobis length of x.

    The covariance is drawn towards a multiple of the identity by D / (N + D): hardly at 45,000 pictures, and enough at
    1,000 that the 512 x 512 matrix can be inverted.
    """
    n, d = deviations.shape
    covariance = deviations.T @ deviations / n
    weight = d / (n + d)
    scale = np.trace(covariance) / d or 1.0
    variances, axes = np.linalg.eigh((1 - weight) * covariance + weight * scale * np.eye(d))
    return np.asarray(axes / np.sqrt(variances))


def _normalised(features: Floats) -> Float64:
    values = np.asarray(features, dtype=np.float64)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))
