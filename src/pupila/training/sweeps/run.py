"""A whole sweep: from trials to a folder with one table, one plot and the best model.

    <folder>/<trial>/      what `pupila train` leaves, and result.json
    <folder>/table.csv, results.json, curves.png, model.onnx

The same call goes on where an earlier one was killed: trials with a result are read, others go on from their
checkpoints. The best group of settings is the one whose trials validate best on average; of its trials the best is
taken. Test figures are carried along and never looked at.
"""

import dataclasses
import io
import json
import logging
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pupila._arguments import counted
from pupila._files import CsvWriter, json_object, read_small, replacing, text_table, write_file
from pupila._language import translated
from pupila.data import Dataset, load_dataset
from pupila.data.quality.class_balance import remedy
from pupila.errors import TrainingError
from pupila.evaluation.pages.plots import plot_sweep
from pupila.progress import printable, shown
from pupila.training.loop.fit import CHECKPOINT_SECONDS
from pupila.training.run_folder import RECORD, locked, write_text
from pupila.training.sweeps.definition import Trial
from pupila.training.sweeps.trial import (
    BALANCED,
    PLAIN,
    Execute,
    Failure,
    Job,
    Outcome,
    Result,
    in_turn,
    read_result,
)

log = logging.getLogger("pupila.training")

FIGURES = {
    "train_loss": "loss",
    "train_accuracy": "train acc",
    "validation_accuracy": "valid acc",
    "test_accuracy": "test acc",
}
"""What the table shows of a group as mean and range, and the heads of these columns."""


@dataclass(frozen=True)
class SweepSummary:
    """What a sweep found, and where it is."""

    folder: Path
    results: Sequence[Result]
    failures: Sequence[Failure]
    judged_by: str = PLAIN

    @property
    def model(self) -> Path:
        """The best trial's model file."""
        return self.folder / "model.onnx"

    @property
    def best(self) -> Result:
        """The trial whose model is kept."""
        return best_of(self.results, self.judged_by)

    def to_text(self) -> str:
        """Return the table, and what was kept, in the reader's language."""
        best = self.best
        judged = self.judged_by.replace("_", " ")
        kept = f"Best by {judged}, {best.best[self.judged_by]:.4f}: {best.trial}. Its model: {self.model}"
        wrote = f"wrote {self.folder}/table.csv, results.json and curves.png"
        table = as_text(groups_of(self.results, self.failures), best.test_pictures)
        return "\n".join([table, shown(kept), shown(wrote)])

    def to_json(self) -> dict[str, Any]:
        """Return groups, trials and failures as plain values."""
        return {
            "best": self.best.trial,
            "judged_by": self.judged_by,
            "model": str(self.model),
            "groups": groups_of(self.results, self.failures),
            "trials": [dataclasses.asdict(result) for result in self.results],
            "failures": [dataclasses.asdict(failure) for failure in self.failures],
        }


def run_sweep(
    source: str,
    trials: Sequence[Trial],
    folder: Path,
    *,
    size: int | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    execute: Execute = in_turn,
) -> SweepSummary:
    """Run what is not done yet, then write and return what was found; logs each trial's closing line.

    execute: runs the jobs, see trial.py. Raises TrainingError if no trial came to its end, or if the folder holds
    trials of other settings or a sweep with trials that are not in this one, and what load_dataset and train raise.
    """
    with locked(folder):
        _check_folder(folder, trials)
        splits = load_dataset(source, size)  # errors in the data show now, and the cache is filled before it is needed
        judge = judged_by(splits.train, trials)
        jobs = [Job(t, source, folder / t.name, splits.fingerprint, size, checkpoint_seconds) for t in trials]
        del splits
        outcomes: dict[str, Outcome] = {job.trial.name: done for job in jobs if (done := read_result(job))}
        left = [job for job in jobs if job.trial.name not in outcomes]
        log.info(f"{counted(len(jobs), 'trial')}, {len(outcomes)} of them done before, in {folder}")
        for outcome in execute(left) if left else ():
            outcomes[outcome.trial] = outcome
            for line in _lines(outcome):
                log.info(f"{outcome.trial}: {line}")
        ordered = [outcomes[job.trial.name] for job in jobs if job.trial.name in outcomes]
        return _publish(folder, ordered, judge)


