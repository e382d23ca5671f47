"""Draws scores as PNG: training curves, reliability, confusion matrix, mistakes; on white or on dark paper.

Uses matplotlib's objects and no pyplot, so nothing global is set and any thread may draw.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from pupila.errors import MissingExtraError
from pupila.evaluation.metrics import Bin, Int64, expected_calibration_error
from pupila.evaluation.pages.gallery import Exhibit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Target = Path | IO[bytes]
Rows = Sequence[Mapping[str, float]]
"""One row an epoch: epoch, train_loss, train_accuracy, validation_accuracy; perhaps validation_loss, network_size."""


@dataclass(frozen=True)
class Theme:
    """Colours of a plot; the first colour of a pair is training's, the second validation's."""

    paper: str
    ink: str
    grid: str
    bar: str
    pair: tuple[str, str]
    lines: tuple[str, ...]
    """Of several things compared."""
    cells: str
    """matplotlib's name of the confusion matrix's colours."""


LIGHT = Theme(
    "#ffffff",
    "#1d2127",
    "#dddddd",
    "#e4e4e4",
    ("#1f77b4", "#2c8a3a"),
    ("#c2379b", "#1f77b4", "#2c8a3a", "#d08700", "#7a52c7", "#8c564b", "#17a2b8", "#555f6b"),
    "Blues",
)
DARK = Theme(
    "#1e2329",
    "#d5d9de",
    "#3a424b",
    "#333b44",
    ("#6fb3e6", "#7fce8b"),
    ("#e58ac9", "#6fb3e6", "#7fce8b", "#e6b450", "#b9a0f0", "#c99b8f", "#62d0e0", "#a8b2bd"),
    "cividis",
)

DPI = 120

WEIGHTS = re.compile(r"(?:^|, )weights=([^,]+)")
"""In the name of a group of a sweep's trials."""

COUNTS_UP_TO = 20
"""Largest number of classes at which a number fits into a cell of the confusion matrix."""

NAMES_UP_TO = 300
"""Largest number of classes whose names stand beside the matrix, 4,000 pixels a side; beyond, its pattern shows."""


EXHIBITS_A_ROW = 4


def plot_curves(rows: Rows, target: Target, kept: int | None = None, theme: Theme = LIGHT) -> None:
    """Draw loss on the left and accuracy on the right, of training and validation, over the epochs.

    kept: the epoch, counted from 1, whose weights are in the model; it gets a mark. Where the network's picture size
    changes there is a vertical line with the new size.
    """
    figure = _figure(9.0, 3.8, theme)
    panels = (("loss", "train_loss", "validation_loss"), ("accuracy", "train_accuracy", "validation_accuracy"))
    for place, (title, *keys) in enumerate(panels, 1):
        axes = _axes(figure, theme, (1, 2, place), title)
        for key, name, line, colour in zip(keys, ("training", "validation"), ("--", "-"), theme.pair, strict=True):
            points = [(row["epoch"], row[key]) for row in rows if key in row]
            if points:
                mark = "o" if len(points) == 1 else None
                axes.plot(*zip(*points, strict=True), line, color=colour, label=name, linewidth=1.8, marker=mark)
            for row in rows:
                if key == keys[1] and row["epoch"] == kept and key in row:
                    axes.plot(kept, row[key], "*", color=theme.ink, markersize=13, label=f"kept: epoch {kept}")
        _mark_sizes(axes, rows, theme)
        _epochs_below(axes, rows)
        if rows:
            axes.legend(fontsize=9, facecolor=theme.paper, labelcolor=theme.ink)
    _save(figure, target)


def _mark_sizes(axes: "Axes", rows: Rows, theme: Theme) -> None:
    """Draw a line where the picture size changes: the curves jump there."""
    sizes = [(row["epoch"], int(row["network_size"])) for row in rows if "network_size" in row]
    for (_, before), (epoch, size) in pairwise(sizes):
        if size != before:
            axes.axvline(epoch - 0.5, color=theme.ink, linewidth=0.8, linestyle=":")
            axes.text(epoch - 0.4, 0.02, f"{size} px", transform=axes.get_xaxis_transform(), fontsize=8,
                      color=theme.ink, rotation=90, va="bottom")  # fmt: skip


def _epochs_below(axes: "Axes", rows: Rows) -> None:
    epochs = [row["epoch"] for row in rows]
    if epochs:
        alone = min(epochs) == max(epochs)
        axes.set_xlim(min(epochs) - alone, max(epochs) + alone)
    axes.locator_params(axis="x", integer=True)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")


