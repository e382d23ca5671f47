"""One trial: trained in a folder of its own, or taken up where it was killed, or read if it is done already."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pupila.data import load_dataset
from pupila.errors import ModelError, TrainingError
from pupila.evaluation.evaluate import evaluate
from pupila.progress import printed_log
from pupila.recipe import Recipe
from pupila.training.loop.fit import OnEpoch
from pupila.training.run_folder import finish, forget, holds_run, is_finished, write_text
from pupila.training.sweeps.definition import Trial
from pupila.training.train import TrainResult, closing_line, train

RESULT = "result.json"
PLAIN, BALANCED = "validation_accuracy", "validation_balanced_accuracy"
STOPPED = "stopped.json"
"""Is there if a scheduler ended the trial before its time: with which recipe, and on which data."""


@dataclass(frozen=True)
class Job:
    """Everything that a trial needs, to be sent to another process."""

    trial: Trial
    source: str
    folder: Path
    """The trial's own."""
    fingerprint: str
    """Of the data, as it was when the sweep began."""
    size: int | None
    checkpoint_seconds: float
    judged_by: str = PLAIN
    """What trials are chosen by, a key of an epoch's metrics."""


@dataclass(frozen=True)
class Result:
    """What became of a trial; all plain values."""

    trial: str
    group: str
    varied: Mapping[str, Any]
    recipe: Mapping[str, Any]
    reference: Mapping[str, float]
    fingerprint: str
    model: str
    rows: list[dict[str, Any]]
    """One mapping of metrics an epoch."""
    best_epoch: int
    test_accuracy: float | None
    """Of the model file, where the data has a test split. For information: nothing is chosen by it."""
    test_pictures: int
    examples_per_second: float
    seconds: float
    closing: str

    @property
    def best(self) -> Mapping[str, Any]:
        """The metrics of the epoch whose weights were kept."""
        return self.rows[self.best_epoch]


@dataclass(frozen=True)
class Failure:
    """A trial that ended in an error of its own, like a loss that is not finite."""

    trial: str
    group: str
    reason: str
    stopped: bool = False
    """No error: a scheduler ended it, since others were better."""


def run_job(job: Job, watch: OnEpoch = lambda _: None) -> Result | Failure:
    """Train, score on the test split if there is one, and leave result.json; a job that is done is only read.

    What goes wrong in training or in its model becomes a Failure; wrong data or a missing package ends the sweep.
    watch: see train(); if it raises SystemExit, the trial is stopped early, and a note of that is left.
    """
    done = read_result(job)
    if done is not None:
        return done
    job.folder.mkdir(parents=True, exist_ok=True)
    if holds_run(job.folder) and is_finished(job.folder):
        forget(job.folder)  # somebody has deleted its result
    begun = time.monotonic()
    try:
        trained = train(
            job.source, job.trial.recipe, job.folder,
            size=job.size, resume=True, checkpoint_seconds=job.checkpoint_seconds, watch=watch,
            keep_open=True,
        )  # fmt: skip
    except (TrainingError, ModelError) as error:
        return Failure(job.trial.name, job.trial.group, str(error))
    except SystemExit:
        note = {"recipe": job.trial.recipe.to_dict(), "fingerprint": job.fingerprint}
        (job.folder / STOPPED).write_text(json.dumps(note), encoding="utf-8")
        raise
    if trained.fitted.stopped:
        raise KeyboardInterrupt
    result = _result(job, trained, time.monotonic() - begun)
    write_text(job.folder / RESULT, json.dumps(dataclasses.asdict(result), indent=1))
    finish(job.folder)
    return result


def read_stopped(job: Job) -> Failure | None:
    """Return what is to be said of a trial that was stopped early with this recipe on this data, or None."""
    try:
        note = json.loads((job.folder / STOPPED).read_text(encoding="utf-8"))
        same = note["fingerprint"] == job.fingerprint and not _changes(job.trial.recipe, note["recipe"])
    except (OSError, KeyError, TypeError, ValueError, AttributeError):  # killed while it was written: not stopped
        return None
    reason = "Stopped early: other trials were better by then."
    return Failure(job.trial.name, job.trial.group, reason, stopped=True) if same else None


def forget_stopped(job: Job) -> None:
    """Let a trial that was stopped early be run again, from where it was."""
    (job.folder / STOPPED).unlink(missing_ok=True)


def run_quietly(job: Job, threads: int) -> Result | Failure:
    """The same in a process of its own: with so many threads, and what it prints in the folder's log.txt."""
    torch.set_num_threads(threads)
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / "log.txt").open("a", encoding="utf-8") as log, _printing_to(log):
        return run_job(job)


def read_result(job: Job) -> Result | None:
    """Return what an earlier start left, or None; raises TrainingError if it is of other settings or data."""
    path = job.folder / RESULT
    try:
        result = Result(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError) as error:
        raise TrainingError(f"{path}: cannot be read ({error}). Delete it: the trial is then finished anew.") from error
    changes = _changes(job.trial.recipe, result.recipe)
    if result.fingerprint != job.fingerprint:
        changes.append("the data has changed")
    if changes:
        raise TrainingError(f"{job.folder}: holds another trial ({', '.join(changes)}). Choose another --name.")
    if not is_finished(job.folder):  # killed between its result and its end
        finish(job.folder)
    return result


def _changes(recipe: Recipe, earlier: Mapping[str, Any]) -> list[str]:
    ours = json.loads(json.dumps(recipe.to_dict()))
    different = sorted(key for key in ours.keys() | earlier.keys() if ours.get(key) != earlier.get(key))
    return [f"{key} was {earlier.get(key)} and is {ours.get(key)}" for key in different]


def _result(job: Job, trained: TrainResult, seconds: float) -> Result:
    test, pictures = _test_accuracy(job, trained)
    fitted, trial = trained.fitted, job.trial
    return Result(
        trial=trial.name,
        group=trial.group,
        varied=dict(trial.varied),
        recipe=trial.recipe.to_dict(),
        reference=dict(trial.reference),
        fingerprint=job.fingerprint,
        model=str(trained.model),
        rows=fitted.rows,
        best_epoch=fitted.best_epoch,
        test_accuracy=test,
        test_pictures=pictures,
        examples_per_second=fitted.examples_per_second,
        seconds=seconds,
        closing=closing_line(fitted),
    )


def _test_accuracy(job: Job, trained: TrainResult) -> tuple[float | None, int]:
    test = load_dataset(job.source, job.size, framing=trained.exported.predictor.manifest.framing).test
    if test is None:
        return None, 0
    return evaluate(trained.exported.predictor, test).scores.accuracy, len(test)


@contextlib.contextmanager
def _printing_to(stream: Any) -> Iterator[None]:
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream), printed_log():
        yield