def _check_folder(folder: Path, trials: Sequence[Trial]) -> None:
    """Raise TrainingError if table and model are of other trials, or of a training, or a trial's folder is a link."""
    for trial in trials:
        if (folder / trial.name).is_symlink():  # what it leads to would be removed and written over
            raise TrainingError(f"{folder / trial.name}: is a link, and nothing is written through it. Remove it.")
    path = folder / "results.json"
    swept = path.exists() or any((folder / trial.name).is_dir() for trial in trials)
    if (folder / RECORD).exists() or ((folder / "model.onnx").exists() and not swept):
        raise TrainingError(f"{folder}: holds the model of a training. Choose another --name.")
    try:
        found = json_object(read_small(path))
        earlier = [str(outcome["trial"]) for outcome in [*found["trials"], *found["failures"]]]
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


def _lines(outcome: Outcome) -> list[str]:
    if isinstance(outcome, Failure):
        return [f"failed: {outcome.reason}"]
    test = "" if outcome.test_accuracy is None else f", test acc {outcome.test_accuracy:.4f}"
    return f"{outcome.closing}{test}".split("\n")


def _publish(folder: Path, outcomes: Sequence[Outcome], judge: str) -> SweepSummary:
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    if not results:
        raise TrainingError(f"{folder}: no trial came to its end; the first: {failures[0].reason}")
    summary = SweepSummary(folder, results, failures, judge)
    with replacing(summary.model) as temporary:
        shutil.copyfile(summary.best.model, temporary)
    write_text(folder / "table.csv", as_csv(results).rstrip("\n"))
    write_text(folder / "results.json", json.dumps(summary.to_json(), indent=1))
    groups = dict.fromkeys(result.group for result in results)
    curves = {group: [result.rows for result in results if result.group == group] for group in groups}
    write_file(folder / "curves.png", plot_sweep(curves))
    return summary


def best_of(results: Sequence[Result], judged_by: str = PLAIN) -> Result:
    """Return the trial whose model is kept; see the module's docstring. Ties go to the lower validation loss."""

    def figures(result: Result) -> tuple[float, float]:
        return result.best[judged_by], -result.best["validation_loss"]

    def rank(result: Result) -> tuple[Any, ...]:
        group = [figures(other) for other in results if other.group == result.group]
        return [statistics.fmean(kind) for kind in zip(*group, strict=True)], result.group, figures(result)

    return max(results, key=rank)


def groups_of(results: Sequence[Result], failures: Sequence[Failure]) -> list[dict[str, Any]]:
    """Return plain values of each group, in the order in which the groups first appear.

    Each of FIGURES is a mapping of mean, low and high over the group's trials; None where none came to its end.
    """
    names = dict.fromkeys([*(r.group for r in results), *(f.group for f in failures)])
    return [
        _group(name, [r for r in results if r.group == name], [f for f in failures if f.group == name])
        for name in names
    ]


def _group(name: str, results: Sequence[Result], failures: Sequence[Failure]) -> dict[str, Any]:
    figures = [{**r.best, "test_accuracy": r.test_accuracy} for r in results]
    return {
        "group": name,
        "seeds": len(results) + len(failures),
        "failed": len(failures),
        **{key: _spread([each[key] for each in figures if each[key] is not None]) for key in FIGURES},
        "examples_per_second": statistics.fmean(r.examples_per_second for r in results) if results else None,
        "seconds": statistics.fmean(r.seconds for r in results) if results else None,
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    return {"mean": statistics.fmean(values), "low": min(values), "high": max(values)} if values else None


def as_text(groups: Sequence[Mapping[str, Any]], test_pictures: int) -> str:
    """Return the table for a terminal, one line a group, with what its columns mean below."""
    figures = {key: head for key, head in FIGURES.items() if key != "test_accuracy" or test_pictures}
    lines = [["trials", "n", *figures.values(), "examples/s", "s"]]
    for group in groups:
        means = [group[key] for key in ("examples_per_second", "seconds")]
        cells = ["failed" if group[key] is None else _mean_and_range(**group[key]) for key in figures]
        speeds = ["" if mean is None else f"{mean:.0f}" for mean in means]
        lines.append([printable(group["group"]), f"{group['seeds']}", *cells, *speeds])
    text = ["Each figure: mean over n seeds (lowest to highest), of the epoch that validated best."]
    if test_pictures:
        text.append(f"Test: the model files on {counted(test_pictures, 'picture')}; nothing is chosen by it.")
    if failed := sum(group["failed"] for group in groups):
        text.append(
            f"{counted(failed, 'trial')} failed; results.json has the reasons. The same command tries them again."
        )
    return "\n".join([text_table(lines), *map(translated, text)])


def _mean_and_range(mean: float, low: float, high: float) -> str:
    return f"{mean:.3f} ({low:.3f} to {high:.3f})" if low != high else f"{mean:.3f}"


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
