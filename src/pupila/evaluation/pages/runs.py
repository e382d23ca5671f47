"""Compares finished and running trainings side by side: a table as text, and a page with their curves.

A run is a folder that `pupila train` made: metrics.jsonl has a row for each epoch, recipe.json the recipe, and
model.onnx, once the run has ended, the scores of the exported model.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pupila._files import write_file
from pupila.errors import DataError, ModelError
from pupila.evaluation.pages import html, plots
from pupila.predictor import Predictor

CURVES_UP_TO = 8
"""Runs whose curves fit into one plot: the best ones are drawn."""


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


def read_runs(folder: Path) -> list[RunSummary]:
    """Return the runs in a folder of runs, the best first; raises DataError if there is none."""
    found = [_read(path.parent) for path in sorted(folder.glob("*/metrics.jsonl"))]
    runs = [run for run in found if run is not None]
    if not runs:
        raise DataError(f"{folder}: holds no run. Give the folder that --runs of `pupila train` named, like runs.")
    return sorted(runs, key=lambda run: -run.accuracy)


def _read(folder: Path) -> RunSummary | None:
    """Return a run's summary, or None if its files are not readable: it may be in the middle of being made."""
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = tuple(json.loads(line) for line in lines)
        recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        model = folder / "model.onnx"
        manifest = Predictor.load(model).manifest if model.exists() else None
        metrics = manifest.metrics if manifest else {}
        best = max(row["validation_accuracy"] for row in rows)
        return RunSummary(
            folder.name, float(metrics.get("accuracy", best)), metrics.get("interval"), str(recipe.get("name")),
            manifest.weights if manifest else str(recipe.get("weights")), len(rows), rows[-1]["seconds"] / 60,
            int(rows[-1]["network_size"]), manifest is not None, rows,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, IndexError, ModelError):
        return None


HEAD = ("run", "accuracy", "95 % interval", "recipe", "weights", "epochs", "minutes", "px")


def _cells(run: RunSummary) -> tuple[str, ...]:
    interval = f"{run.interval[0]:.3f} to {run.interval[1]:.3f}" if run.interval else ""
    state = "" if run.finished else " (no model yet)"
    return (
        run.name + state, f"{run.accuracy:.3f}", interval, run.recipe, run.weights, f"{run.epochs}",
        f"{run.minutes:.1f}", f"{run.network_size}",
    )  # fmt: skip


def runs_text(runs: Sequence[RunSummary]) -> str:
    """Return the table as text, one line a run."""
    rows = [HEAD, *map(_cells, runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)  # fmt: skip


def runs_json(runs: Sequence[RunSummary]) -> list[dict[str, Any]]:
    """Return the table for a program, without the rows of the epochs."""
    return [{key: value for key, value in asdict(run).items() if key != "rows"} for run in runs]


def write_runs(path: Path, runs: Sequence[RunSummary]) -> None:
    """Write the page; raises MissingExtraError without matplotlib."""
    best = runs[:CURVES_UP_TO]
    light, dark = io.BytesIO(), io.BytesIO()
    plots.plot_runs({run.name: run.rows for run in best}, light)
    plots.plot_runs({run.name: run.rows for run in best}, dark, plots.DARK)
    note = f"The best {len(best)} of {len(runs)}." if len(best) < len(runs) else ""
    sections = [
        html.section(
            "Runs",
            "The best first. Intervals that overlap by much: the difference may be chance; `pupila compare` tests it.",
            html.table(HEAD, map(_cells, runs)),
        ),
        html.section(
            "Validation accuracy", note, html.plot(light.getvalue(), "Validation accuracy", dark=dark.getvalue())
        ),
    ]
    write_file(path, html.page("Runs compared", f"{len(runs)} runs", sections))
