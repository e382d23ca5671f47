"""The whole way from a data set's name to a run folder: prepare, fit, export, report.

A run folder holds recipe.json, run.json, metrics.jsonl, checkpoint.safetensors, backbone.safetensors, model.onnx, and
report.html with its plots, curves.png among them.
"""

import contextlib
import copy
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from pupila.data.quality.class_balance import describe_classes
from pupila.errors import TrainingError, serve_command
from pupila.evaluation.pages.report import ProgressPage, write_report
from pupila.progress import quiet_log
from pupila.recipe import Recipe
from pupila.training.distributed.process_group import ALONE, Team
from pupila.training.export.export import Exported, expected_seconds, export
from pupila.training.loop.checkpoint import check_identity
from pupila.training.loop.class_weights import GUESSING
from pupila.training.loop.device import pick_device, usable_threads
from pupila.training.loop.fit import CHECKPOINT_SECONDS, Fitted, OnEpoch, Row, fit
from pupila.training.loop.head import at_most, fit_head, plain_layer
from pupila.training.loop.resnet import ResNet18
from pupila.training.loop.signals import ctrl_c_waits
from pupila.training.prepare import Prepared, prepare
from pupila.training.run_folder import (
    CHECKPOINT,
    PATHS,
    RECORD,
    Record,
    TrainingData,
    finish,
    holds_run,
    is_finished,
    locked,
    read_json,
    source_of,
    write_text,
)
from pupila.training.tensorboard import check_installed, event_file
from pupila.training.weights import save_backbone

logger = logging.getLogger("pupila.training")

FIRST_MODEL_PICTURES, FIRST_MODEL_SIZE = 500, 64
"""Pictures at most that the last layer of the first model is fitted to, and pixels a side that it looks at, at most."""
EARLY_PICTURES, EARLY_MADE = 100, 10
"""Pictures at most that a model file which is soon replaced is measured on, and remembers some of; and strange ones of
each kind that it is tried on."""
SECOND_MODEL_MINUTES = 3.0
"""Budget from which the model with the last layer of all pictures takes its place: a shorter one is over soon."""
METRICS = "metrics.jsonl"
WRITING = "It ends when the model file and the report are written. A second Ctrl-C stops it at once."
WORTH_SAYING = 0.02
"""Difference of accuracy and balanced accuracy from which an epoch's line gives both."""


@dataclass(frozen=True)
class TrainResult:
    """A finished run: where its model file is, and what it reached."""

    model: Path
    """The model file: pupila.load() it, or serve it."""
    folder: Path
    """Everything that the run left."""
    report: Path
    """The report page."""
    fitted: Fitted = field(repr=False)
    exported: Exported = field(repr=False)

    @property
    def accuracy(self) -> float:
        """Share of right answers of the model file on the validation pictures, 0 to 1."""
        return float(self.exported.predictor.manifest.metrics["accuracy"])

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy (Wilson)."""
        low, high = self.exported.predictor.manifest.metrics["interval"]
        return low, high

    @property
    def history(self) -> list[Row]:
        """One mapping of metrics an epoch."""
        return self.fitted.rows


@dataclass(frozen=True)
class TrainJob:
    """Everything that decides a training, to be sent to other processes."""

    data: TrainingData
    recipe: Recipe
    folder: Path
    resume: bool = False
    """Go on from the checkpoint if there is one; without one the run begins anew, and that is logged."""
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    tensorboard: bool = False
    """Write its event files, too."""


def train(job: TrainJob, team: Team = ALONE, *, watch: OnEpoch | None = None, keep_open: bool = False) -> TrainResult:
    """Train and leave everything in the job's folder, which is locked meanwhile; logs one line an epoch.

    team: the workers, of which this is the first; the others call assist(). watch: called after each epoch with the
    metrics of all so far; what it raises ends the run. keep_open: leave it to the caller to call finish() when the run
    is over. Ctrl-C ends the steps early, or waits for model file and report; elsewhere, and there with keep_open, it
    raises KeyboardInterrupt. The test split is not touched. Raises PupilaError's kinds; see fit, load_dataset, export.
    """
    folder, begun = job.folder, time.monotonic()
    if job.tensorboard:
        check_installed()
    with locked(folder):
        refuse_to_overwrite(folder, job.resume)
        torch.set_num_threads(usable_threads())
        prepared = prepare(job.data, job.recipe, team)
        logger.info(describe_classes(prepared.training, prepared.recipe.balance))
        begin_or_go_on(job, prepared)
        if not keep_open and prepared.recipe.trains == "all" and _begins_with_features(prepared, job):
            _first_model(prepared, folder / "model.onnx")
        watchers = [ProgressPage(folder, prepared.splits.name).update, *([watch] if watch else [])]
        with contextlib.ExitStack() as opened:
            if job.tensorboard:
                watchers.insert(0, opened.enter_context(event_file(folder)))
            on_epoch = partial(_record, folder, prepared.recipe, watchers)
            fitted = _fitted(prepared, job, on_epoch, team, begun)
        if fitted.ended:
            logger.info(fitted.ended)
        if doubt := describe_guessing(fitted, len(prepared.training.classes)):
            logger.info(doubt)
        with ctrl_c_waits(WRITING) if team.size == 1 and not keep_open else contextlib.nullcontext():
            result = _publish(prepared, fitted, job)
            if not keep_open and not fitted.stopped:
                finish(folder)
    return result


def describe_guessing(fitted: Fitted, classes: int) -> str:
    """Return a sentence on a model that answers no better than guessing would, else nothing."""
    row = fitted.rows[fitted.best_epoch]
    if row["validation_balanced_accuracy"] > GUESSING / classes:
        return ""
    return (
        f"The model answers no better than guessing (valid acc {row['validation_accuracy']:.3f}, {classes} classes): "
        "it has too few pictures, labels that do not fit, or a learning rate that is too high. Look with: pupila data"
    )


def assist(job: TrainJob, team: Team) -> None:
    """Do a worker's share of a training that the first worker of the team leads; prints and writes nothing."""
    with quiet_log():
        _fitted(prepare(job.data, job.recipe, team), job, lambda _: None, team, time.monotonic())


