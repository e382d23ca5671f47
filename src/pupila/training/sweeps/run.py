"""A whole sweep: from trials to a folder with one table, one plot and the best model.

    <folder>/<trial>/      what `pupila train` leaves, and result.json
    <folder>/table.csv, results.json, curves.png, model.onnx

The same call goes on where an earlier one was killed: trials with a result are read, others go on from their
checkpoints.
"""

import json
import logging
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pupila._files import replacing
from pupila.data import Dataset, load_dataset
from pupila.data.quality.class_balance import remedy
from pupila.errors import TrainingError
from pupila.evaluation.pages.plots import plot_sweep
from pupila.training.loop.fit import CHECKPOINT_SECONDS
from pupila.training.run_folder import locked, write_text
from pupila.training.sweeps.definition import Trial
from pupila.training.sweeps.processes import Execute, in_turn
from pupila.training.sweeps.table import Row, as_csv, as_json, as_text, best_of, rows_of
from pupila.training.sweeps.trial import (
    BALANCED,
    PLAIN,
    Failure,
    Job,
    Result,
    forget_stopped,
    read_result,
    read_stopped,
)

log = logging.getLogger("pupila.training")


@dataclass(frozen=True)
class SweepSummary:
    """What a sweep found, and where it is."""

    folder: Path
    model: Path
    best: Result
    rows: tuple[Row, ...]
    results: tuple[Result, ...]
    failures: tuple[Failure, ...]
    reference: str
    judged_by: str = PLAIN

    def to_text(self) -> str:
        """Return the table, and what was kept."""
        table = as_text(self.rows, self.reference, self.best.test_pictures)
        figure = f"{self.judged_by.replace('_', ' ')}, {self.best.best[self.judged_by]:.4f}"
        kept = f"Best by {figure}: {self.best.trial}. Its model: {self.model}"
        return f"{table}\n{kept}\nwrote {self.folder}/table.csv, results.json and curves.png"

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values."""
        found = as_json(self.rows, self.results, self.failures)
        about = {"best": self.best.trial, "judged_by": self.judged_by, "model": str(self.model)}
        return {**about, "reference": self.reference, **found}


def run_sweep(
    source: str,
    trials: Sequence[Trial],
    folder: Path,
    *,
    size: int | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    reference: str = "",
    execute: Execute = in_turn,
    keep_stopped: bool = False,
) -> SweepSummary:
    """Run what is not done yet, then write and return what was found; prints each trial's closing line.

    execute: runs the jobs, see processes.py. keep_stopped: leave trials that were stopped early as they are; else they
    go on. Raises TrainingError if no trial came to its end, or if the folder holds trials of other settings or a sweep
    with trials that are not in this one, and what load_dataset and train raise.
    """
    with locked(folder):
        return _run_sweep(source, trials, folder, size, checkpoint_seconds, reference, execute, keep_stopped)


def _run_sweep(
    source: str, trials: Sequence[Trial], folder: Path, size: int | None, checkpoint_seconds: float, reference: str,
    execute: Execute, keep_stopped: bool,
) -> SweepSummary:  # fmt: skip
    """Run the sweep in a folder that is locked."""
    _check_folder(folder, trials)
    splits = load_dataset(source, size)  # errors in the data show now, and the cache is filled before trials need it
    judge = judged_by(splits.train, trials)
    jobs = [Job(t, source, folder / t.name, splits.fingerprint, size, checkpoint_seconds, judge) for t in trials]
    del splits
    outcomes: dict[str, Result | Failure] = {
        job.trial.name: done
        for job in jobs
        if (done := read_result(job) or (read_stopped(job) if keep_stopped else None))
    }
    left = [job for job in jobs if job.trial.name not in outcomes]
    for job in left:
        forget_stopped(job)
    log.info(f"{len(jobs)} trials, {len(outcomes)} of them done before, in {folder}")
    for outcome in execute(left) if left else ():
        outcomes[outcome.trial] = outcome
        _say(outcome)
    ordered = [outcomes[job.trial.name] for job in jobs if job.trial.name in outcomes]
    return _publish(folder, ordered, reference, judge)


def _check_folder(folder: Path, trials: Sequence[Trial]) -> None:
    """Raise TrainingError if the folder's table and model are of trials that this sweep would leave out."""
    path = folder / "results.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        earlier = [outcome["trial"] for outcome in [*found["trials"], *found["failures"]]]
    except FileNotFoundError:
        return
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path}: cannot be read ({error}). Delete it, or choose another --name.") from error
    planned = {trial.name for trial in trials}
    others = [name for name in earlier if name not in planned]
    if others:
        raise TrainingError(
            f"{folder}: holds a sweep already, with trials that are not in this one ({len(others)}, the first: "
            f"{others[0]}). Go on with the same command or a larger grid, or choose another --name."
        )


def judged_by(train: Dataset, trials: Sequence[Trial]) -> str:
    """Return what trials are chosen by: balanced accuracy if any of them makes up for uneven classes."""
    counts = train.counts()
    return BALANCED if any(remedy(counts, trial.recipe.balance) != "none" for trial in trials) else PLAIN


def _say(outcome: Result | Failure) -> None:
    if isinstance(outcome, Failure):
        log.info(f"{outcome.trial}: {'' if outcome.stopped else 'failed: '}{outcome.reason}")
        return
    test = "" if outcome.test_accuracy is None else f", test acc {outcome.test_accuracy:.4f}"
    log.info(f"{outcome.trial}: {outcome.closing}{test}")


def _publish(folder: Path, outcomes: Sequence[Result | Failure], reference: str, judge: str) -> SweepSummary:
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    if not results:
        raise TrainingError(f"{folder}: no trial came to its end; the first: {failures[0].reason}")
    best, rows = best_of(results, judge), rows_of(results, failures)
    model = folder / "model.onnx"
    with replacing(model) as temporary:
        shutil.copyfile(best.model, temporary)
    summary = SweepSummary(folder, model, best, tuple(rows), tuple(results), tuple(failures), reference, judge)
    write_text(folder / "table.csv", as_csv(results).rstrip("\n"))
    write_text(folder / "results.json", json.dumps(summary.to_json(), indent=1))
    plot_sweep(_curves(results), folder / "curves.png")
    return summary


def _curves(results: Sequence[Result]) -> Mapping[str, list[list[dict[str, Any]]]]:
    curves: dict[str, list[list[dict[str, Any]]]] = defaultdict(list)
    for result in results:
        curves[result.group].append(result.rows)
    return curves
