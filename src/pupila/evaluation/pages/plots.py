"""Scores as PNG files: training curves, reliability, confusion matrix, mistakes. Knows no models and no HTML.

Uses matplotlib's objects and no pyplot, so nothing global is set and any thread may draw.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pupila.errors import MissingExtraError
from pupila.evaluation.calibration import Bin, expected_calibration_error
from pupila.evaluation.logits import Int64
from pupila.evaluation.pages.gallery import Exhibit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
CURVES = (
    ("train_loss", "train loss", "#1f77b4", "-"),
    ("train_accuracy", "train acc", "#c2379b", "--"),
    ("validation_accuracy", "valid acc", "#2c8a3a", "-."),
)
"""Key, name in the legend, colour and line: told apart in black and white too."""

COUNTS_UP_TO = 20
"""Largest number of classes at which a number fits into a cell of the confusion matrix."""

NAMES_UP_TO = 300
"""Largest number of classes whose names stand beside the matrix, 4,000 pixels a side; beyond, its pattern shows."""


EXHIBITS_A_ROW = 4


def plot_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw train loss, train accuracy and validation accuracy over the epochs, all on one pair of axes.

    Each row has epoch, train_loss, train_accuracy and validation_accuracy.
    """
    figure = _figure(6.0, 4.2)
    axes = figure.add_subplot()
    epochs = [row["epoch"] for row in rows]
    for key, name, colour, line in CURVES:
        values = [row[key] for row in rows]
        axes.plot(epochs, values, line, color=colour, label=name, linewidth=1.8, marker="o" if len(rows) == 1 else None)
    if epochs:
        alone = min(epochs) == max(epochs)
        axes.set_xlim(min(epochs) - alone, max(epochs) + alone)
    axes.locator_params(axis="x", integer=True)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.grid(color="#dddddd")
    axes.legend()
    _save(figure, path)


def plot_sweep(curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], path: Path) -> None:
    """Draw the curves of many runs, train loss on the left and validation accuracy on the right, over the epochs.

    curves: by the name of a group, the rows of each of its runs (see plot_curves), which share a colour.
    """
    height = 4.6 + 0.2 * len(curves)
    figure = _figure(11.0, height)
    colours = _colours(len(curves))
    for place, (key, title) in enumerate((("train_loss", "train loss"), ("validation_accuracy", "valid acc")), 1):
        axes = figure.add_subplot(1, 2, place)
        for colour, (name, runs) in zip(colours, curves.items(), strict=True):
            for number, rows in enumerate(runs):
                epochs, values = [row["epoch"] for row in rows], [row[key] for row in rows]
                label = shorten(name, 60) if number == 0 and place == 1 else None
                axes.plot(epochs, values, color=colour, label=label, linewidth=1.4, alpha=0.8, marker="o", markersize=2)
        axes.locator_params(axis="x", integer=True)
        axes.set(xlabel="epoch", title=title)
        axes.set_ylim(bottom=0)
        axes.grid(color="#dddddd")
    figure.legend(loc="outside lower center", ncols=1, fontsize=9)
    _save(figure, path)


def plot_reliability(before: Sequence[Bin], after: Sequence[Bin], temperature: float, path: Path) -> None:
    """Draw accuracy against confidence, at temperature 1 and at the fitted one; on the diagonal is right."""
    figure = _figure(9.0, 4.6)
    titles = ("before: temperature 1", f"after: temperature {temperature:.3g}")
    for place, bins, title in zip((1, 2), (before, after), titles, strict=True):
        axes = figure.add_subplot(1, 2, place)
        _draw_reliability(axes, bins)
        axes.set_title(
            f"{title}\nexpected calibration error {expected_calibration_error(tuple(bins)):.4f}", fontsize=11
        )
    _save(figure, path)


def plot_confusion(confusion: Int64, classes: Sequence[str], path: Path) -> None:
    """Draw the confusion matrix [K, K]: colour is the share of the row's class, the figure grows with K."""
    count = len(classes)
    cell = 0.56 if count <= COUNTS_UP_TO else 0.105 if count <= NAMES_UP_TO else 0.0
    side = 1.5 + max(4.0 if cell else 12.0, cell * count)
    figure = _figure(side, side)
    axes = figure.add_subplot()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    # The square root shows 2 % of mistakes beside 90 % of right answers.
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    if count <= NAMES_UP_TO:
        _name_cells(axes, classes)
    if count <= COUNTS_UP_TO:
        _write_counts(axes, confusion, shares)
    _save(figure, path)