def _fitted(prepared: Prepared, job: TrainJob, on_epoch: OnEpoch, team: Team, begun: float) -> Fitted:
    """Fit all of the network, or its head. begun: when the run did, on the clock of time.monotonic."""
    recipe, network = prepared.recipe, prepared.start.network
    if recipe.trains == "head" and team.size > 1:
        raise TrainingError("trains=head is one short computation that workers cannot share. Leave --workers out.")
    head, reserve, seconds = None, 0.0, math.inf
    if recipe.minutes:
        if team.leads:
            reserve = expected_seconds(network, recipe, prepared.training, prepared.validation)
        seconds = 60 * recipe.minutes - reserve - (time.monotonic() - begun)
    if _begins_with_features(prepared, job):
        head = fit_head(recipe, network, prepared.training, prepared.validation, seconds, team)
    if recipe.trains == "head" and head is not None:
        on_epoch([head])
        return Fitted(network.cpu().eval(), recipe.network_size, 0, [head], head["pictures"] / head["seconds"])
    if team.leads and head is not None and recipe.minutes >= SECOND_MODEL_MINUTES:
        with quiet_log():
            _early_model(prepared, copy.deepcopy(network), recipe, job.folder / "model.onnx")
    return fit(
        recipe, network, prepared.training, prepared.validation, job.folder / CHECKPOINT, head=head,
        spent=time.monotonic() - begun, reserve=reserve,
        identity=prepared.identity, resume=job.resume, checkpoint_seconds=job.checkpoint_seconds, on_epoch=on_epoch,
        team=team, outliers=None if prepared.outliers is None else prepared.outliers.pictures, teacher=prepared.teacher,
    )  # fmt: skip


def _begins_with_features(prepared: Prepared, job: TrainJob) -> bool:
    """Return whether the last layer is fitted first: to trained weights, unless the run goes on from a checkpoint."""
    return prepared.start.origin != "none" and not (job.resume and (job.folder / CHECKPOINT).exists())


def _first_model(prepared: Prepared, path: Path) -> None:
    """Write a model file with a last layer fitted in seconds, to be served until training has a better one."""
    recipe, network = prepared.recipe, copy.deepcopy(prepared.start.network)
    size = min(recipe.network_size, FIRST_MODEL_SIZE)
    recipe = replace(recipe, network_size=size, progressive=(), flip_average="off")
    few = at_most(prepared.training, FIRST_MODEL_PICTURES, recipe.seed)
    plain_layer(recipe, network, few).put_into(network)
    _early_model(replace(prepared, training=few), network, recipe, path)
    logger.info(f"A first model is ready; a server takes over the finished one by itself: {serve_command(path)}")


def _early_model(prepared: Prepared, network: ResNet18, recipe: Recipe, path: Path) -> None:
    """Write a model file that is measured on few pictures, as it is soon replaced."""
    fitted = Fitted(network.cpu().eval(), recipe.network_size, 0, [], 0.0)
    few = replace(prepared, validation=at_most(prepared.validation, EARLY_PICTURES, recipe.seed))
    recipe = replace(recipe, export="float32")
    _export(few, fitted, recipe, path, prototype_pictures=EARLY_PICTURES, made=EARLY_MADE)


def _export(prepared: Prepared, fitted: Fitted, recipe: Recipe, path: Path, **options: int) -> Exported:
    return export(
        fitted, recipe, prepared.training, prepared.validation, path, splits=prepared.splits,
        origin=prepared.start.origin, corrections=prepared.corrections, outliers=prepared.outliers,
        teacher=prepared.teacher, **options,
    )  # fmt: skip


