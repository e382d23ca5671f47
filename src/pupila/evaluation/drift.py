"""Drift detection: are the pictures that a model serves still like those that it was judged on? Compares answers.

Three things are compared with a reference: how sure the answers are, which classes are answered, and how many pictures
look like none of them. Each counts as changed only if the difference is both hard to explain by chance and large
enough to matter: with many pictures the one alone would raise a false alarm, with few pictures the other.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pupila.data import load_dataset
from pupila.errors import DataError, ModelError
from pupila.evaluation.evaluate import predict_scores
from pupila.evaluation.metrics import Float64, Floats, Int64, log_softmax
from pupila.predictor import Predictor

QUANTILES = 201
"""Of the reference's confidences, from the smallest to the largest: two for each percent, and one more."""
ALPHA = 0.001
"""Probability, for each of the three comparisons, of calling chance a change, before the size of it is looked at."""
CONFIDENCE_FLOOR = 0.1
"""Smallest change of the confidences: the largest distance between the two distribution functions."""
MIX_FLOOR = 0.1
"""Smallest change of the class mix: the share of pictures that would have to change class to undo it."""
UNKNOWN_FLOOR = 0.05
"""Smallest change of the share of pictures that look like none of the classes."""
DRAWS = 9999
"""Shuffles of two rows of counts that a G is compared with."""
ENOUGH = 50
"""Pictures below which nothing is said."""


@dataclass(frozen=True, eq=False)
class ServedAnswers:
    """What was answered for N pictures."""

    labels: Int64
    """[N], indices into the classes."""
    confidences: Floats
    """[N], 0 to 1, calibrated."""
    unknown: int
    """How many look like none of the classes."""


@dataclass(frozen=True)
class Finding:
    """One comparison."""

    what: str
    changed: bool
    statistic: str
    """Its name."""
    value: float
    p: float
    effect: float
    """Size of the change, on the scale of its floor."""
    words: str
    """What differs, for people."""

    def to_text(self) -> str:
        """Return one line."""
        p = f"p < {1 / DRAWS:.1g}" if self.p <= 1 / DRAWS else f"p = {self.p:.2g}"
        verdict = "changed" if self.changed else "no change"
        return f"{self.what}: {verdict}. {self.words} ({self.statistic} = {self.value:.3g}, {p})"


@dataclass(frozen=True)
class Drift:
    """All comparisons of N served pictures with a reference."""

    n: int
    reference_n: int
    findings: tuple[Finding, ...]

    @property
    def changed(self) -> bool:
        """Whether anything has changed."""
        return any(finding.changed for finding in self.findings)

    @property
    def noticeable(self) -> float:
        """The smallest effect on the confidence that would be called a change: with few pictures only a large one."""
        return max(CONFIDENCE_FLOOR, ks_distance(ALPHA, self.n, self.reference_n))

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        findings = [vars(finding) for finding in self.findings]
        numbers = {"n": self.n, "reference_n": self.reference_n, "noticeable": self.noticeable}
        return {"changed": self.changed, **numbers, "findings": findings}

    def to_text(self, split: str) -> str:
        """Return a few lines; split: what the reference is of."""
        lines = [f"{self.n:,} served pictures against {self.reference_n:,} of the reference ({split})."]
        lines += [finding.to_text() for finding in self.findings]
        if self.noticeable >= 1:
            lines.append(
                "So few pictures cannot show any change of the confidence: collect more, or give a larger --reference."
            )
        elif self.noticeable > 2 * CONFIDENCE_FLOOR:
            lines.append(
                f"So few pictures show large changes only: of the confidence, those of D = {self.noticeable:.2f} up."
            )
        if self.changed:
            lines.append("Something has changed: look at the pictures on the server's page /review, and correct some.")
        else:
            lines.append("Nothing has changed as far as the answers tell.")
        return "\n".join(lines)


def answers_of(scores: Floats, temperature: float, threshold: float | None) -> ServedAnswers:
    """Return what a model with this temperature and unknown threshold answers, for its scores [N, K + 1]."""
    logits = scores[:, :-1]
    confidences = np.exp(log_softmax(logits, temperature).max(axis=1))
    unknown = 0 if threshold is None else int((scores[:, -1] > threshold).sum())
    return ServedAnswers(logits.argmax(axis=1).astype(np.int64), confidences, unknown)


def reference_of(answers: ServedAnswers, classes: Sequence[str], split: str) -> dict[str, Any]:
    """Return what a model file keeps of the answers on pictures as they should be."""
    positions = np.linspace(0, 1, QUANTILES)
    confidences = np.quantile(answers.confidences, positions, method="inverted_cdf")
    return {
        "split": split,
        "n": len(answers.labels),
        "confidence": [round(float(value), 5) for value in confidences],
        "answers": np.bincount(answers.labels, minlength=len(classes)).tolist(),
        "unknown": answers.unknown,
    }


