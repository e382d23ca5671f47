"""All that is decided before the first step: from a data set's name and a recipe to pictures, weights and values.

Says what it finds as it goes.
"""

import logging
from dataclasses import dataclass
from typing import Any

from pupila._arguments import counted
from pupila.data import Dataset, Splits, held_out, load_dataset
from pupila.data.quality.labels import relabelled
from pupila.errors import TrainingError
from pupila.feedback.corrections import Corrections, joined, read_corrections
from pupila.recipe import Recipe
from pupila.training.defaults import DatasetStats, ResolvedRecipe, pooling_for, resolve, sizes_to_try
from pupila.training.distributed.process_group import ALONE, Team
from pupila.training.loop.device import pick_device
from pupila.training.loop.head import InputChoice, at_most, choose_framing, choose_input
from pupila.training.outliers import Outliers, read_outliers
from pupila.training.run_folder import TrainingData
from pupila.training.teacher import Teacher, read_teacher
from pupila.training.weights import Start, starting_network

log = logging.getLogger("pupila.training")

VALIDATED, VALIDATED_A_MINUTE = 1_000, 1_000
"""Validation pictures at most: so many, and more of them for each minute of a budget. They are answered about five
times, in training and in measuring the model file, which would be most of a minute."""


@dataclass(frozen=True)
class Prepared:
    """All that is decided before the first step: the data, the starting weights, and a recipe with no value open."""

    splits: Splits
    training: Dataset
    validation: Dataset
    start: Start
    resolved: ResolvedRecipe
    corrections: Corrections | None = None
    """What people have said of a server's answers: in `training` already."""
    outliers: Outliers | None = None
    """Pictures of none of the classes."""
    teacher: Teacher | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe with every value chosen."""
        return self.resolved.recipe

    @property
    def identity(self) -> dict[str, Any]:
        """What a run must agree with to be gone on with."""
        more = [part.fingerprint for part in (self.corrections, self.outliers, self.teacher) if part is not None]
        fingerprint = " ".join([self.splits.fingerprint, *more])
        return {"recipe": self.recipe.to_dict(), "data": fingerprint, "weights": self.start.origin}


def prepare(data: TrainingData, recipe: Recipe, team: Team = ALONE) -> Prepared:
    """Load and split the data, load the weights, choose what the recipe leaves open; says what it found."""
    if data.outliers is not None and recipe.trains == "head":
        raise TrainingError("--outliers teach the whole network, and trains=head fits only its last layer.")
    if data.teacher is not None and recipe.trains == "head":
        raise TrainingError("--teacher teaches the whole network, and trains=head fits only its last layer.")
    if recipe.trains == "head" and recipe.weights == "none":
        raise TrainingError("trains=head builds on trained weights, and there are none. Use --set trains=all.")

    def read(framing: str) -> Splits:
        splits = load_dataset(data.source, data.size, framing=framing)
        return relabelled(splits, data.labels) if data.labels is not None else splits

    with team.first_on_the_machine():
        splits = read("letterbox" if recipe.framing == "letterbox" else "squash")
        _report(splits)
        start = starting_network(recipe.weights, len(splits.train.classes), recipe.seed)
        splits, recipe = choose_framing(read, training_split, splits, recipe, start)
        training, kept_back = training_split(splits, recipe)
    validation = kept_back
    if recipe.minutes:
        validation = at_most(kept_back, VALIDATED + int(VALIDATED_A_MINUTE * recipe.minutes), recipe.seed)
    stats = DatasetStats(len(training), len(training.classes), training.size, pretrained=start.origin != "none")
    log.info(
        f"{stats.pictures:,} pictures to train on, {len(validation):,} to validate, {stats.classes} classes, "
        f"{stats.size} px; starting from {start.origin}; on {pick_device().type}"
    )
    start.network.pool(pooling_for(recipe, stats)[0])
    resolved = resolve(recipe, stats, _asked(start, training, recipe, stats))
    for reason in resolved.chosen:
        log.info(reason)
    corrections = outliers = teacher = None
    with team.first_on_the_machine():
        if data.feedback is not None:  # never to be added to what judges
            judging = [part for part in (kept_back, splits.validation, splits.test) if part is not None]
            corrections = read_corrections(data.feedback, training.classes, training.size, judging, splits.framing)
            log.info(f"{data.feedback}: {corrections.summary()}")
            training = joined(training, corrections)
        if data.outliers is not None:
            own = [part for part in (training, kept_back, splits.test) if part is not None]
            outliers = read_outliers(data.outliers, own, splits.framing)
            log.info(f"{data.outliers}: {outliers.describe()}")
        if data.teacher is not None:
            teacher = read_teacher(data.teacher, training)
            log.info(f"{data.teacher}: {teacher.describe()}")
    return Prepared(splits, training, validation, start, resolved, corrections, outliers, teacher)


def _asked(start: Start, training: Dataset, recipe: Recipe, stats: DatasetStats) -> InputChoice | None:
    """Ask the features of trained weights for the size and the mirror image, where the recipe leaves either open."""
    sizes = sizes_to_try(recipe, stats)
    if not stats.pretrained or (recipe.network_size and recipe.flip_average != "auto"):
        return None
    return choose_input(start.network, training, recipe, sizes)


def training_split(splits: Splits, recipe: Recipe) -> tuple[Dataset, Dataset]:
    """Return what to train on and what to validate on: the data's own validation split, or a stratified share."""
    return held_out(splits, recipe.validation_fraction, recipe.sample, recipe.seed)


def _report(splits: Splits) -> None:
    """Say how the source was understood, and what of it is left out."""
    log.info(f"{splits.name}: {splits.layout}")
    for note in splits.notes:
        log.info(f"{splits.name}: {note}")
    if count := splits.skipped_count():
        log.info(f"{splits.name}: skipped {counted(count, 'unreadable picture')}:")
        for skipped in splits.skipped[:10]:
            log.info(f"  {skipped.name}: {skipped.reason}")
        if count > len(splits.skipped[:10]):
            log.info(f"  and {count - len(splits.skipped[:10]):,} more")
