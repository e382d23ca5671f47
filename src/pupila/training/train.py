"""The whole way from a data set's name to a run folder: prepare, fit, export, report.

A run folder holds recipe.json, run.json, metrics.jsonl, checkpoint.safetensors, backbone.safetensors, model.onnx, and
report.html with its plots, curves.png among them.
"""

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pupila.data.quality.class_balance import describe_classes
from pupila.errors import TrainingError
from pupila.evaluation.pages.report import ProgressPage, write_report
from pupila.progress import quiet_log
from pupila.recipe import Recipe
from pupila.training.distributed.process_group import ALONE, Team
from pupila.training.distributed.remote_checkpoints import Mirror
from pupila.training.export.export import Exported, export
from pupila.training.loop.checkpoint import check_identity
from pupila.training.loop.device import pick_device, usable_threads
from pupila.training.loop.fit import CHECKPOINT_SECONDS, Fitted, OnEpoch, Row, fit
from pupila.training.loop.head import fit_head
from pupila.training.prepare import Prepared, prepare
from pupila.training.record import Record, record_of
from pupila.training.run_folder import (
    CHECKPOINT,
    RECORD,
    finish,
    holds_run,
    is_finished,
    locked,
    read_json,
    write_text,
)
from pupila.training.trackers import Tracker, check_installed, tracking
from pupila.training.weights import save_backbone

logger = logging.getLogger("pupila.training")

FIRST_MODEL_MINUTES = 1.0
"""Budget from which a first model file is written before the network as a whole is trained."""
METRICS = "metrics.jsonl"
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


def train(
    source: str,
    recipe: Recipe,
    folder: Path,
    *,
    size: int | None = None,
    labels: Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    log: str | None = None,
    feedback: Path | None = None,
    outliers: Path | None = None,
    team: Team = ALONE,
    watch: OnEpoch = lambda _: None,
    checkpoints: str | None = None,
    keep_open: bool = False,
) -> TrainResult:
    """Train on `source` as `recipe` says and leave everything in `folder`; logs one line an epoch and a closing line.

    resume: go on from the checkpoint if there is one; without one the run begins anew, and that is logged. The folder
    is locked meanwhile. keep_open: leave it to the caller to call finish() when the run is over.

    size: pixels a side that pictures are stored at, None to choose it from the data. labels: a table of corrected
    labels, see pupila.data.quality.labels. The test split is not touched.
    log: where else each epoch is written, one of trackers.LOGS. feedback: a folder of corrected pictures to add.
    outliers: a data set of pictures that show none of the classes.
    team: the workers that train together; the first calls this function, and the others call assist().
    watch: called after each epoch with the metrics of all so far; what it raises ends the run.
    checkpoints: an address that each checkpoint is copied to, see mirror.py.
    Raises PupilaError's kinds; see fit, load_dataset and export.
    """
    check_installed(log)
    with locked(folder):
        refuse_to_overwrite(folder, resume)
        result = _train_in(
            folder, source, recipe, size, labels, resume, checkpoint_seconds, log, feedback, outliers, team, watch,
            checkpoints,
        )  # fmt: skip
        if not keep_open and not result.fitted.stopped:
            finish(folder)
    return result


def _train_in(
    folder: Path, source: str, recipe: Recipe, size: int | None, labels: Path | None, resume: bool,
    checkpoint_seconds: float, log: str | None, feedback: Path | None, outliers: Path | None, team: Team,
    watch: OnEpoch, checkpoints: str | None,
) -> TrainResult:  # fmt: skip
    """Train in a folder that is locked."""
    torch.set_num_threads(usable_threads())
    prepared = prepare(source, recipe, size, labels, feedback, outliers, team)
    record = record_of(source, size, labels, feedback, outliers, prepared.splits, identity_of(prepared))
    splits, start, recipe = prepared.splits, prepared.start, prepared.resolved.recipe
    training, validation = prepared.training, prepared.validation
    logger.info(describe_classes(training, recipe.balance))
    begin_or_go_on(folder, record, resume, mirrored=checkpoints is not None)
    write_text(folder / "recipe.json", json.dumps(recipe.to_dict(), indent=2))
    write_text(folder / RECORD, record.to_json())
    with tracking(log, folder, recipe) as tracker:
        on_epoch = partial(_record, folder, tracker, ProgressPage(folder, splits.name), watch, recipe)
        fitted = _fitted(prepared, folder, on_epoch, resume, checkpoint_seconds, team, checkpoints)
        tracker.stopped = fitted.stopped
    if fitted.ended:
        logger.info(fitted.ended)
    write_text(folder / METRICS, lines_of(fitted.rows))  # a kill may have come between a checkpoint and its line
    logger.info(closing_line(fitted))
    save_backbone(fitted.network, folder / "backbone.safetensors")
    exported = export(
        fitted, recipe, training, validation, folder / "model.onnx",
        splits=splits, origin=start.origin, corrections=prepared.corrections, outliers=prepared.outliers,
    )  # fmt: skip
    report = write_report(
        folder,
        exported.predictor,
        validation,
        fitted.rows,
        kept=fitted.rows[fitted.best_epoch]["epoch"],
        source=Path(source).expanduser(),
    )
    logger.info(f"wrote {exported.path} and {report}")
    return TrainResult(exported.path, folder, report, fitted, exported)


