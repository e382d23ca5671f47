"""Draws scores as PNG: training curves, reliability, confusion matrix.

Each function returns the bytes of a picture on white; on a dark page the style sheet inverts it. Uses matplotlib's
objects and no pyplot, so nothing global is set and any thread may draw.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pupila._language import translated
from pupila.errors import MissingExtraError
from pupila.evaluation.metrics import Bin, Int64, expected_calibration_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, float]]
"""One row an epoch: epoch, train_loss, train_accuracy, validation_accuracy; perhaps validation_loss, network_size."""

DPI = 120
INK, GRID = "#1d2127", "#dddddd"
TRAINING, VALIDATION = "#1f77b4", "#2c8a3a"
LINES = ("#c2379b", TRAINING, VALIDATION, "#d08700", "#7a52c7", "#8c564b", "#17a2b8", "#555f6b")
"""Colours of several things compared."""
WEIGHTS = re.compile(r"(?:^|, )weights=([^,]+)")
"""In the name of a group of a sweep's trials."""
COUNTS_UP_TO = 20
"""Largest number of classes at which a number fits into a cell of the confusion matrix."""
NAMES_UP_TO = 300
"""Largest number of classes whose names stand beside the matrix, 4,000 pixels a side; beyond, its pattern shows."""


def plot_curves(rows: Rows, kept: int | None = None) -> bytes:
    """Draw loss on the left and accuracy on the right, of training and validation, over the epochs.

    kept: the epoch, counted from 1, whose weights are in the model; it gets a mark. Where the network's picture size
    changes there is a vertical line with the new size.
    """
    figure = _figure(9.0, 3.8)
    panels = (("loss", "train_loss", "validation_loss"), ("accuracy", "train_accuracy", "validation_accuracy"))
    for place, (title, training, validation) in enumerate(panels, 1):
        axes = _axes(figure, (1, 2, place), translated(title))
        for key, style, colour in ((training, "--", TRAINING), (validation, "-", VALIDATION)):
            points = [(row["epoch"], row[key]) for row in rows if key in row]
            name = "training" if key == training else "validation"
            if points:
                _line(axes, points, colour, translated(name), style)
        for row in rows:
            if row["epoch"] == kept and validation in row:
                label = translated(f"kept: epoch {kept}")
                axes.plot(kept, row[validation], "*", color=INK, markersize=13, clip_on=False, label=label)
        _mark_sizes(axes, rows)
        _epochs_below(axes, rows)
        if rows:
            _legend(axes, fontsize=9)
    return _png(figure)


def _line(axes: "Axes", points: Sequence[tuple[float, float]], colour: str, name: str, style: str = "-") -> None:
    mark = "o" if len(points) == 1 else None
    axes.plot(*zip(*points, strict=True), style, color=colour, label=name, linewidth=1.7, marker=mark)


def _mark_sizes(axes: "Axes", rows: Rows) -> None:
    """Draw a line where the picture size changes: the curves jump there."""
    sizes = [(row["epoch"], int(row["network_size"])) for row in rows if "network_size" in row]
    for (_, before), (epoch, size) in pairwise(sizes):
        if size != before:
            axes.axvline(epoch - 0.5, color=INK, linewidth=0.8, linestyle=":")
            place = axes.get_xaxis_transform()
            axes.text(epoch - 0.4, 0.02, f"{size} px", transform=place, fontsize=8, rotation=90, va="bottom")


def _epochs_below(axes: "Axes", rows: Rows) -> None:
    epochs = [row["epoch"] for row in rows]
    if epochs:
        alone = min(epochs) == max(epochs)
        axes.set_xlim(min(epochs) - alone, max(epochs) + alone)
        axes.set_ylim(0, 1.05 * axes.dataLim.ymax)  # a mark at the top is not cut
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel(translated("epoch"))


def plot_sweep(curves: Mapping[str, Sequence[Rows]]) -> bytes:
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
    figure = _figure(3.4 * columns + 0.4, 3.0 * lines + 0.3)
    first: Axes | None = None
    for place, (name, kinds) in enumerate(panels.items(), 1):
        axes = _axes(figure, (lines, columns, place), shorten(name, 40), first)
        first = first or axes
        for colour, (kind, runs) in zip(LINES, kinds.items(), strict=False):
            _band(axes, runs, colour, kind)
        _legend(axes, fontsize=8, loc="lower right")
        axes.set(xlabel=translated("epoch"), ylabel=translated("validation accuracy"), ylim=(0, 1))
        axes.locator_params(axis="x", integer=True)
    return _png(figure)


def _band(axes: "Axes", runs: Sequence[Rows], colour: str, name: str) -> None:
    """Draw the mean of some runs' accuracies and the range that they span; the legend has the mean of the last."""
    by_epoch: dict[float, list[float]] = {}
    for row in (row for rows in runs for row in rows):
        by_epoch.setdefault(row["epoch"], []).append(row["validation_accuracy"])
    epochs = sorted(by_epoch)
    if epochs:
        ends = [rows[-1]["validation_accuracy"] for rows in runs if rows]
        label = f"{shorten(name, 24)}: {np.mean(ends):.3f} (n = {len(ends)})"
        values = [by_epoch[epoch] for epoch in epochs]
        axes.fill_between(epochs, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.25, lw=0)
        axes.plot(epochs, [float(np.mean(v)) for v in values], color=colour, label=label, linewidth=1.6)


