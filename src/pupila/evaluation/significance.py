"""Hypothesis tests without SciPy: McNemar's, Kolmogorov and Smirnov's, and the G-test."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pupila.evaluation.logits import Float64, Int64

DRAWS = 9999
"""Shuffles of two rows of counts that a G is compared with."""


@dataclass(frozen=True)
class McNemar:
    """The pictures on which the models differ, and how likely so uneven a split is if they are equally good."""

    only_first: int
    """Pictures that the first model alone has right."""
    only_second: int
    p_value: float
    """Two-sided, exact; below 0.05 is the usual mark for a real difference."""


def mcnemar(first_right: NDArray[np.bool_], second_right: NDArray[np.bool_]) -> McNemar:
    """Compare two models by McNemar's exact test, which asks less of N than two separate intervals do.

    McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 1947.
    """
    if first_right.shape != second_right.shape:
        raise ValueError(f"Expected the same pictures, got {len(first_right)} and {len(second_right)}.")
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    return McNemar(only_first, only_second, binomial_p_value(only_first, only_second))


def binomial_p_value(one: int, other: int) -> float:
    """Return the two-sided probability of a split at least as uneven of one + other tosses of a fair coin."""
    tosses, term, tail = one + other, 1, 0
    for heads in range(min(one, other) + 1):  # whole numbers, so exact at any size
        tail += term
        term = term * (tosses - heads) // (heads + 1)
    return min(1.0, 2 * tail / (1 << tosses))


def ks_gap(served: Float64, quantiles: Float64) -> tuple[str, float, float]:
    """Return where the distribution functions of a sorted sample and of quantiles differ most, and both shares there.

    That tells the direction, which the medians need not: of a good model both are 1.
    """
    places = np.union1d(served, quantiles)
    gaps = []
    phrases: dict[Literal["left", "right"], str] = {"left": "below", "right": "at most"}
    for side, words in phrases.items():  # both functions have jumps, where the limits from both sides count
        ours = np.searchsorted(served, places, side) / len(served)
        reference = _cumulative(quantiles, places, side)
        most = int(np.abs(ours - reference).argmax())
        gaps.append((f"{words} {places[most]:.2f}", float(ours[most]), float(reference[most])))
    return max(gaps, key=lambda gap: abs(gap[1] - gap[2]))


def _cumulative(quantiles: Float64, places: Float64, side: str) -> Float64:
    """Return the share of the distribution below each place, straight between quantiles."""
    positions = np.linspace(0, 1, len(quantiles))
    between = np.interp(places, quantiles, positions)
    first, last = np.searchsorted(quantiles, places, "left"), np.searchsorted(quantiles, places, "right") - 1
    at_one = (last >= first) & (last >= 0)
    ends = positions[np.minimum(first, len(quantiles) - 1)] if side == "left" else positions[np.maximum(last, 0)]
    return np.asarray(np.where(at_one, ends, between))


def ks_p(distance: float, n: int, m: int) -> float:
    """Return the probability of such a distance or a larger one between samples of n and m from one distribution.

    Kolmogorov's series with the correction for small samples of Stephens, "Use of the Kolmogorov-Smirnov, Cramer-von
    Mises and Related Statistics without Extensive Tables", 1970. Values that occur several times make it too large.
    """
    scaled = _scale(n, m) * distance
    if scaled < 0.2:
        return 1.0  # the series converges slowly there, to 1 within 1e-12
    terms = [(-1.0) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101)]
    return min(max(2 * math.fsum(terms), 0.0), 1.0)


def ks_distance(p: float, n: int, m: int) -> float:
    """Return the distance that has this probability, below 0.1: there the series is its first term alone."""
    return math.sqrt(math.log(2 / p) / 2) / _scale(n, m)


def _scale(n: int, m: int) -> float:
    root = math.sqrt(n * m / (n + m))
    return root + 0.12 + 0.11 / root


def g_test(served: Int64, reference: Int64) -> tuple[float, float]:
    """Return G for two rows of counts, and the probability of such a G or a larger one if both are of one population.

    The probability is counted, not looked up: the pictures are dealt out anew to the two rows, DRAWS times from a fixed
    seed, which is right for rare classes, too, where the usual chi-squared approximation is not.
    """
    pooled = served + reference
    kept = pooled > 0
    served, reference, pooled = served[kept], reference[kept], pooled[kept]
    value = float(_g(served[np.newaxis], pooled)[0])
    dealt = np.random.default_rng(0).multivariate_hypergeometric(pooled, int(served.sum()), DRAWS, method="marginals")
    larger = int((_g(dealt, pooled) >= value * (1 - 1e-9)).sum())
    return value, (larger + 1) / (DRAWS + 1)


def _g(rows: Int64, pooled: Int64) -> Float64:
    """Return G [B] for B ways to choose rows [B, K] out of pooled [K]: 2 sum O ln(O / E) over both rows."""
    others = pooled - rows
    total, size = pooled.sum(), rows.sum(axis=1, keepdims=True)
    result = np.zeros(len(rows))
    for counts, share in ((rows, size / total), (others, 1 - size / total)):
        expected = pooled * share
        ratio = np.where(counts > 0, counts / np.maximum(expected, 1e-300), 1.0)
        result += 2 * (counts * np.log(ratio)).sum(axis=1)
    return np.asarray(result)
