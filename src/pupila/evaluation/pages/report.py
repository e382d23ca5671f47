"""One page a run: `report.html`, self-contained, and its plots as PNGs beside it. Puts the other modules together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pupila.data import Dataset
from pupila.evaluation.calibration import reliability
from pupila.evaluation.evaluate import Evaluation, evaluate
from pupila.evaluation.pages import gallery, html, plots
from pupila.predictor import Floats, Predictor

MISTAKES = 24
PAIRS = 6
MISTAKES_A_PAIR = 5


@dataclass(frozen=True)
class Subject:
    """What a report is about."""

    predictor: Predictor
    dataset: Dataset
    evaluation: Evaluation
    probabilities: Floats


def write_report(
    folder: Path,
    predictor: Predictor,
    dataset: Dataset,
    rows: Sequence[Mapping[str, float]],
    evaluation: Evaluation | None = None,
) -> Path:
    """Evaluate, write report.html and its plots as PNGs into the folder, and return the path of the page.

    `rows` are one an epoch (see plots.plot_curves), or none; an evaluation already made saves making it again.
    Raises what evaluate() raises, and MissingExtraError without matplotlib.
    """
    folder.mkdir(parents=True, exist_ok=True)
    evaluation = evaluation or evaluate(predictor, dataset)
    subject = Subject(predictor, dataset, evaluation, predictor.probabilities(evaluation.logits))
    manifest = predictor.manifest
    subtitle = f"{len(manifest.classes)} classes, {evaluation.scores.n:,} pictures, file version {predictor.version}"
    text = html.page(f"{manifest.name}: report", subtitle, _sections(folder, subject, rows))
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def _sections(folder: Path, subject: Subject, rows: Sequence[Mapping[str, float]]) -> Iterator[str]:
    yield _summary(subject)
    if rows:
        yield _curves(folder, rows)
    yield _reliability(folder, subject)
    yield _confusion(folder, subject)
    yield html.section(
        "Classes", "Precision: how often an answer is right. Recall: how many of the class are found.",
        html.class_table(subject.evaluation.scores.classes),
    )  # fmt: skip
    yield _mistakes(folder, subject)
    yield _pairs(subject)


def _summary(subject: Subject) -> str:
    scores, predictor = subject.evaluation.scores, subject.predictor
    low, high = scores.interval
    figures = [
        (f"{scores.accuracy:.2%}", "accuracy", f"{low:.2%} to {high:.2%} (95 % Wilson), n = {scores.n:,}"),
        *((f"{share:.2%}", f"top-{k} accuracy", "") for k, share in scores.top_k.items()),
        (f"{scores.balanced_accuracy:.2%}", "balanced accuracy", "mean recall of the classes"),
        (f"{scores.ece:.4f}", "expected calibration error", f"{scores.uncalibrated_ece:.4f} before temperature"),
        (f"{scores.nll:.4f}", "negative log likelihood", f"{scores.uncalibrated_nll:.4f} before temperature"),
        (f"{scores.temperature:.3f}", "temperature", "logits are divided by it"),
    ]
    limit = predictor.manifest.unknown_threshold
    if limit is not None:
        share = float(np.mean(predictor.unknown_scores(subject.evaluation.logits) > limit))
        figures.append((f"{share:.2%}", "called unknown", f"of these pictures; threshold {limit:.3f}"))
    return html.section("Summary", "", html.numbers(figures))


def _curves(folder: Path, rows: Sequence[Mapping[str, float]]) -> str:
    path = folder / "curves.png"
    plots.plot_curves(rows, path)
    return html.section("Training", f"{len(rows)} epochs.", html.plot(path.read_bytes(), "Training curves"))


def _reliability(folder: Path, subject: Subject) -> str:
    path = folder / "reliability.png"
    evaluation = subject.evaluation
    temperature = evaluation.scores.temperature
    before = reliability(evaluation.logits, evaluation.labels)
    after = reliability(evaluation.logits, evaluation.labels, temperature)
    plots.plot_reliability(before, after, temperature, path)
    text = "Of the answers given with a confidence of 0.8, eight in ten should be right: points on the diagonal."
    return html.section("Reliability", text, html.plot(path.read_bytes(), "Accuracy against confidence"))


def _confusion(folder: Path, subject: Subject) -> str:
    path = folder / "confusion.png"
    classes = subject.predictor.manifest.classes
    plots.plot_confusion(subject.evaluation.scores.confusion, classes, path)
    large = len(classes) > plots.COUNTS_UP_TO
    text = "Row: the truth. Column: the answer. The diagonal is right."
    return html.section("Confusion matrix", text, html.plot(path.read_bytes(), "Confusion matrix", large))


def _mistakes(folder: Path, subject: Subject) -> str:
    evaluation = subject.evaluation
    indices = gallery.confident_mistakes(subject.probabilities, evaluation.labels, MISTAKES)
    shown = gallery.exhibits(subject.predictor, subject.dataset.images, evaluation.labels, indices)
    if shown:
        plots.plot_exhibits(shown, folder / "mistakes.png")
    text = (
        "Truth → answer, with its confidence. The right picture of each shows where the model saw what it answered. "
        "A wrong label is often found here."
    )
    return html.section("Most confident mistakes", text if shown else "There is no mistake.", html.gallery(shown))


def _pairs(subject: Subject) -> str:
    evaluation, names = subject.evaluation, subject.predictor.manifest.classes
    parts = []
    for pair in gallery.confused_pairs(evaluation.scores.confusion, PAIRS):
        first, second = names[pair.first], names[pair.second]
        counts = f"{first} as {second}: {pair.first_as_second}; {second} as {first}: {pair.second_as_first}"
        indices = gallery.mistakes_of(pair, subject.probabilities, evaluation.labels, MISTAKES_A_PAIR)
        shown = gallery.exhibits(subject.predictor, subject.dataset.images, evaluation.labels, indices)
        parts += [html.heading(counts), html.gallery(shown)]
    text = "Classes taken for each other, the most frequent first." if parts else "No two classes are confused."
    return html.section("Most confused pairs", text, *parts)