def _publish(prepared: Prepared, fitted: Fitted, job: TrainJob) -> TrainResult:
    """Write metrics, weights, model file and report."""
    folder, rows = job.folder, fitted.rows
    write_text(folder / METRICS, lines_of(rows))  # a kill may have come between a checkpoint and its line
    for line in closing_line(fitted).split("\n"):
        logger.info(line)
    save_backbone(fitted.network, folder / "backbone.safetensors")
    exported = _export(prepared, fitted, prepared.recipe, folder / "model.onnx")
    report = write_report(
        folder, exported.predictor, prepared.validation, rows, exported.evaluation,
        kept=rows[fitted.best_epoch]["epoch"], source=Path(job.data.source).expanduser(),
    )  # fmt: skip
    logger.info(f"wrote {exported.path} and {report}")
    return TrainResult(exported.path, folder, report, fitted, exported)


def closing_line(fitted: Fitted) -> str:
    """Return the two figures lines in the words of d2l's training function, of the best epoch."""
    row = fitted.rows[fitted.best_epoch]
    return (
        f"loss {row['train_loss']:.3f}, train acc {row['train_accuracy']:.3f}, "
        f"valid acc {row['validation_accuracy']:.3f}\n"
        f"{fitted.examples_per_second:.1f} examples/sec on {pick_device().type}"
    )


def refuse_to_overwrite(folder: Path, resume: bool) -> None:
    """Raise TrainingError if the folder holds a run that is not to be gone on with, or that is finished."""
    if not resume and holds_run(folder):
        raise TrainingError(f"{folder}: holds a run already. Go on with --resume, or choose another --name.")
    if resume and holds_run(folder) and is_finished(folder):
        raise TrainingError(f"{folder}: is finished. Leave --resume out: a new run gets a new folder.")


def begin_or_go_on(job: TrainJob, prepared: Prepared) -> None:
    """Write the run's record and recipe; raises TrainingError if the folder is another run's."""
    folder, checkpoint = job.folder, job.folder / CHECKPOINT
    if job.resume and holds_run(folder):
        earlier = read_json(folder / RECORD).get("identity")
        if earlier:
            check_identity(folder, prepared.identity, earlier)
        elif not checkpoint.exists():
            raise TrainingError(f"{folder}: has neither a checkpoint nor a record of its settings. Leave --resume out.")
        if not checkpoint.exists():
            logger.info(f"{folder}: was stopped before its first checkpoint, and begins anew.")
    data, splits = job.data, prepared.splits
    paths = {name: path and path.expanduser().absolute() for name in PATHS for path in [getattr(data, name)]}
    record = Record(
        source_of(data.source), data.size, fingerprint=splits.fingerprint, threads=torch.get_num_threads(),
        identity=prepared.identity, **paths,
    )  # fmt: skip
    write_text(folder / "recipe.json", json.dumps(prepared.recipe.to_dict(), indent=2))
    record.write(folder)


def _record(folder: Path, recipe: Recipe, watchers: Sequence[OnEpoch], rows: Sequence[Row]) -> None:
    """Bring metrics.jsonl up to date, print the newest epoch's line, and call who else wants to know."""
    write_text(folder / METRICS, lines_of(rows))
    row = rows[-1]
    accuracy, balanced = row["validation_accuracy"], row["validation_balanced_accuracy"]
    uneven = f" (balanced {balanced:.3f})" if abs(balanced - accuracy) >= WORTH_SAYING else ""
    what = f"epoch {row['epoch']}" if row["epoch"] else "last layer alone"
    logger.info(
        f"{what} at {row['network_size']} px: loss {row['train_loss']:.3f}, "
        f"train acc {row['train_accuracy']:.3f}, valid acc {accuracy:.3f}{uneven}, {pace(recipe, rows)}",
    )
    for watcher in watchers:
        watcher(rows)


def lines_of(rows: Sequence[Row]) -> str:
    """Return one JSON object an epoch and line."""
    return "\n".join(json.dumps(row) for row in rows)


def pace(recipe: Recipe, rows: Sequence[Row]) -> str:
    """Return how long the newest epoch took and how much of the run is left."""
    row = rows[-1]
    took = row["seconds"] - (rows[-2]["seconds"] if len(rows) > 1 else 0.0)
    if not row["epoch"]:  # the last layer alone says nothing of how long an epoch takes
        return f"{took:.1f} s"
    left = 60 * recipe.minutes - row["seconds"] if recipe.minutes else took * (recipe.epochs - row["epoch"])
    minutes, seconds = divmod(max(round(left), 0), 60)
    return f"{took:.1f} s an epoch, {minutes}:{seconds:02} left"
