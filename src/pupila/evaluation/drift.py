"""Drift detection: are the pictures that a model serves still like those that it was judged on? Compares answers.

Three things are compared with a reference: how sure the answers are, which classes are answered, and how many pictures
look like none of them. Each is two rows of counts, the confidences by bins. It counts as changed only if the difference
is both hard to explain by chance and large enough to matter: with many pictures the one alone would raise a false
alarm, with few pictures the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pupila.data import load_dataset
from pupila.errors import DataError, ModelError
from pupila.evaluation.evaluate import predict_scores
from pupila.evaluation.metrics import Float64, Floats, Int64, log_softmax
from pupila.predictor import Predictor
from pupila.progress import printable_lines

QUANTILES = 201
"""Of the reference's confidences, from the smallest to the largest: two for each percent, and one more."""
BINS = 10
"""Of the confidences, with about as many of both in each."""
ALPHA = 0.001
"""Probability, for each of the three comparisons, of calling chance a change, before the size of it is looked at."""
SMALLEST = {"Confidence": 0.1, "Class mix": 0.1, "Unknown": 0.05}
"""Smallest changes that matter: the share of pictures that would have to move to another bin or class to undo it."""
DRAWS = 9999
"""Shuffles of two rows of counts that a G is compared with."""
TOGETHER = 2**20
"""Counts that are shuffled at once: of 20,000 classes all together took ten gigabytes."""
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
    g: float
    """The statistic of g_test()."""
    p: float
    effect: float
    """Size of the change, on the scale of SMALLEST."""
    words: str
    """What differs, for people."""

    def to_text(self) -> str:
        """Return one line."""
        p = f"p < {1 / DRAWS:.1g}" if self.p <= 1 / DRAWS else f"p = {self.p:.2g}"
        return f"{self.what}: {'changed' if self.changed else 'no change'}. {self.words} (G = {self.g:.3g}, {p})"


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

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        findings = [vars(finding) for finding in self.findings]
        return {"changed": self.changed, "n": self.n, "reference_n": self.reference_n, "findings": findings}

    def to_text(self, split: str) -> str:
        """Return a few lines; split: what the reference is of."""
        lines = [f"{self.n:,} served pictures against {self.reference_n:,} of the reference ({split})."]
        lines += [finding.to_text() for finding in self.findings]
        if self.changed:
            lines.append("Something has changed: look at the pictures on the server's page /review, and correct some.")
        else:
            lines.append("Nothing has changed as far as the answers tell.")
        return printable_lines(*lines)


def answers_of(scores: Floats, temperature: float, threshold: float | None) -> ServedAnswers:
    """Return what a model with this temperature and unknown threshold answers, for its scores [N, K + 1]."""
    logits = scores[:, :-1]
    confidences = np.exp(log_softmax(logits, temperature).max(axis=1))
    unknown = 0 if threshold is None else int((scores[:, -1] > threshold).sum())
    return ServedAnswers(logits.argmax(axis=1).astype(np.int64), confidences, unknown)


def reference_of(answers: ServedAnswers, classes: Sequence[str], split: str) -> dict[str, Any]:
    """Return what a model file keeps of the answers on pictures as they should be."""
    return {
        "split": split,
        "n": len(answers.labels),
        "confidence": quantiles(answers.confidences, QUANTILES).tolist(),
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
    sure = np.asarray(reference["confidence"], dtype=np.float64)
    mix, before = np.bincount(served.labels, minlength=len(classes)), np.asarray(reference["answers"])
    shares, reference_shares = mix / mix.sum(), before / before.sum()
    most = int(np.abs(shares - reference_shares).argmax())
    strange, reference_strange = served.unknown / n, reference["unknown"] / reference_n
    findings = (
        _finding(
            "Confidence", *binned(served.confidences, sure, reference_n),
            f"The mean is {served.confidences.mean():.2f}, in the reference {sure.mean():.2f}.",
        ),
        _finding(
            "Class mix", mix, before,
            f"Largest difference: {classes[most]}, {100 * shares[most]:.0f} % of the answers, in the reference "
            f"{100 * reference_shares[most]:.0f} %.",
        ),
        _finding(
            "Unknown", np.array([served.unknown, n - served.unknown]),
            np.array([reference["unknown"], reference_n - reference["unknown"]]),
            f"{100 * strange:.1f} % look like none of the classes, in the reference {100 * reference_strange:.1f} %.",
        ),
    )  # fmt: skip
    return Drift(n, reference_n, findings)


def binned(confidences: Floats, reference: Float64, reference_n: int) -> tuple[Int64, Int64]:
    """Return how many confidences of both are in each bin. The reference's are known by quantiles.

    The bins are those of both together: of a good model most confidences are 1, and no bins of its own part them.
    """
    both = np.concatenate([quantiles(confidences, len(reference)), reference])
    edges = np.unique(quantiles(both, BINS + 1)[1:-1])
    served, known = (np.searchsorted(edges, _rounded(values)) for values in (confidences, reference))
    shares = np.bincount(known, minlength=BINS) / len(reference)
    return np.bincount(served, minlength=BINS), (shares * reference_n).round().astype(np.int64)


def quantiles(values: Floats, count: int) -> Float64:
    """Return so many quantiles, from the smallest value to the largest."""
    return _rounded(np.quantile(values, np.linspace(0, 1, count), method="inverted_cdf"))


def _rounded(values: NDArray[Any]) -> Float64:
    return np.asarray(values, dtype=np.float64).round(5)


def _finding(what: str, served: Int64, reference: Int64, words: str) -> Finding:
    effect = float(np.abs(served / served.sum() - reference / reference.sum()).sum() / 2)
    g, p = g_test(served, reference)
    return Finding(what, p < ALPHA and effect >= SMALLEST[what], g, p, effect, words)


def g_test(served: Int64, reference: Int64) -> tuple[float, float]:
    """Return G for two rows of counts, and the probability of such a G or a larger one if both are of one population.

    The probability is counted, not looked up: the pictures are dealt out anew to the two rows, DRAWS times from a fixed
    seed, which is right for rare classes, too, where the usual chi-squared approximation is not.
    """
    pooled = served + reference
    kept = pooled > 0
    served, reference, pooled = served[kept], reference[kept], pooled[kept]
    value = float(_g(served[np.newaxis], pooled)[0])
    generator, step, larger = np.random.default_rng(0), max(1, TOGETHER // len(pooled)), 0
    for start in range(0, DRAWS, step):
        count = min(step, DRAWS - start)
        dealt = generator.multivariate_hypergeometric(pooled, int(served.sum()), count, method="marginals")
        larger += int((_g(dealt, pooled) >= value * (1 - 1e-9)).sum())
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
