"""The whole way from a data set's name to a run folder: load, split, fit, evaluate, export.

A run folder holds recipe.json, run.json, metrics.jsonl, checkpoint.safetensors, trunk.safetensors, model.onnx, and
report.html with its plots, curves.png among them.
"""

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pupila.data import Dataset, Splits, load_dataset, sample, split
from pupila.data.balance import told
from pupila.data.labels import relabelled
from pupila.errors import TrainingError
from pupila.evaluation.report import write_report
from pupila.feedback.corrections import Corrections, joined, read_corrections
from pupila.recipe import Recipe
from pupila.training.defaults import Facts, Settled, settle
from pupila.training.device import pick_device
from pupila.training.distributed import ALONE, Team
from pupila.training.export import Exported, export
from pupila.training.fit import CHECKPOINT_SECONDS, Fitted, OnEpoch, Row, fit
from pupila.training.framing import choose_framing
from pupila.training.head import fit_head
from pupila.training.mirror import Mirror
from pupila.training.outliers import Outliers, read_outliers
from pupila.training.record import FILE as RUN_FILE
from pupila.training.record import record_of
from pupila.training.trackers import Tracker, check_installed, tracking
from pupila.training.weights import Start, save_trunk, starting_network

WORTH_SAYING = 0.02
"""Difference of accuracy and balanced accuracy from which an epoch's line gives both."""


@dataclass(frozen=True)
class Prepared:
    """All that is decided before the first step: the data, the starting weights, and a recipe with no value open."""

    splits: Splits
    training: Dataset
    validation: Dataset
    start: Start
    settled: Settled
    corrections: Corrections | None = None
    """What people have said of a server's answers: in `training` already."""
    outliers: Outliers | None = None
    """Pictures of none of the classes."""

    @property
    def fingerprint(self) -> str:
        """Of all that is trained on."""
        more = [part.fingerprint for part in (self.corrections, self.outliers) if part is not None]
        return " ".join([self.splits.fingerprint, *more])


@dataclass(frozen=True)
class Trained:
    """A finished run: where its model file is, and what it reached."""

    model: Path
    folder: Path
    fitted: Fitted
    exported: Exported


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
) -> Trained:
    """Train on `source` as `recipe` says and leave everything in `folder`; prints one line an epoch and a closing line.

    size: pixels a side that pictures are stored at, None to choose it from the data. labels: a table of corrected
    labels, see pupila.data.labels. The test split is not touched.
    log: where else each epoch is written, one of trackers.LOGS. feedback: a folder of corrected pictures to add.
    outliers: a data set of pictures that show none of the classes.
    team: the workers that train together; the first calls this function, and the others call assist().
    watch: called after each epoch with the metrics of all so far; what it raises ends the run.
    checkpoints: an address that each checkpoint is copied to, see mirror.py.
    Raises PupilaError's kinds; see fit, load_dataset and export.
    """
    refuse_to_overwrite(folder, resume)
    check_installed(log)
    prepared = prepare(source, recipe, size, labels, feedback, outliers, team)
    record = record_of(source, size, labels, feedback, outliers, prepared.splits)
    splits, start, recipe = prepared.splits, prepared.start, prepared.settled.recipe
    training, validation = prepared.training, prepared.validation
    print(told(training.counts(), recipe.balance))
    _write(folder / "recipe.json", json.dumps(recipe.to_dict(), indent=2))
    _write(folder / RUN_FILE, record.to_json())
    with tracking(log, folder, recipe) as tracker:
        on_epoch = partial(_record, folder, tracker, watch)
        fitted = _fitted(prepared, folder, on_epoch, resume, checkpoint_seconds, team, checkpoints)
        tracker.stopped = fitted.stopped
    print(closing_line(fitted))
    save_trunk(fitted.network, folder / "trunk.safetensors")
    exported = export(
        fitted, recipe, training, validation, folder / "model.onnx",
        splits=splits, origin=start.origin, corrections=prepared.corrections, outliers=prepared.outliers,
    )  # fmt: skip
    report = write_report(folder, exported.predictor, validation, fitted.rows)
    print(f"wrote {exported.path} and {report}")
    return Trained(exported.path, folder, fitted, exported)


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
    with contextlib.redirect_stdout(io.StringIO()):
        prepared = prepare(source, recipe, size, labels, feedback, outliers, team)
        _fitted(prepared, folder, lambda _: None, resume, CHECKPOINT_SECONDS, team, checkpoints)


def prepare(
    source: str,
    recipe: Recipe,
    size: int | None = None,
    labels: Path | None = None,
    feedback: Path | None = None,
    outliers: Path | None = None,
    team: Team = ALONE,
) -> Prepared:
    """Load and split the data, load the weights, choose what the recipe leaves open; says what it found."""

    def read(framing: str) -> Splits:
        splits = load_dataset(source, size, framing=framing)
        return relabelled(splits, labels) if labels is not None else splits

    with team.first_on_the_machine():
        splits = read("letterbox" if recipe.framing == "letterbox" else "squash")
        _report(splits)
        start = starting_network(recipe.weights, len(splits.train.classes), recipe.seed)
        splits, recipe = choose_framing(read, training_split, splits, recipe, start)
        training, validation = training_split(splits, recipe)
    if recipe.trains == "head" and start.origin == "none":
        raise TrainingError("trains=head builds on trained weights, and there are none. Use --set trains=all.")
    facts = Facts(len(training), len(training.classes), training.size, pretrained=start.origin != "none")
    print(
        f"{facts.pictures:,} pictures to train on, {len(validation):,} to validate, {facts.classes} classes, "
        f"{facts.size} px; starting from {start.origin}; on {pick_device().type}"
    )
    settled = settle(recipe, facts)
    for reason in settled.chosen:
        print(reason)
    prepared = Prepared(splits, training, validation, start, settled)
    with team.first_on_the_machine():
        if feedback is not None:
            prepared = with_feedback(prepared, feedback)
        return prepared if outliers is None else with_outliers(prepared, outliers)


