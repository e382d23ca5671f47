"""One trial of a sweep: trained in a folder of its own, or taken up where it was killed, or read if it is done already.

Trials run in this process, one after another, or several at once in processes. These are started afresh (`spawn`):
with `fork` a child would inherit torch's threads in an unknown state.
"""

import dataclasses
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pupila._files import from_json, is_figure, json_object, read_small
from pupila._workers import usable_cores
from pupila.data import load_dataset
from pupila.errors import ModelError, TrainingError
from pupila.evaluation.evaluate import score_dataset
from pupila.progress import printing_to
from pupila.training.loop.checkpoint import check_identity
from pupila.training.run_folder import TrainingData, finish, forget, holds_run, is_finished, write_text
from pupila.training.sweeps.definition import Trial
from pupila.training.train import TrainJob, TrainResult, closing_line, train

log = logging.getLogger("pupila.training")

RESULT = "result.json"
PLAIN, BALANCED = "validation_accuracy", "validation_balanced_accuracy"
FIGURES = ("epoch", "train_loss", "train_accuracy", "validation_loss", PLAIN, BALANCED)
"""Of each epoch, that tables and plots show."""


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


@dataclass(frozen=True)
class Result:
    """What became of a trial; all plain values."""

    trial: str
    group: str
    varied: Mapping[str, Any]
    recipe: Mapping[str, Any]
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


Outcome = Result | Failure
Execute = Callable[[Sequence[Job]], Iterator[Outcome]]
"""Runs jobs in any order and yields what becomes of each."""


def run_job(job: Job) -> Outcome:
    """Train, score on the test split if there is one, and leave result.json; a job that is done is only read.

    What goes wrong in training or in its model becomes a Failure; wrong data or a missing package ends the sweep.
    """
    done = read_result(job)
    if done is not None:
        return done
    job.folder.mkdir(parents=True, exist_ok=True)
    if holds_run(job.folder) and is_finished(job.folder):
        forget(job.folder)  # somebody has deleted its result
    begun = time.monotonic()
    try:
        data = TrainingData(job.source, job.size)
        training = TrainJob(data, job.trial.recipe, job.folder, True, job.checkpoint_seconds)
        trained = train(training, keep_open=True)
    except (TrainingError, ModelError) as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # before its first epoch was over
            raise KeyboardInterrupt from error
        return Failure(job.trial.name, job.trial.group, str(error))
    if trained.fitted.stopped:
        raise KeyboardInterrupt
    result = _result(job, trained, time.monotonic() - begun)
    write_text(job.folder / RESULT, json.dumps(dataclasses.asdict(result), indent=1))
    finish(job.folder)
    return result


def _result(job: Job, trained: TrainResult, seconds: float) -> Result:
    fitted, trial, predictor = trained.fitted, job.trial, trained.exported.predictor
    test = load_dataset(job.source, job.size, framing=predictor.manifest.framing).test
    return Result(
        trial=trial.name,
        group=trial.group,
        varied=dict(trial.varied),
        recipe=trial.recipe.to_dict(),
        fingerprint=job.fingerprint,
        model=str(trained.model),
        rows=fitted.rows,
        best_epoch=fitted.best_epoch,
        test_accuracy=None if test is None else score_dataset(predictor, test).accuracy,
        test_pictures=0 if test is None else len(test),
        examples_per_second=fitted.examples_per_second,
        seconds=seconds,
        closing=closing_line(fitted),
    )


def read_result(job: Job) -> Result | None:
    """Return what an earlier start left, or None; raises TrainingError if it is of other settings or data."""
    path = job.folder / RESULT
    try:
        result = _checked(json_object(read_small(path)), job)
    except FileNotFoundError:
        return None
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path}: cannot be read ({error}). Delete it: the trial is then finished anew.") from error
    ours = {"recipe": job.trial.recipe.to_dict(), "data": job.fingerprint}
    check_identity(job.folder, ours, {"recipe": result.recipe, "data": result.fingerprint})
    if not is_finished(job.folder):  # killed between its result and its end
        finish(job.folder)
    return result


def _checked(fields: Any, job: Job) -> Result:
    """Return a result that may be another's: what the job says stands, its model is the one in the job's folder.

    Raises ValueError, KeyError or TypeError.
    """
    model = job.folder / "model.onnx"
    own = {"trial": job.trial.name, "group": job.trial.group, "varied": dict(job.trial.varied), "model": str(model)}
    result = from_json(Result, {**fields, **own})
    names = ("best_epoch", "test_pictures", "examples_per_second", "seconds")
    figures = [(name, getattr(result, name)) for name in names]
    figures += [(name, row[name]) for row in result.rows for name in FIGURES]
    figures += [] if result.test_accuracy is None else [("test_accuracy", result.test_accuracy)]
    if not all(is_figure(*figure) for figure in figures):
        raise ValueError("its figures are no numbers")
    if not 0 <= result.best_epoch < len(result.rows):
        raise ValueError("it lacks its best epoch")
    if model.is_symlink():
        raise ValueError(f"{model.name} is a link")
    return result


def in_turn(jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Run jobs one after another in this process, which prints what a training prints."""
    for number, job in enumerate(jobs, 1):
        log.info(f"[{number}/{len(jobs)}] {job.trial.name}")
        yield run_job(job)


def at_once(count: int) -> Execute:
    """Return what runs `count` jobs at a time, each in a process with its share of the cores, at least one thread."""
    threads = max(1, usable_cores() // count)

    def execute(jobs: Sequence[Job]) -> Iterator[Outcome]:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(count, len(jobs)), context, _begin)
        try:
            waiting = [pool.submit(_run_quietly, job, threads) for job in jobs]
            for number, future in enumerate(as_completed(waiting), 1):
                outcome = future.result()
                log.info(f"[{number}/{len(jobs)}] {outcome.trial}")
                yield outcome
        except BrokenProcessPool as error:
            raise TrainingError(
                "A trial's process was killed, perhaps for want of memory. Give the same command again, it goes on "
                "where it stopped; fewer --jobs need less memory."
            ) from error
        except BaseException:
            for child in multiprocessing.active_children():  # else Ctrl-C would wait until their trials are over
                child.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    return execute


def _run_quietly(job: Job, threads: int) -> Outcome:
    """Run a job with so many threads; what it prints goes into the folder's log.txt."""
    torch.set_num_threads(threads)
    with printing_to(job.folder):
        return run_job(job)


def _begin() -> None:
    """Make this process end at once with Ctrl-C, and with its parent, however that ends: the folder is then free."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
