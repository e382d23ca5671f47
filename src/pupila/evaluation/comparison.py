"""Two model files on the same pictures: is one better, for which classes, and whose answers changed.

Knows model files and a data set; each model reads the pictures in its own size and framing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pupila.data import load_dataset
from pupila.data.quality.labels import picture_paths
from pupila.errors import DataError
from pupila.evaluation.evaluate import evaluate
from pupila.evaluation.metrics import Scores
from pupila.evaluation.pages import html
from pupila.evaluation.pages.gallery import enlarge
from pupila.evaluation.significance import McNemar, mcnemar
from pupila.images import Pixels
from pupila.predictor import Predictor

Names = NDArray[np.str_]
ModelAnswers = tuple[list[str], Names, Names, Scores, str, NDArray[np.uint8]]
"""Paths, true classes, answered classes, scores, the part's name, and its pictures."""

LUCK = 0.05
"""P-value below which a difference is called real."""
SHOWN = 200
CAUTION = (
    "A model that was trained on pictures among these answers them better than any others. "
    "For an honest comparison keep a test folder beside train."
)
"""Said of every part but test."""


@dataclass(frozen=True)
class ClassDifference:
    """Recall of one class by both models."""

    category: str
    pictures: int
    first: float
    second: float


@dataclass(frozen=True)
class Change:
    """A picture that the two models answer differently."""

    path: str
    truth: str
    first: str
    second: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """All that is said of two models on one part of a data set."""

    names: tuple[str, str]
    part: str
    n: int
    accuracy: tuple[float, float]
    test: McNemar
    classes: Sequence[ClassDifference]
    """By how much the recall changed, the largest loss first."""
    changes: Sequence[Change]
    """First those that only the first model has right, then those that only the second has, then the others."""
    pictures: Sequence[Pixels]
    """Of the first SHOWN changes."""

    @property
    def caution(self) -> str:
        """Return what makes the comparison doubtful, or nothing."""
        return "" if self.part == "test" else CAUTION

    def verdict(self) -> str:
        """Return one sentence."""
        one, other, p = self.test.only_first, self.test.only_second, self.test.p_value
        counts = f"only the first has {one:,} right, only the second {other:,}: p = {p:.3g} (McNemar, exact)"
        if p >= LUCK:
            return f"No real difference shows: {counts}."
        return f"The {'first' if one > other else 'second'} is better: {counts}."

    def to_json(self) -> dict[str, Any]:
        """Return all of it but the pixels."""
        return {
            "models": list(self.names), "split": self.part, "n": self.n, "accuracy": list(self.accuracy),
            **asdict(self.test), "verdict": self.verdict(), "caution": self.caution,
            "classes": [asdict(c) for c in self.classes], "changes": [asdict(c) for c in self.changes],
        }  # fmt: skip

    def to_text(self, most: int = 20) -> str:
        """Return a summary for a terminal."""
        lines = [f"{self.part}, n = {self.n:,}: accuracy {self.accuracy[0]:.4f} and {self.accuracy[1]:.4f}"]
        lines += [self.verdict(), *filter(None, [self.caution])]
        lines += [f"{'recall of class':20} {'first':>7} {'second':>7} {'change':>8} {'pictures':>9}"]
        lines += [
            f"{c.category:20} {c.first:7.3f} {c.second:7.3f} {c.second - c.first:+8.3f} {c.pictures:9,}"
            for c in self.classes
        ]
        lines.append(f"{len(self.changes):,} answers differ.")
        lines += [f"  {c.path}: {c.first} -> {c.second} (is {c.truth})" for c in self.changes[:most]]
        more = len(self.changes) - most
        return "\n".join([*lines, f"  and {more:,} more: see --json or --report"] if more > 0 else lines)


def compare_models(first: Path, second: Path, data: str, part: str | None = None) -> Comparison:
    """Score both models on one part of a data set, test if there is one, and compare them picture by picture.

    Raises DataError if the classes are not those of both models, and what loading raises.
    """
    models = [Predictor.load(path) for path in (first, second)]
    looked = [_answers(model, data, part) for model in models]
    (paths, truth, one, scores, name, pictures), (other_paths, _, other, other_scores, _, _) = looked
    if paths != other_paths:
        raise DataError(f"{data}: its pictures changed while they were read. Compare again.")
    test = mcnemar(one == truth, other == truth)
    rows = _changed(truth, one, other)
    return Comparison(
        (f"{models[0].manifest.name} {models[0].version}", f"{models[1].manifest.name} {models[1].version}"),
        name, len(truth), (scores.accuracy, other_scores.accuracy), test, _classes(scores, other_scores),
        [Change(paths[r], truth[r], one[r], other[r]) for r in rows], [pictures[r] for r in rows[:SHOWN]],
    )  # fmt: skip


def write_comparison(path: Path, found: Comparison) -> None:
    """Write a self-contained page with the pictures whose answer changed; raises DataError if it cannot be written."""
    figures = [
        (f"{found.accuracy[0]:.2%}", "accuracy of the first", found.names[0]),
        (f"{found.accuracy[1]:.2%}", "accuracy of the second", found.names[1]),
        (f"{found.test.p_value:.3g}", "p-value", "McNemar, exact"),
        (f"{len(found.changes):,}", "answers differ", f"of {found.n:,}"),
    ]
    rows = [(c.category, f"{c.first:.3f}", f"{c.second:.3f}", f"{c.second - c.first:+.3f}") for c in found.classes]
    shown = [
        ([enlarge(picture)], f"{c.first} → {c.second} (is {c.truth}), {c.path}")
        for c, picture in zip(found.changes, found.pictures, strict=False)
    ]
    sections = [
        html.section("Summary", f"{found.verdict()} {found.caution}".strip(), html.numbers(figures)),
        html.section("Recall of the classes", "", html.table(("class", "first", "second", "change"), rows)),
        html.section("Pictures whose answer changed", f"The first {len(shown):,}.", html.pictures(shown)),
    ]
    text = html.page("Two models compared", f"{found.names[0]} and {found.names[1]}, {found.part}", sections)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}). Choose another place.") from error


def _answers(model: Predictor, data: str, part: str | None) -> ModelAnswers:
    """Read the data as the model wants it, and let the model answer."""
    splits = load_dataset(data, model.manifest.input_size, framing=model.manifest.framing, one_class=True)
    dataset, name = splits.part(part)
    named = picture_paths(splits)
    paths = [path for own in splits.parts() for path in named[own]] if name == "all" else named[name]
    evaluation = evaluate(model, dataset)
    classes = np.asarray(model.manifest.classes)
    answered = classes[evaluation.logits.argmax(axis=1)]
    return paths, classes[evaluation.labels], answered, evaluation.scores, name, dataset.images


def _changed(truth: Names, one: Names, other: Names) -> list[int]:
    rows = np.flatnonzero(one != other)
    order = np.where(one[rows] == truth[rows], 0, np.where(other[rows] == truth[rows], 1, 2))
    return [int(row) for row in rows[np.argsort(order, kind="stable")]]


def _classes(first: Scores, second: Scores) -> list[ClassDifference]:
    recall = {scores.category: scores.recall for scores in second.classes}
    found = [ClassDifference(s.category, s.support, s.recall, recall[s.category]) for s in first.classes if s.support]
    return sorted(found, key=lambda c: (c.second - c.first, c.category))