def with_feedback(prepared: Prepared, folder: Path) -> Prepared:
    """Add the pictures that a server kept and people corrected to what is trained on; says how many.

    Never to validation or test; those that are in these already are left out. Raises DataError if there are none.
    """
    splits, training = prepared.splits, prepared.training
    held_out = [part for part in (prepared.validation, splits.validation, splits.test) if part is not None]
    corrections = read_corrections(folder, training.classes, training.size, held_out, splits.framing)
    print(f"{folder}: {corrections.told()}")
    return replace(prepared, training=joined(training, corrections), corrections=corrections)


def with_outliers(prepared: Prepared, source: Path) -> Prepared:
    """Add pictures that show none of the classes; says how many. Raises DataError if they do show one."""
    if prepared.settled.recipe.trains == "head":
        raise TrainingError("--outliers teach the whole network, and trains=head fits only its last layer.")
    own = [part for part in (prepared.training, prepared.validation, prepared.splits.test) if part is not None]
    outliers = read_outliers(source, own, prepared.splits.framing)
    print(f"{source}: {outliers.told()}")
    return replace(prepared, outliers=outliers)


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
        prepared.settled.recipe, prepared.start, prepared.training, prepared.validation
    )  # fmt: skip
    if recipe.trains == "head" and team.size > 1:
        raise TrainingError("trains=head is one short computation that workers cannot share. Leave --workers out.")
    if recipe.trains == "head":
        return fit_head(recipe, start.network, training, validation, on_epoch)
    identity = {"recipe": recipe.to_dict(), "data": prepared.fingerprint, "weights": start.origin}
    return fit(
        recipe, start.network, training, validation, folder / "checkpoint.safetensors",
        identity=identity, resume=resume, checkpoint_seconds=checkpoint_seconds, on_epoch=on_epoch,
        team=team, mirror=None if checkpoints is None else Mirror(checkpoints),
        outliers=None if prepared.outliers is None else prepared.outliers.pictures,
    )  # fmt: skip


def training_split(splits: Splits, recipe: Recipe) -> tuple[Dataset, Dataset]:
    """Return what to train on and what to validate on: the data's own validation split, or a stratified share."""
    pool = splits.train
    if 0 < recipe.sample < len(pool):
        pool = sample(pool, recipe.sample, recipe.seed)
    elif splits.validation is not None:
        return pool, splits.validation
    return split(pool, recipe.validation_fraction, recipe.seed)


def closing_line(fitted: Fitted) -> str:
    """Return the two figures lines in the words of d2l's training function, of the best epoch."""
    row = fitted.rows[fitted.best_epoch]
    return (
        f"loss {row['train_loss']:.3f}, train acc {row['train_accuracy']:.3f}, "
        f"valid acc {row['validation_accuracy']:.3f}\n"
        f"{fitted.examples_per_second:.1f} examples/sec on {pick_device().type}"
    )


def _report(splits: Splits) -> None:
    """Say how the source was understood, and what of it is left out."""
    print(f"{splits.name}: {splits.layout}")
    for note in splits.notes:
        print(f"{splits.name}: {note}")
    if splits.skipped:
        print(f"{splits.name}: skipped {len(splits.skipped)} unreadable pictures:")
        for skipped in splits.skipped[:10]:
            print(f"  {skipped.name}: {skipped.reason}")
        if len(splits.skipped) > 10:
            print(f"  and {len(splits.skipped) - 10:,} more")


def refuse_to_overwrite(folder: Path, resume: bool) -> None:
    """Raise TrainingError if the folder holds a run that is not to be gone on with, or none that is."""
    if not resume and any((folder / name).exists() for name in ("checkpoint.safetensors", "model.onnx")):
        raise TrainingError(f"{folder}: holds a run already. Go on with --resume, or choose another --name.")
    if resume and not folder.exists():
        raise TrainingError(f"{folder}: there is no run to go on with. Check --name and --runs, or leave --resume out.")


def _write(path: Path, text: str) -> None:
    """Write a small file whole or not at all; raises TrainingError if it cannot be written."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written ({error.strerror}). Choose another place with --runs."
        ) from error


def _record(folder: Path, tracker: Tracker, watch: OnEpoch, rows: Sequence[Row]) -> None:
    """Bring metrics.jsonl and the log up to date and print the newest epoch's line."""
    _write(folder / "metrics.jsonl", "\n".join(json.dumps(row) for row in rows))
    tracker.record(rows)
    row = rows[-1]
    accuracy, balanced = row["validation_accuracy"], row["validation_balanced_accuracy"]
    uneven = f" (balanced {balanced:.3f})" if abs(balanced - accuracy) >= WORTH_SAYING else ""
    print(
        f"epoch {row['epoch']} at {row['network_size']} px: loss {row['train_loss']:.3f}, "
        f"train acc {row['train_accuracy']:.3f}, valid acc {accuracy:.3f}{uneven}, {row['seconds']:.0f} s",
        flush=True,
    )
    watch(rows)
