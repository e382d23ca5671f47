"""Compares two model files on the same pictures by McNemar's test, and the trainings of a folder side by side.

Each model reads the pictures in its own size and framing.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pupila._arguments import counted
from pupila._files import is_figure, json_object, read_small
from pupila.data import Dataset, load_dataset
from pupila.data.quality.labels import picture_paths
from pupila.errors import DataError, ModelError
from pupila.evaluation.evaluate import Evaluation, score_dataset
from pupila.evaluation.metrics import Scores
from pupila.evaluation.pages import html, plots
from pupila.images import Pixels
from pupila.predictor import Predictor
from pupila.progress import printable_lines

Names = NDArray[np.object_]

LUCK = 0.05
"""P-value below which a difference is called real."""
SHOWN = 200
CAUTION = (
    "A model that was trained on pictures among these answers them better than any others. "
    "For an honest comparison keep a test folder beside train."
)
"""Said of every part but test."""
CURVES_UP_TO = 8
"""Runs whose curves fit into one plot: the best ones are drawn."""
RUN_COLUMNS = ("run", "accuracy", "95 % interval", "recipe", "weights", "epochs", "minutes", "px")


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
    only_first: int
    """Pictures that the first model alone has right."""
    only_second: int
    classes: Sequence[ClassDifference]
    """By how much the recall changed, the largest loss first."""
    changes: Sequence[Change]
    """First those that only the first model has right, then those that only the second has, then the others."""
    pictures: Sequence[Pixels]
    """Of the first SHOWN changes."""

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided; it asks less of N than two separate intervals do (Psychometrika 1947)."""
        return binomial_p_value(self.only_first, self.only_second)

    @property
    def caution(self) -> str:
        """Return what makes the comparison doubtful, or nothing."""
        return "" if self.part == "test" else CAUTION

    def verdict(self) -> str:
        """Return one sentence."""
        one, other, p = self.only_first, self.only_second, self.p_value
        counts = f"only the first has {one:,} right, only the second {other:,}: p = {p:.3g} (McNemar, exact)"
        if p >= LUCK:
            return f"No real difference shows: {counts}."
        return f"The {'first' if one > other else 'second'} is better: {counts}."

    def to_json(self) -> dict[str, Any]:
        """Return all of it but the pixels."""
        return {
            "models": list(self.names), "split": self.part, "n": self.n, "accuracy": list(self.accuracy),
            "only_first": self.only_first, "only_second": self.only_second, "p_value": self.p_value,
            "verdict": self.verdict(), "caution": self.caution,
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
        lines.append(f"Answers that differ: {len(self.changes):,}.")
        lines += [f"  {c.path}: {c.first} -> {c.second} (right: {c.truth})" for c in self.changes[:most]]
        more = len(self.changes) - most
        return printable_lines(*lines, *([f"  and {more:,} more: see --json or --report"] if more > 0 else []))


def compare_models(first: Path, second: Path, data: str, part: str | None = None) -> Comparison:
    """Score both models on one part of a data set, test if there is one, and compare them picture by picture.

    Raises DataError if the classes are not those of both models, and what loading raises.
    """
    models = [Predictor.load(path) for path in (first, second)]
    (paths, name, dataset, found), (other_paths, _, _, other_found) = (_answers(model, data, part) for model in models)
    if paths != other_paths:
        raise DataError(f"{data}: its pictures changed while they were read. Compare again.")
    truth = _named(dataset.classes, dataset.labels)
    one, other = (
        _named(model.manifest.classes, evaluation.logits.argmax(axis=1))
        for model, evaluation in zip(models, (found, other_found), strict=True)
    )
    rows = _changed(truth, one, other)
    return Comparison(
        names=(f"{models[0].manifest.name} {models[0].version}", f"{models[1].manifest.name} {models[1].version}"),
        part=name,
        n=len(truth),
        accuracy=(found.accuracy, other_found.accuracy),
        only_first=int(((one == truth) & (other != truth)).sum()),
        only_second=int(((one != truth) & (other == truth)).sum()),
        classes=_classes(found.scores, other_found.scores),
        changes=[Change(paths[r], truth[r], one[r], other[r]) for r in rows],
        pictures=[dataset.images[r] for r in rows[:SHOWN]],
    )


def write_comparison(path: Path, found: Comparison) -> None:
    """Write a self-contained page with the pictures whose answer changed; raises DataError if it cannot be written."""
    figures = [
        (f"{found.accuracy[0]:.2%}", "accuracy of the first", found.names[0]),
        (f"{found.accuracy[1]:.2%}", "accuracy of the second", found.names[1]),
        (f"{found.p_value:.3g}", "p value", "McNemar, exact"),
        (f"{len(found.changes):,}", "answers differ", f"of {found.n:,}"),
    ]
    rows = [(c.category, f"{c.first:.3f}", f"{c.second:.3f}", f"{c.second - c.first:+.3f}") for c in found.classes]
    shown = [
        html.Figure([picture], f"{c.first} → {c.second} (right: {c.truth})", c.path)
        for c, picture in zip(found.changes, found.pictures, strict=False)
    ]
    caution = [html.warning(found.caution)] if found.caution else []
    sections = [
        html.section("Summary", found.verdict(), *caution, html.numbers(figures)),
        html.section("Recall of the classes", "", html.table(("class", "first", "second", "change"), rows)),
        html.section("Pictures whose answer changed", f"Shown: {len(shown):,}.", html.pictures(shown)),
    ]
    subtitle = f"Models: {found.names[0]} and {found.names[1]}. Part: {found.part}"
    html.write_page(path, "Two models compared", subtitle, sections)


def _answers(model: Predictor, data: str, part: str | None) -> tuple[list[str], str, Dataset, Evaluation]:
    """Return the pictures' paths, the part's name, the pictures as the model wants them, and its answers."""
    splits = load_dataset(data, model.manifest.input_size, framing=model.manifest.framing, one_class=True)
    dataset, name = splits.part(part)
    named = picture_paths(splits)
    paths = [path for own in splits.parts() for path in named[own]] if name == "all" else named[name]
    return paths, name, dataset, score_dataset(model, dataset)


def binomial_p_value(one: int, other: int) -> float:
    """Return the two-sided probability of a split at least as uneven of one + other tosses of a fair coin.

    Its terms are added from the largest one on, until they change nothing: of a million tosses some thousands.
    """
    tosses, heads = one + other, min(one, other)
    ways = math.lgamma(tosses + 1) - math.lgamma(heads + 1) - math.lgamma(tosses - heads + 1)
    term, tail = 1.0, 0.0
    while tail + term > tail:
        tail += term
        term *= heads / (tosses - heads + 1)
        heads -= 1
    return min(1.0, 2 * tail * math.exp(ways - tosses * math.log(2)))


def _named(classes: Sequence[str], rows: NDArray[np.int64]) -> Names:
    """Return the class of each row as an object: an array of texts gives each the room of the longest."""
    return np.asarray(classes, dtype=object)[rows]


def _changed(truth: Names, one: Names, other: Names) -> list[int]:
    rows = np.flatnonzero(one != other)
    order = np.where(one[rows] == truth[rows], 0, np.where(other[rows] == truth[rows], 1, 2))
    return [int(row) for row in rows[np.argsort(order, kind="stable")]]


def _classes(first: Scores, second: Scores) -> list[ClassDifference]:
    recall = {scores.category: scores.recall for scores in second.classes}
    found = [ClassDifference(s.category, s.support, s.recall, recall[s.category]) for s in first.classes if s.support]
    return sorted(found, key=lambda c: (c.second - c.first, c.category))


@dataclass(frozen=True)
class RunSummary:
    """One run. Accuracy is of the exported model on the run's validation pictures; before, of its best epoch."""

    name: str
    accuracy: float
    interval: tuple[float, float] | None
    """95 %, None while there is no model file."""
    recipe: str
    weights: str
    epochs: int
    minutes: float
    network_size: int
    finished: bool
    rows: tuple[dict[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Return all but the rows of the epochs."""
        return {key: value for key, value in asdict(self).items() if key != "rows"}

    def cells(self) -> tuple[str, ...]:
        """Return what RUN_COLUMNS show of it."""
        return (
            self.name + ("" if self.finished else " (no model yet)"),
            f"{self.accuracy:.3f}",
            f"{self.interval[0]:.3f} to {self.interval[1]:.3f}" if self.interval else "",
            self.recipe, self.weights, f"{self.epochs}", f"{self.minutes:.1f}", f"{self.network_size}",
        )  # fmt: skip


def read_runs(folder: Path) -> list[RunSummary]:
    """Return the runs in a folder of runs, the best first; raises DataError if there is none."""
    found = [_read_run(path.parent) for path in sorted(folder.glob("*/metrics.jsonl"))]
    runs = [run for run in found if run is not None]
    if not runs:
        raise DataError(f"{folder}: holds no run. Give the folder that --runs of `pupila train` named, like runs.")
    return sorted(runs, key=lambda run: -run.accuracy)


def _read_run(folder: Path) -> RunSummary | None:
    """Return a run's summary, or None if its files are not readable: it may be in the middle of being made."""
    try:
        lines = read_small(folder / "metrics.jsonl").splitlines()
        rows = tuple(_figures(json_object(line)) for line in lines)
        recipe = json_object(read_small(folder / "recipe.json"))
        model = folder / "model.onnx"
        manifest = Predictor.load(model).manifest if model.exists() else None
        metrics = manifest.metrics if manifest else {}
        best, last = max(row["validation_accuracy"] for row in rows), rows[-1]
        low, high = (_figure("accuracy", bound) for bound in metrics.get("interval", (0, 0)))
        return RunSummary(
            folder.name, _figure("accuracy", metrics.get("accuracy", best)),
            (low, high) if "interval" in metrics else None, str(recipe.get("name")),
            manifest.weights if manifest else str(recipe.get("weights")), int(last["epoch"]), last["seconds"] / 60,
            int(last["network_size"]), manifest is not None, rows,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, ModelError):
        return None


def _figures(row: Any) -> dict[str, float]:
    """Return what is shown of an epoch; raises KeyError or ValueError for what is no epoch's row."""
    return {name: _figure(name, row[name]) for name in ("epoch", "seconds", "validation_accuracy", "network_size")}


def _figure(name: str, value: Any) -> float:
    if not is_figure(name, value):
        raise ValueError(name)
    return float(value)


def write_runs(path: Path, runs: Sequence[RunSummary]) -> None:
    """Write a page with the table and the curves of the best; raises MissingExtraError without matplotlib."""
    best = runs[:CURVES_UP_TO]
    curves = html.plot(plots.plot_runs({run.name: run.rows for run in best}), "Validation accuracy")
    order = "The best first. Intervals that overlap by much: the difference may be chance; `pupila compare` tests it."
    sections = [
        html.section("Runs", order, html.table(RUN_COLUMNS, [run.cells() for run in runs])),
        html.section("Validation accuracy", f"The best {len(best)} of {len(runs)}.", curves),
    ]
    html.write_page(path, "Runs compared", counted(len(runs), "run"), sections)