def assist(
    source: str,
    recipe: Recipe,
    folder: Path,
    team: Team,
    *,
    size: int | None = None,
    labels: Path | None = None,
    feedback: Path | None = None,
    outliers: Path | None = None,
    resume: bool = False,
    checkpoints: str | None = None,
) -> None:
    """Do a worker's share of a training that the first worker of the team leads; prints and writes nothing."""
    with quiet_log():
        prepared = prepare(source, recipe, size, labels, feedback, outliers, team)
        _fitted(prepared, folder, lambda _: None, resume, CHECKPOINT_SECONDS, team, checkpoints)


def _fitted(
    prepared: Prepared,
    folder: Path,
    on_epoch: OnEpoch,
    resume: bool,
    checkpoint_seconds: float,
    team: Team,
    checkpoints: str | None,
) -> Fitted:
    """Fit all of the network, or its head."""
    recipe, start, training, validation = (
        prepared.resolved.recipe, prepared.start, prepared.training, prepared.validation
    )  # fmt: skip
    if recipe.trains == "head" and team.size > 1:
        raise TrainingError("trains=head is one short computation that workers cannot share. Leave --workers out.")
    head = None
    if start.origin != "none" and not (resume and (folder / CHECKPOINT).exists()):
        head = fit_head(recipe, start.network, training, validation)
    if recipe.trains == "head" and head is not None:
        on_epoch([head])
        return Fitted(start.network.cpu().eval(), recipe.network_size, 0, [head], head["pictures"] / head["seconds"])
    if head is not None and team.leads and recipe.minutes >= FIRST_MODEL_MINUTES:
        _first_model(prepared, head, folder / "model.onnx")
    return fit(
        recipe, start.network, training, validation, folder / CHECKPOINT, head=head,
        identity=identity_of(prepared), resume=resume, checkpoint_seconds=checkpoint_seconds, on_epoch=on_epoch,
        team=team, mirror=None if checkpoints is None else Mirror(checkpoints),
        outliers=None if prepared.outliers is None else prepared.outliers.pictures,
    )  # fmt: skip


def _first_model(prepared: Prepared, head: Row, path: Path) -> None:
    """Write a model file with the fitted last layer, to be served while training goes on and until it is replaced."""
    recipe, network = replace(prepared.resolved.recipe, export="float32"), prepared.start.network
    fitted = Fitted(copy.deepcopy(network).cpu().eval(), recipe.network_size, 0, [head], 0.0)
    export(
        fitted, recipe, prepared.training, prepared.validation, path, splits=prepared.splits,
        origin=prepared.start.origin, corrections=prepared.corrections, outliers=prepared.outliers,
    )  # fmt: skip
    logger.info(f"{path}: can be served from now on, and is replaced when training ends")


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


def identity_of(prepared: Prepared) -> dict[str, Any]:
    """Return what a run must agree with to be gone on with."""
    recipe = prepared.resolved.recipe
    return {"recipe": recipe.to_dict(), "data": prepared.fingerprint, "weights": prepared.start.origin}


def begin_or_go_on(folder: Path, record: Record, resume: bool, mirrored: bool) -> None:
    """Log that a run without a checkpoint begins anew; raises TrainingError if it is another run's folder."""
    if not (resume and holds_run(folder)):
        return
    earlier, checkpoint = read_json(folder / RECORD), folder / CHECKPOINT
    if earlier.get("identity"):
        check_identity(folder, record.identity, earlier["identity"])
    elif not checkpoint.exists() and not mirrored:
        raise TrainingError(f"{folder}: has neither a checkpoint nor a record of its settings. Leave --resume out.")
    if not checkpoint.exists() and not mirrored:
        logger.info(f"{folder}: was stopped before its first checkpoint, and begins anew.")


def _record(
    folder: Path, tracker: Tracker, page: ProgressPage, watch: OnEpoch, recipe: Recipe, rows: Sequence[Row]
) -> None:
    """Bring metrics.jsonl and the log up to date and print the newest epoch's line."""
    write_text(folder / METRICS, lines_of(rows))
    row = rows[-1]
    accuracy, balanced = row["validation_accuracy"], row["validation_balanced_accuracy"]
    uneven = f" (balanced {balanced:.3f})" if abs(balanced - accuracy) >= WORTH_SAYING else ""
    what = f"epoch {row['epoch']}" if row["epoch"] else "last layer alone"
    logger.info(
        f"{what} at {row['network_size']} px: loss {row['train_loss']:.3f}, "
        f"train acc {row['train_accuracy']:.3f}, valid acc {accuracy:.3f}{uneven}, {pace(recipe, rows)}",
    )
    tracker.record(rows)
    page.update(rows)
    watch(rows)


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
