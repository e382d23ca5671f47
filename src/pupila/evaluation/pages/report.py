"""Writes the report of a run: `report.html`, self-contained, and its plots as PNGs beside it.

While a training runs the page shows the curves so far and loads itself again; at the end the full report replaces it.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pupila._arguments import counted
from pupila._files import write_file
from pupila.data import Dataset
from pupila.evaluation.evaluate import Evaluation, score_dataset
from pupila.evaluation.metrics import Int64, reliability
from pupila.evaluation.pages import gallery, html, plots
from pupila.evaluation.pages.plots import Rows
from pupila.predictor import Floats, Predictor

MISTAKES = 24
PAIRS = 6
MISTAKES_A_PAIR = 5

FEW = 200
"""Pictures below which a report warns: the 95 % interval of an accuracy of 0.9 is then 8 points wide and more."""

RELOAD_SECONDS = 10
"""How often the page of a running training loads itself again."""


@dataclass(frozen=True)
class Subject:
    """What a report is about."""

    predictor: Predictor
    dataset: Dataset
    evaluation: Evaluation
    probabilities: Floats
    links: dict[str, str]
    """The address of each picture's file, by the picture's name, where it is known."""


def write_report(
    folder: Path,
    predictor: Predictor,
    dataset: Dataset,
    rows: Rows,
    evaluation: Evaluation | None = None,
    *,
    kept: int | None = None,
    source: Path | None = None,
) -> Path:
    """Evaluate, write report.html and its plots as PNGs into the folder, and return the path of the page.

    rows: one an epoch (see plots.Rows), or none. evaluation: one made already saves making it again. kept: the epoch
    whose weights are in the model; 0 is the last layer alone. source: the folder that the pictures came from, to link
    to them.
    Raises what score_dataset() raises, DataError if it cannot be written, and MissingExtraError without matplotlib.
    """
    with html.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    evaluation = evaluation or score_dataset(predictor, dataset)
    probabilities = predictor.probabilities(evaluation.logits)
    subject = Subject(predictor, dataset, evaluation, probabilities, _links(dataset, source))
    manifest = predictor.manifest
    classes, pictures = counted(len(manifest.classes), "class"), counted(evaluation.scores.n, "picture")
    subtitle = f"{classes}, {pictures}, file version {predictor.version}"
    path = folder / "report.html"
    html.write_page(path, f"{manifest.name}: report", subtitle, _sections(folder, subject, rows, kept))
    return path


class ProgressPage:
    """Writes report.html anew while a training runs; drawing takes at most a twentieth of the time."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / "report.html"
        self.name = name
        self.due = time.monotonic() + RELOAD_SECONDS / 2

    def update(self, rows: Rows) -> None:
        """Show the epochs so far, unless the page is still fresh."""
        begun = time.monotonic()
        if begun < self.due:
            return
        last = rows[-1]
        judged = "of the latest epoch" if last["epoch"] else "of the last layer alone"
        figures = [
            (f"{last['epoch']:.0f}", "epochs so far", f"{last.get('seconds', 0.0) / 60:.1f} minutes"),
            (f"{last['validation_accuracy']:.1%}", "validation accuracy", judged),
        ]
        curves = [html.plot(plots.plot_curves(rows), "Curves so far")] if last["epoch"] else []
        sections = [html.section("Training", "", html.numbers(figures), *curves)]
        title = f"{self.name}: training"
        html.write_page(
            self.path,
            title,
            "The training is under way. This page shows the newest figures by itself.",
            sections,
            RELOAD_SECONDS,
        )
        ended = time.monotonic()
        self.due = ended + max(RELOAD_SECONDS / 2, 20 * (ended - begun))


def _links(dataset: Dataset, source: Path | None) -> dict[str, str]:
    """Return the file address of each picture that lies in the source folder, directly or in a folder of its split."""
    if source is None or not source.is_dir() or not dataset.names:
        return {}
    roots = [source, *(path for path in sorted(source.iterdir()) if path.is_dir())][:20]
    found = {}
    for name in dataset.names:
        path = None
        with contextlib.suppress(OSError):  # a class of a table may be longer than a folder's name
            path = next((root / name for root in roots if (root / name).is_file()), None)
        if path is not None:
            found[name] = path.resolve().as_uri()
    return found


def _sections(folder: Path, subject: Subject, rows: Rows, kept: int | None) -> Iterator[str]:
    yield _summary(subject, rows, kept)
    if rows:
        yield _curves(folder, rows, kept)
    shown = gallery.confident_mistakes(subject.probabilities, subject.evaluation.labels, MISTAKES)
    yield _mistakes(subject, shown)
    scores = subject.evaluation.scores.classes
    lines = [(s.category, f"{s.precision:.3f}", f"{s.recall:.3f}", f"{s.f1:.3f}", f"{s.support:,}") for s in scores]
    yield html.section(
        "Classes", "Precision: how often an answer is right. Recall: how many of the class are found.",
        html.table(("class", "precision", "recall", "F1", "pictures"), lines),
    )  # fmt: skip
    yield _confusion(folder, subject)
    yield _pairs(subject, shown)
    yield _reliability(folder, subject)


