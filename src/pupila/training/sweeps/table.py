"""What a sweep found: a row for each group of trials, the best one, and its forms as text, CSV and JSON.

The best group is the one whose trials validate best on average; of its trials the one that validates best is taken.
By accuracy, or by balanced accuracy where the classes are uneven, as epochs are chosen too.
Test figures are carried along and never looked at.
"""

import dataclasses
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pupila._tables import CsvWriter
from pupila.training.sweeps.trial import PLAIN, Failure, Result

REFERENCE_KEYS = {"validation_accuracy": "valid acc", "examples_per_second": "examples/s"}


@dataclass(frozen=True)
class Spread:
    """Mean, lowest and highest of a few figures."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the mean, and in brackets from where to where."""
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})" if self.low != self.high else f"{self.mean:.3f}"


@dataclass(frozen=True)
class Row:
    """A group: the trials of the same settings, with different seeds."""

    group: str
    seeds: int
    failed: int
    stopped: int
    """Trials that were ended early since others were better; they are not among the failed."""
    train_loss: Spread | None
    """This and what follows is None where no trial of the group came to its end."""
    train_accuracy: Spread | None
    validation_accuracy: Spread | None
    test_accuracy: Spread | None
    examples_per_second: float | None
    seconds: float | None
    """Mean of a trial, from loading to the report."""
    reference: Mapping[str, float]


def rows_of(results: Sequence[Result], failures: Sequence[Failure]) -> list[Row]:
    """Return one row a group, in the order in which the groups first appear."""
    groups = list(dict.fromkeys([*(r.group for r in results), *(f.group for f in failures)]))
    return [
        _row(group, [r for r in results if r.group == group], [f for f in failures if f.group == group])
        for group in groups
    ]


def best_of(results: Sequence[Result], judged_by: str = PLAIN) -> Result:
    """Return the trial whose model is kept; see the module's docstring. Ties go to the lower validation loss."""
    figures: dict[str, list[tuple[float, float]]] = {}
    for result in results:
        figures.setdefault(result.group, []).append(_figures(result, judged_by))
    means = {group: [statistics.fmean(kind) for kind in zip(*found, strict=True)] for group, found in figures.items()}
    return max(results, key=lambda r: (means[r.group], r.group, _figures(r, judged_by)))


def _figures(result: Result, judged_by: str) -> tuple[float, float]:
    """Return what a trial is judged by, and its loss for ties; more is better in both."""
    return result.best[judged_by], -result.best["validation_loss"]


def as_text(rows: Sequence[Row], reference: str, test_pictures: int) -> str:
    """Return the table for a terminal, one line a group, with what its columns mean below."""
    heads = ["trials", "n", "loss", "train acc", "valid acc"]
    heads += ["test acc"] * bool(test_pictures) + ["examples/s", "s"]
    keys = [key for key in REFERENCE_KEYS if any(key in row.reference for row in rows)]
    heads += [f"reference {REFERENCE_KEYS[key]}" for key in keys]
    lines = [heads]
    for row in rows:
        none = "failed" if row.failed else "stopped"
        shown = [
            row.train_loss,
            row.train_accuracy,
            row.validation_accuracy,
            *[row.test_accuracy] * bool(test_pictures),
        ]
        cells = [row.group, f"{row.seeds}", *(none if spread is None else str(spread) for spread in shown)]
        cells += [_number(row.examples_per_second), _number(row.seconds)]
        lines.append([*cells, *(f"{row.reference[key]:g}" if key in row.reference else "" for key in keys)])
    widths = [max(len(line[place]) for line in lines) for place in range(len(heads))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.append("Each figure: mean over n seeds (lowest to highest), of the epoch that validated best.")
    text += [f"Test: the model files on {test_pictures:,} pictures; nothing is chosen by it."] * bool(test_pictures)
    text += [f"Reference: {reference}."] * bool(keys and reference)
    failed, stopped = sum(row.failed for row in rows), sum(row.stopped for row in rows)
    text += [f"{failed} trials failed; results.json has the reasons. The same command tries them again."] * bool(failed)
    text += [f"{stopped} trials were stopped early. Without --stop-early the command goes on with them."] * bool(
        stopped
    )
    return "\n".join(text)


def as_csv(results: Sequence[Result]) -> str:
    """Return a line a trial."""
    varied = list(dict.fromkeys(key for result in results for key in result.varied))
    plain = ["train_loss", "train_accuracy", "validation_loss", "validation_accuracy"]
    ends = ["test_accuracy", "examples_per_second", "seconds", "model"]
    out = io.StringIO()
    table = CsvWriter(out)
    table.writerow(["trial", "group", *varied, "seed", "epochs", "best_epoch", *plain, *ends])
    for result in results:
        values = [result.varied.get(key, "") for key in varied]
        about = [result.recipe["seed"], result.rows[-1]["epoch"], result.best["epoch"]]
        figures = [result.best[key] for key in plain] + [getattr(result, key) for key in ends]
        table.writerow([result.trial, result.group, *values, *about, *figures])
    return out.getvalue()


def as_json(rows: Sequence[Row], results: Sequence[Result], failures: Sequence[Failure]) -> dict[str, Any]:
    """Return groups, trials and failures as plain values."""
    return {
        "groups": [dataclasses.asdict(row) for row in rows],
        "trials": [dataclasses.asdict(result) for result in results],
        "failures": [dataclasses.asdict(failure) for failure in failures],
    }


def _row(group: str, results: Sequence[Result], failures: Sequence[Failure]) -> Row:
    stopped = sum(failure.stopped for failure in failures)
    failed = len(failures) - stopped
    if not results:
        return Row(group, len(failures), failed, stopped, None, None, None, None, None, None, {})
    test = [r.test_accuracy for r in results if r.test_accuracy is not None]
    return Row(
        group=group,
        seeds=len(results) + len(failures),
        failed=failed,
        stopped=stopped,
        train_loss=_spread([r.best["train_loss"] for r in results]),
        train_accuracy=_spread([r.best["train_accuracy"] for r in results]),
        validation_accuracy=_spread([r.best["validation_accuracy"] for r in results]),
        test_accuracy=_spread(test) if test else None,
        examples_per_second=statistics.fmean(r.examples_per_second for r in results),
        seconds=statistics.fmean(r.seconds for r in results),
        reference=results[0].reference,
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.fmean(values), min(values), max(values))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"