def plot_exhibits(exhibits: Sequence[Exhibit], path: Path) -> None:
    """Draw pictures beside their activation maps, four to a row, each under its truth, answer and confidence."""
    rows = -(-len(exhibits) // EXHIBITS_A_ROW)
    figure = _figure(2.6 * EXHIBITS_A_ROW, 1.6 * rows)
    axes = figure.add_subplot()  # one for all: laying out two dozen takes seconds
    for place, exhibit in enumerate(exhibits):
        top, left = place // EXHIBITS_A_ROW, place % EXHIBITS_A_ROW
        both = np.concatenate([exhibit.picture, exhibit.overlay], axis=1)
        axes.imshow(both, extent=(left, left + 0.96, top + 0.98, top + 0.2), interpolation="nearest", aspect="auto")
        caption = f"{shorten(exhibit.truth, 16)} → {shorten(exhibit.answer, 16)}, {exhibit.confidence:.0%}"
        axes.text(left + 0.48, top + 0.16, caption, fontsize=8, ha="center", parse_math=False)
    axes.set(xlim=(0, EXHIBITS_A_ROW), ylim=(rows, 0))
    axes.set_axis_off()
    _save(figure, path)


def shorten(name: str, most: int) -> str:
    """Return the name, its end replaced by a dot leader if it is longer than `most` letters."""
    return name if len(name) <= most else name[: most - 1] + "…"


def _draw_reliability(axes: "Axes", bins: Sequence[Bin]) -> None:
    total = max(sum(b.count for b in bins), 1)
    filled = [b for b in bins if b.count]
    middles = [(b.low + b.high) / 2 for b in filled]
    width = bins[0].high - bins[0].low
    # Behind, in grey: how many pictures a bar stands for, since an empty bin's height says nothing.
    axes.bar(
        middles, [b.count / total for b in filled], width * 0.96, color="#e4e4e4", label="share of pictures", zorder=1
    )
    axes.plot([0, 1], [0, 1], "--", color="#777777", linewidth=1, zorder=2, label="perfect")
    axes.plot(
        [b.confidence for b in filled], [b.accuracy for b in filled], "o-", color="#1f77b4", zorder=3, label="accuracy"
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal", xlabel="confidence")
    axes.legend(loc="upper left", fontsize=9)


def _name_cells(axes: "Axes", classes: Sequence[str]) -> None:
    count = len(classes)
    names = [shorten(name, 24) for name in classes]
    size = 9.0 if count <= COUNTS_UP_TO else 5.5
    axes.set_xticks(range(count), names, rotation=90 if count > 5 else 0, fontsize=size, parse_math=False)
    axes.set_yticks(range(count), names, fontsize=size, parse_math=False)
    if count > COUNTS_UP_TO:  # thin lines lead the eye from a cell to its names
        axes.tick_params(length=1.5, pad=1.5)
        edges = np.arange(count + 1) - 0.5
        axes.hlines(edges, -0.5, count - 0.5, color="#e8e8e8", linewidth=0.4)
        axes.vlines(edges, -0.5, count - 0.5, color="#e8e8e8", linewidth=0.4)


def _write_counts(axes: "Axes", confusion: Int64, shares: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
    largest = len(f"{confusion.max()}")
    for row, column in np.argwhere(confusion > 0):
        colour = "white" if shares[row, column] > 0.4 else "#222222"
        text = f"{confusion[row, column]}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9 if largest < 5 else 7)


def _colours(count: int) -> list[tuple[float, ...]]:
    """Return as many colours as different as can be."""
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](place) for place in range(count)]
    return [colormaps["turbo"](place / (count - 1)) for place in range(count)]


def _figure(width: float, height: float) -> "Figure":
    """Return an empty figure, inches wide and high."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("Drawing plots", "train") from error
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: "Figure", path: Path) -> None:
    with warnings.catch_warnings():
        # Class names in letters that the font lacks show as boxes here; the table of the report has them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(path, format="png")