def _summary(subject: Subject, rows: Rows, kept: int | None) -> str:
    scores, manifest = subject.evaluation.scores, subject.predictor.manifest
    low, high = scores.interval
    figures = [(f"{scores.accuracy:.2%}", "accuracy", f"{low:.2%} to {high:.2%} (95 % interval), n = {scores.n:,}")]
    if abs(scores.balanced_accuracy - scores.accuracy) >= 0.005:
        figures.append((f"{scores.balanced_accuracy:.2%}", "balanced accuracy", "mean recall of the classes"))
    figures.append((str(manifest.recipe.get("name", "?")), "recipe", f"weights: {manifest.weights}"))
    if rows and "seconds" in rows[-1]:
        minutes = f"{rows[-1]['seconds'] / 60:.1f}"
        figures.append((minutes, "minutes of training", _what_was_trained(rows, kept)))
    limit = manifest.unknown_threshold
    if limit is not None:
        share = float(np.mean(subject.evaluation.unknown > limit))
        figures.append((f"{share:.2%}", "called unknown", "of these pictures, which all show one of the classes"))
    few = [html.warning(f"Only {counted(scores.n, 'picture')}: take the figures as rough.")] if scores.n < FEW else []
    return html.section("Summary", "", html.numbers(figures), *few, _expert_figures(subject))


def _what_was_trained(rows: Rows, kept: int | None) -> str:
    epochs = int(rows[-1]["epoch"])
    if epochs == 0:
        return "the last layer alone"
    return counted(epochs, "epoch") if kept is None else f"epoch {kept} of {epochs} kept"


def _expert_figures(subject: Subject) -> str:
    scores = subject.evaluation.scores
    figures = [
        *((f"{share:.2%}", f"top-{k} accuracy", "") for k, share in scores.top_k.items()),
        (f"{scores.balanced_accuracy:.2%}", "balanced accuracy", "mean recall of the classes"),
        (f"{scores.ece:.4f}", "expected calibration error", f"{scores.uncalibrated_ece:.4f} before temperature"),
        (f"{scores.nll:.4f}", "negative log likelihood", f"{scores.uncalibrated_nll:.4f} before temperature"),
        (f"{scores.temperature:.3f}", "temperature", "logits are divided by it"),
    ]
    limit = subject.predictor.manifest.unknown_threshold
    if limit is not None:
        figures.append((f"{limit:.3f}", "threshold of the unknown score", subject.predictor.manifest.unknown_score))
    for kind, marked in subject.predictor.manifest.metrics.get("marked_unknown", {}).items():
        figures.append((f"{marked:.0%}", f"of {kind} called unknown", "measured when the model was made"))
    return html.folded("Figures for experts", html.numbers(figures))


def _plot(folder: Path, name: str, png: bytes, description: str, large: bool = False) -> str:
    """Write a plot into the folder and return it as HTML."""
    with html.writing(folder / name):
        write_file(folder / name, png)
    return html.plot(png, description, large)


def _curves(folder: Path, rows: Rows, kept: int | None) -> str:
    epochs = int(rows[-1]["epoch"])
    if epochs == 0:
        return html.section("Training", "Only the last layer was trained, in one step: there are no curves.")
    text = f"{counted(epochs, 'epoch')}."
    if rows[0]["epoch"] == 0:
        text += " Epoch 0 is the last layer alone."
    if kept is not None:
        text += f" The star is the epoch whose weights are in the model: {kept}."
    if len({row.get("network_size") for row in rows}) > 1:
        text += " At a dotted line the pictures became larger."
    plot = _plot(folder, "curves.png", plots.plot_curves(rows, kept), "Training curves")
    return html.section("Training", text, plot)


def _reliability(folder: Path, subject: Subject) -> str:
    evaluation, temperature = subject.evaluation, subject.evaluation.scores.temperature
    before = reliability(evaluation.logits, evaluation.labels)
    after = reliability(evaluation.logits, evaluation.labels, temperature)
    png = plots.plot_reliability(before, after, temperature)
    text = "Of the answers given with a confidence of 0.8, eight in ten should be right: points on the diagonal."
    few = [html.warning("So few pictures do not show whether the confidences are right.")]
    plot = _plot(folder, "reliability.png", png, "Accuracy against confidence")
    return html.section("Reliability", text, *(few if len(evaluation.labels) < FEW else []), plot)


def _confusion(folder: Path, subject: Subject) -> str:
    classes = subject.predictor.manifest.classes
    png = plots.plot_confusion(subject.evaluation.scores.confusion, classes)
    text = "Row: the truth. Column: the answer. The diagonal is right."
    plot = _plot(folder, "confusion.png", png, "Confusion matrix", len(classes) > plots.COUNTS_UP_TO)
    return html.section("Confusion matrix", text, plot)


def _mistakes(subject: Subject, indices: Int64) -> str:
    shown = _exhibits(subject, indices)
    text = (
        "Truth → answer, with its confidence. Beside each picture: where the model saw what it answered. "
        "A wrong label is often found here."
    )
    return html.section("Most confident mistakes", text if shown else "There is no mistake.", html.pictures(shown))


def _exhibits(subject: Subject, indices: Int64) -> list[html.Figure]:
    labels = subject.evaluation.labels
    return gallery.exhibits(subject.predictor, subject.dataset, labels, indices, subject.links)


def _pairs(subject: Subject, shown_before: Int64) -> str:
    """Show the most confused pairs of classes, by pictures that the mistakes above have not shown."""
    confusion, names = subject.evaluation.scores.confusion, subject.predictor.manifest.classes
    parts = []
    for pair in gallery.confused_pairs(confusion, PAIRS):
        first, second = pair if confusion[pair] >= confusion[pair[::-1]] else pair[::-1]
        one, other = names[first], names[second]
        counts = f"{one} as {other}: {confusion[first, second]}; {other} as {one}: {confusion[second, first]}"
        most = MISTAKES_A_PAIR + len(shown_before)
        indices = gallery.confident_mistakes(subject.probabilities, subject.evaluation.labels, most, pair)
        indices = indices[~np.isin(indices, shown_before)][:MISTAKES_A_PAIR]
        parts.append(html.heading(counts))
        if len(indices):
            parts.append(html.pictures(_exhibits(subject, indices)))
    text = "Classes taken for each other, the most frequent first." if parts else "No two classes are confused."
    return html.section("Most confused pairs", text, *parts)