def plot_sweep(curves: Mapping[str, Sequence[Rows]], target: Target, theme: Theme = LIGHT) -> None:
    """Draw validation accuracy over the epochs: one panel for each setting, one line for each kind of weights.

    curves: by the name of a group, the rows of each of its runs. Groups whose names differ in `weights=...` alone share
    a panel. A line is the mean of a group's runs, the band around it their range. All panels share their axes.
    """
    panels: dict[str, dict[str, Sequence[Rows]]] = {}
    for group, runs in curves.items():
        weights = WEIGHTS.search(group)
        panels.setdefault(WEIGHTS.sub("", group), {})[weights[1] if weights else "validation"] = runs
    columns = min(len(panels), 3) or 1
    lines = -(-len(panels) // columns)
    figure = _figure(3.4 * columns + 0.4, 3.0 * lines + 0.3, theme)
    first: Axes | None = None
    for place, (name, kinds) in enumerate(panels.items(), 1):
        axes = _axes(figure, theme, (lines, columns, place), shorten(name, 40), first)
        first = first or axes
        for colour, (kind, runs) in zip(theme.lines, kinds.items(), strict=False):
            _band(axes, [[(row["epoch"], row["validation_accuracy"]) for row in rows] for rows in runs], colour, kind)
        axes.legend(fontsize=8, facecolor=theme.paper, labelcolor=theme.ink, loc="lower right")
        axes.set(xlabel="epoch", ylabel="validation accuracy", ylim=(0, 1))
        axes.locator_params(axis="x", integer=True)
    _save(figure, target)


def plot_runs(runs: Mapping[str, Rows], target: Target, theme: Theme = LIGHT) -> None:
    """Draw the validation accuracy of several runs over the minutes, one line each."""
    figure = _figure(9.0, 4.2, theme)
    axes = _axes(figure, theme, (1, 1, 1), "")
    for colour, (name, rows) in zip(theme.lines, runs.items(), strict=False):
        minutes = [row["seconds"] / 60 for row in rows]
        accuracies = [row["validation_accuracy"] for row in rows]
        mark = "o" if len(rows) == 1 else None
        axes.plot(minutes, accuracies, color=colour, label=shorten(name, 40), linewidth=1.6, marker=mark)
    axes.set(xlabel="minutes", ylabel="validation accuracy")
    axes.legend(fontsize=9, facecolor=theme.paper, labelcolor=theme.ink)
    _save(figure, target)


def _band(axes: "Axes", runs: Sequence[Sequence[tuple[float, float]]], colour: str, name: str) -> None:
    """Draw the mean of some curves and the range that they span; the legend has the mean of their last values."""
    by_epoch: dict[float, list[float]] = {}
    for points in runs:
        for epoch, value in points:
            by_epoch.setdefault(epoch, []).append(value)
    epochs = sorted(by_epoch)
    if epochs:
        ends = [points[-1][1] for points in runs if points]
        label = f"{shorten(name, 24)}: {np.mean(ends):.3f} (n = {len(ends)})"
        values = [by_epoch[epoch] for epoch in epochs]
        axes.fill_between(epochs, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.25, lw=0)
        axes.plot(epochs, [float(np.mean(v)) for v in values], color=colour, label=label, linewidth=1.6)


def plot_reliability(
    before: Sequence[Bin], after: Sequence[Bin], temperature: float, target: Target, theme: Theme = LIGHT
) -> None:
    """Draw accuracy against confidence, at temperature 1 and at the fitted one; on the diagonal is right."""
    figure = _figure(9.0, 4.6, theme)
    titles = ("before: temperature 1", f"after: temperature {temperature:.3g}")
    for place, bins, title in zip((1, 2), (before, after), titles, strict=True):
        error = expected_calibration_error(tuple(bins))
        axes = _axes(figure, theme, (1, 2, place), f"{title}\nexpected calibration error {error:.4f}")
        _draw_reliability(axes, bins, theme)
    _save(figure, target)


def plot_confusion(confusion: Int64, classes: Sequence[str], target: Target, theme: Theme = LIGHT) -> None:
    """Draw the confusion matrix [K, K]: colour is the share of the row's class, the figure grows with K."""
    count = len(classes)
    cell = 0.56 if count <= COUNTS_UP_TO else 0.105 if count <= NAMES_UP_TO else 0.0
    side = 1.5 + max(4.0 if cell else 12.0, cell * count)
    figure = _figure(side, side, theme)
    axes = _axes(figure, theme, (1, 1, 1), "")
    axes.grid(visible=False)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    # The square root shows 2 % of mistakes beside 90 % of right answers.
    axes.imshow(np.sqrt(shares), cmap=theme.cells, vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    if count <= NAMES_UP_TO:
        _name_cells(axes, classes)
    if count <= COUNTS_UP_TO:
        _write_counts(axes, confusion, shares, theme)
    _save(figure, target)


def plot_exhibits(exhibits: Sequence[Exhibit], target: Target) -> None:
    """Draw pictures beside their activation maps, four to a row, each under its truth, answer and confidence."""
    rows = -(-len(exhibits) // EXHIBITS_A_ROW)
    figure = _figure(2.6 * EXHIBITS_A_ROW, 1.6 * rows, LIGHT)
    axes = figure.add_subplot()  # one for all: laying out two dozen takes seconds
    for place, exhibit in enumerate(exhibits):
        top, left = place // EXHIBITS_A_ROW, place % EXHIBITS_A_ROW
        both = np.concatenate([exhibit.picture, exhibit.overlay], axis=1)
        axes.imshow(both, extent=(left, left + 0.96, top + 0.98, top + 0.2), interpolation="nearest", aspect="auto")
        caption = f"{shorten(exhibit.truth, 16)} → {shorten(exhibit.answer, 16)}, {exhibit.confidence:.0%}"
        axes.text(left + 0.48, top + 0.16, caption, fontsize=8, ha="center", parse_math=False)
    axes.set(xlim=(0, EXHIBITS_A_ROW), ylim=(rows, 0))
    axes.set_axis_off()
    _save(figure, target)


def shorten(name: str, most: int) -> str:
    """Return the name, its end replaced by a dot leader if it is longer than `most` letters."""
    return name if len(name) <= most else name[: most - 1] + "…"


def _draw_reliability(axes: "Axes", bins: Sequence[Bin], theme: Theme) -> None:
    total = max(sum(b.count for b in bins), 1)
    filled = [b for b in bins if b.count]
    middles = [(b.low + b.high) / 2 for b in filled]
    width = bins[0].high - bins[0].low
    # Behind, in grey: how many pictures a bar stands for, since an empty bin's height says nothing.
    axes.bar(
        middles, [b.count / total for b in filled], width * 0.96, color=theme.bar, label="share of pictures", zorder=1
    )
    axes.plot([0, 1], [0, 1], "--", color="#777777", linewidth=1, zorder=2, label="perfect")
    axes.plot(
        [b.confidence for b in filled],
        [b.accuracy for b in filled],
        "o-",
        color=theme.pair[0],
        zorder=3,
        label="accuracy",
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal", xlabel="confidence")
    axes.legend(loc="upper left", fontsize=9, facecolor=theme.paper, labelcolor=theme.ink)


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


def _write_counts(
    axes: "Axes", confusion: Int64, shares: np.ndarray[tuple[int, int], np.dtype[np.float64]], theme: Theme
) -> None:
    largest = len(f"{confusion.max()}")
    for row, column in np.argwhere(confusion > 0):
        dark = (shares[row, column] > 0.4) == (theme is LIGHT)
        colour = "white" if dark else "#222222"
        text = f"{confusion[row, column]}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9 if largest < 5 else 7)


def _figure(width: float, height: float, theme: Theme) -> "Figure":
    """Return an empty figure, inches wide and high."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("Drawing plots", "train") from error
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor=theme.paper)
    FigureCanvasAgg(figure)
    return figure


def _axes(
    figure: "Figure", theme: Theme, place: tuple[int, int, int], title: str, shared: "Axes | None" = None
) -> "Axes":
    """Add axes in the theme's colours; `place` is rows, columns, number from 1."""
    axes = figure.add_subplot(*place, sharex=shared, sharey=shared, facecolor=theme.paper)
    axes.set_title(title, fontsize=11, color=theme.ink, parse_math=False)
    axes.tick_params(colors=theme.ink)
    axes.xaxis.label.set_color(theme.ink)
    axes.yaxis.label.set_color(theme.ink)
    for spine in axes.spines.values():
        spine.set_color(theme.grid)
    axes.grid(color=theme.grid)
    axes.set_axisbelow(True)
    return axes


def _save(figure: "Figure", target: Target) -> None:
    with warnings.catch_warnings():
        # Class names in letters that the font lacks show as boxes here; the table of the report has them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(target, format="png")