def reference_for(predictor: Predictor, data: str | None) -> Mapping[str, Any]:
    """Return the reference in the manifest, or one made of the model's answers on a data set.

    Raises ModelError if there is none, and DataError if the model was trained on that data set.
    """
    manifest = predictor.manifest
    if data is None:
        if not manifest.reference:
            raise ModelError(
                f"The model {manifest.name!r} has no reference, as an older Pupila wrote it. Give pictures like those "
                "that it should meet: --reference DATA"
            )
        return manifest.reference
    splits = load_dataset(data, manifest.input_size, framing=manifest.framing)
    dataset, part = splits.part(None)
    if part == "all" and splits.fingerprint == manifest.data.get("fingerprint"):
        message = f"{data}: the model was trained on these pictures, and is surer of them than of any it has not seen."
        raise DataError(f"{message} Give --reference others, as it should meet them.")
    scores = predict_scores(predictor, dataset.images)
    answers = answers_of(scores, manifest.temperature, manifest.unknown_threshold)
    return reference_of(answers, manifest.classes, f"{data}, {part}")


def compare(served: ServedAnswers, reference: Mapping[str, Any], classes: Sequence[str]) -> Drift:
    """Compare what was served with a reference, as `reference_of` made it. Raises DataError for too few pictures."""
    n, reference_n = len(served.labels), int(reference["n"])
    if n < ENOUGH:
        raise DataError(f"There are {n} different served pictures: too few to say anything. Collect at least {ENOUGH}.")
    findings = (
        compare_confidence(served.confidences, np.asarray(reference["confidence"], dtype=np.float64), reference_n),
        compare_mix(served.labels, np.asarray(reference["answers"], dtype=np.int64), classes),
        compare_unknown(served.unknown, n, int(reference["unknown"]), reference_n),
    )
    return Drift(n, reference_n, findings)


def compare_confidence(confidences: Floats, quantiles: Float64, reference_n: int) -> Finding:
    """Kolmogorov and Smirnov's test of two samples, of which one is known by its quantiles."""
    served: Float64 = np.sort(np.asarray(confidences).astype(np.float64).round(5))
    place, now, before = ks_gap(served, quantiles)
    distance = abs(now - before)
    p = ks_p(distance, len(served), reference_n)
    changed = p < ALPHA and distance >= CONFIDENCE_FLOOR
    how = ("less sure" if now > before else "surer") if changed else "as sure"
    middle, reference_middle = float(np.median(served)), float(np.median(quantiles))
    words = f"Answers are {how}: median {middle:.2f}, in the reference {reference_middle:.2f}."
    shown = middle < reference_middle if now > before else middle > reference_middle
    if changed and not shown:
        words += f" {100 * now:.0f} % are at most {place:.2f}, in the reference {100 * before:.0f} %."
    return Finding("Confidence", changed, "Kolmogorov-Smirnov D", distance, p, distance, words)


def compare_mix(labels: Int64, reference: Int64, classes: Sequence[str]) -> Finding:
    """A G-test (likelihood ratio) of two samples of classes."""
    served = np.bincount(labels, minlength=len(classes)).astype(np.int64)
    shares = served / served.sum() - reference / reference.sum()
    effect = float(np.abs(shares).sum() / 2)
    value, p = g_test(served, reference)
    most = int(np.abs(shares).argmax())
    now, before = served[most] / served.sum(), reference[most] / reference.sum()
    words = (
        f"Largest difference: {classes[most]}, {100 * now:.0f} % of the answers, in the reference {100 * before:.0f} %."
    )
    return Finding("Class mix", p < ALPHA and effect >= MIX_FLOOR, "G", value, p, effect, words)


def compare_unknown(unknown: int, n: int, reference_unknown: int, reference_n: int) -> Finding:
    """The same test, of pictures that look like none of the classes against the others."""
    served = np.array([unknown, n - unknown], dtype=np.int64)
    reference = np.array([reference_unknown, reference_n - reference_unknown], dtype=np.int64)
    value, p = g_test(served, reference)
    now, before = unknown / n, reference_unknown / reference_n
    words = f"{100 * now:.1f} % look like none of the classes, in the reference {100 * before:.1f} %."
    effect = abs(now - before)
    return Finding("Unknown", p < ALPHA and effect >= UNKNOWN_FLOOR, "G", value, p, effect, words)


def ks_gap(served: Float64, quantiles: Float64) -> tuple[float, float, float]:
    """Return where the distribution functions of two sorted samples differ most, and the shares up to there of both.

    The second sample stands for its distribution by quantiles. The shares tell the direction, which the medians need
    not: of a good model both are 1.
    """
    places = np.union1d(served, quantiles)
    ours, reference = (np.searchsorted(sample, places, "right") / len(sample) for sample in (served, quantiles))
    most = int(np.abs(ours - reference).argmax())
    return float(places[most]), float(ours[most]), float(reference[most])


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