def plot_runs(runs: Mapping[str, Rows]) -> bytes:
    """Draw the validation accuracy of several runs over the minutes, one line each."""
    figure = _figure(9.0, 4.2)
    axes = _axes(figure, (1, 1, 1), "")
    for colour, (name, rows) in zip(LINES, runs.items(), strict=False):
        _line(axes, [(row["seconds"] / 60, row["validation_accuracy"]) for row in rows], colour, shorten(name, 40))
    axes.set(xlabel=translated("minutes"), ylabel=translated("validation accuracy"))
    _legend(axes, fontsize=9)
    return _png(figure)


def plot_reliability(before: Sequence[Bin], after: Sequence[Bin], temperature: float) -> bytes:
    """Draw accuracy against confidence, at temperature 1 and at the fitted one; on the diagonal is right."""
    figure = _figure(9.0, 4.6)
    titles = ("before: temperature 1", f"after: temperature {temperature:.3g}")
    for place, bins, title in zip((1, 2), (before, after), titles, strict=True):
        error = expected_calibration_error(tuple(bins))
        axes = _axes(figure, (1, 2, place), translated(f"{title}\nexpected calibration error {error:.4f}"))
        total, filled = max(sum(b.count for b in bins), 1), [b for b in bins if b.count]
        width = 0.96 * (bins[0].high - bins[0].low)
        # Behind, in grey: how many pictures a bar stands for, since an empty bin's height says nothing.
        middles, shares = [(b.low + b.high) / 2 for b in filled], [b.count / total for b in filled]
        axes.bar(middles, shares, width, color="#e4e4e4", label=translated("share of pictures"), zorder=1)
        axes.plot([0, 1], [0, 1], "--", color="#777777", linewidth=1, zorder=2, label=translated("perfect"))
        points = [b.confidence for b in filled], [b.accuracy for b in filled]
        axes.plot(*points, "o-", color=TRAINING, zorder=3, label=translated("accuracy"))
        axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal", xlabel=translated("confidence"))
        _legend(axes, loc="upper left", fontsize=9)
    return _png(figure)


def plot_confusion(confusion: Int64, classes: Sequence[str]) -> bytes:
    """Draw the confusion matrix [K, K]: colour is the share of the row's class, the figure grows with K."""
    count = len(classes)
    cell = 0.56 if count <= COUNTS_UP_TO else 0.105 if count <= NAMES_UP_TO else 0.0
    side = 1.5 + max(4.0 if cell else 12.0, cell * count)
    figure = _figure(side, side)
    axes = _axes(figure, (1, 1, 1), "")
    axes.grid(visible=False)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    # The square root shows 2 % of mistakes beside 90 % of right answers.
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_xlabel(translated("answer"))
    axes.set_ylabel(translated("truth"))
    if count <= NAMES_UP_TO:
        _name_cells(axes, classes)
    if count <= COUNTS_UP_TO:
        _write_counts(axes, confusion, shares)
    return _png(figure)


def shorten(name: str, most: int) -> str:
    """Return the name, its end replaced by a dot leader if it is longer than `most` letters."""
    return name if len(name) <= most else name[: most - 1] + "…"


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


def _write_counts(axes: "Axes", confusion: Int64, shares: NDArray[np.float64]) -> None:
    size = 9 if len(f"{confusion.max()}") < 5 else 7
    for row, column in np.argwhere(confusion > 0):
        colour = "white" if shares[row, column] > 0.4 else "#222222"
        axes.text(column, row, f"{confusion[row, column]}", ha="center", va="center", color=colour, fontsize=size)


def _figure(width: float, height: float) -> "Figure":
    """Return an empty figure, inches wide and high.

    matplotlib reads the settings of the current folder as it is imported: a stranger's would have it draw plots of
    gigabytes. So it is imported from elsewhere where there are such; those in the user's own folder hold.
    """
    settings = Path("matplotlibrc").exists()
    try:
        with contextlib.chdir("/") if settings else contextlib.nullcontext():
            from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("Drawing plots", "train") from error
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _legend(axes: "Axes", **options: Any) -> None:
    """Name the lines as they are called: a dollar in the name of a run or of weights begins no formula."""
    for text in axes.legend(**options).get_texts():
        text.set_parse_math(False)


def _axes(figure: "Figure", place: tuple[int, int, int], title: str, shared: "Axes | None" = None) -> "Axes":
    """Add axes with a grid; `place` is rows, columns, number from 1."""
    axes = figure.add_subplot(*place, sharex=shared, sharey=shared)
    axes.set_title(title, fontsize=11, color=INK, parse_math=False)
    axes.spines[:].set_color(GRID)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    return axes


def _png(figure: "Figure") -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        # Class names in letters that the font lacks show as boxes here; the table of the report has them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(out, format="png")
    return out.getvalue()
