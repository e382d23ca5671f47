"""Runs a model file over a data set on all cores."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pupila import images
from pupila._arguments import PathLike, as_text, counted, first_few
from pupila._workers import usable_cores
from pupila.data import Dataset, Splits, held_out, load_dataset
from pupila.data.sources.archive import check_memory, free_memory
from pupila.errors import DataError
from pupila.evaluation.metrics import Int64, Scores, score
from pupila.manifest import Manifest
from pupila.predictor import Floats, Predictor
from pupila.progress import progress_bar

T = TypeVar("T")
Pictures = NDArray[np.uint8]

REFERENCE_SIZE = 64
"""Up to this network size a whole batch goes in one call; a larger network gets fewer pictures, for equal memory."""
BATCH_BYTES = 16 * 2**20
"""Of the pixels of one call."""
FEATURES = 512
"""Of a picture, in a network that Pupila trains."""
CALL_BYTES = 2**30
"""What one call takes at most, of as many pictures as the predictor computes together."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model's answers on a labelled data set, and their scores."""

    logits: Floats
    labels: Int64
    """Indices into the model's classes, which may be in another order than the data set's."""
    scores: Scores
    unknown: Floats
    """[N], the unknown scores."""

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.scores.accuracy

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy (Wilson)."""
        return self.scores.interval


@dataclass(frozen=True, eq=False, kw_only=True)
class PartEvaluation(Evaluation):
    """An evaluation on one part of a data set, and what is to be said of that choice."""

    split: str
    """train, validation, test, all, or `held out`: the pictures that training kept for validation."""
    caution: str
    """Why the score may be too good, in a sentence or two; empty for pictures that training never saw."""
    predictor: Predictor = field(repr=False)
    dataset: Dataset = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the scores as plain values, with split and caution."""
        return {**self.scores.to_json(), "split": self.split, "caution": self.caution}


def evaluate(model: PathLike | Predictor, data: PathLike, split: str | None = None) -> PartEvaluation:
    """Score a model file on labelled photos: accuracy with its 95 % interval, per class, calibration.

    split: train, validation, test or all. None takes test; where there is none and `data` is what the model was trained
    on, the pictures that training held out; else all. `caution` says what that means for the score.
    Raises ModelError, DataError.
    """
    predictor = model if isinstance(model, Predictor) else Predictor.load(model)
    manifest = predictor.manifest
    splits = load_dataset(as_text(data, "A data set"), manifest.input_size, framing=manifest.framing, one_class=True)
    kept = _held_out(manifest, splits) if split is None and splits.test is None else None
    dataset, part = (kept, "held out") if kept is not None else splits.part(split)
    found = score_dataset(predictor, dataset)
    about = " ".join(filter(None, [caution(manifest, splits.fingerprint, part), _lacking(dataset, manifest)]))
    return PartEvaluation(**vars(found), split=part, caution=about, predictor=predictor, dataset=dataset)


def _held_out(manifest: Manifest, splits: Splits) -> Dataset | None:
    """Return the pictures that training validated with, or None if these are not the data of that training."""
    recipe = manifest.recipe
    if splits.fingerprint != manifest.data.get("fingerprint") or "validation_fraction" not in recipe:
        return None
    _, validation = held_out(splits, recipe["validation_fraction"], recipe.get("sample", 0), recipe.get("seed", 0))
    return validation if len(validation) == manifest.data.get("validation") else None


def score_dataset(predictor: Predictor, dataset: Dataset, batch: int = 256) -> Evaluation:
    """Score a model on every picture of a data set. Load the predictor with one thread: the cores share the batches.

    Raises DataError if the data set has no pictures, other classes than the model, or pictures of another size.
    """
    manifest, pictures = predictor.manifest, dataset.images
    labels, size = bind(dataset, manifest.classes), manifest.input_size
    if not len(pictures):
        raise DataError("There are no pictures to evaluate. Give a split with at least one.")
    if pictures.shape[1:] != (size, size, 3):
        height, width = pictures.shape[1:3]
        raise DataError(f"The pictures are {width} x {height}, the model takes {size} x {size}. Load them at {size}.")
    found = predict_scores(predictor, pictures, batch)
    logits = found[:, :-1]
    return Evaluation(logits, labels, score(logits, labels, manifest.classes, manifest.temperature), found[:, -1])


def _lacking(dataset: Dataset, manifest: Manifest) -> str:
    """Say which classes of the model the data set has no picture of."""
    missing = sorted(set(manifest.classes) - set(dataset.classes))
    return f"It has no pictures of {first_few(missing, show=repr)}: the score says nothing of them." if missing else ""


def caution(manifest: Manifest, fingerprint: str, part: str) -> str:
    """Return a sentence if pictures that the model was trained on are, or may be, among those of this part."""
    if part == "test":
        return ""
    advice = "For an honest figure keep a test folder beside train."
    if part == "held out":
        return f"These are the pictures that training held out. It chose its best epoch by them. {advice}"
    if fingerprint == manifest.data.get("fingerprint"):
        kept = "It was chosen by these pictures" if part == "validation" else "It was trained on pictures among these"
        return f"{kept}, so that the score flatters. {advice}"
    return f"If the model was trained on pictures among these, the score flatters. {advice}"


def bind(dataset: Dataset, classes: Sequence[str]) -> Int64:
    """Return the data set's labels as indices into `classes`, matched by name; it may lack some of them.

    Raises DataError if it has a class that the model lacks.
    """
    foreign = sorted(set(dataset.classes) - set(classes))
    if foreign:
        missing = sorted(set(classes) - set(dataset.classes))
        model_only = f"only the model has: {first_few(missing, show=repr)}; " if missing else ""
        data_only = first_few(foreign, show=repr)
        raise DataError(
            f"The data set's classes are not the model's ({model_only}only the data set has: {data_only}). "
            "Give the model's own data, or rename the class folders."
        )
    places = {name: place for place, name in enumerate(classes)}
    table = np.asarray([places[name] for name in dataset.classes], dtype=np.int64)
    return np.asarray(table[dataset.labels])


def predict_scores(predictor: Predictor, pictures: Pictures, batch: int = 256) -> Floats:
    """Return logits and unknown scores, float32 [N, K + 1], in order. Raises DataError if they would not fit."""
    _check_room(pictures, len(predictor.manifest.classes))
    return np.concatenate(list(_run(predictor, predictor.scores, pictures, batch)))


def predict_columns(predictor: Predictor, pictures: Pictures, columns: Sequence[int]) -> Floats:
    """Return the logits of some classes, float32 [N, columns], of square pictures of any size.

    They are resized a batch at a time: the model file says to how many pixels. Raises DataError if they would not fit.
    """
    _check_room(pictures, len(columns))
    side = predictor.manifest.input_size

    def call(part: Pictures) -> Floats:
        if part.shape[1] != side:
            part = np.stack([images.resize(picture, side) for picture in part])
        return predictor.scores(part)[:, columns]

    return np.concatenate(list(_run(predictor, call, pictures)))


def predict_features(predictor: Predictor, pictures: Pictures, batch: int = 256) -> tuple[Floats, Floats]:
    """Return logits [N, K] and features [N, 512], in order: what the unknown score is computed from.

    Raises DataError if they would not fit.
    """
    _check_room(pictures, len(predictor.manifest.classes), more=predictor.feature_size)
    logits, features = zip(*_run(predictor, predictor.features, pictures, batch), strict=True)
    return np.concatenate(logits), np.concatenate(features)


def _check_room(pictures: Pictures, classes: int, more: int = 0) -> None:
    """Raise DataError if there is no room for float32 [N, classes + more] twice: in batches and put together."""
    what = f"The answers to {counted(len(pictures), 'picture')} in {counted(classes, 'class')}"
    check_memory(2.0 * 4 * (classes + more) * len(pictures), what, "Use fewer classes.")


def threads_for(share: float, cores: int, free: float) -> int:
    """Return how many calls run at once that take this share of CALL_BYTES each; free: bytes of memory."""
    return int(min(cores, max(1, free / (CALL_BYTES * share))))


def _run(predictor: Predictor, call: Callable[[Pictures], T], pictures: Pictures, batch: int = 256) -> Iterator[T]:
    """Yield what `call` says of each batch, in order, by one thread a core, or as many as there is free memory for."""
    network, side = predictor.manifest.network_size, predictor.manifest.input_size
    step = max(1, min(batch, batch * REFERENCE_SIZE**2 // network**2, BATCH_BYTES // (3 * side * side)))
    parts = [pictures[start : start + step] for start in range(0, len(pictures), step)]
    share = min(step, predictor.together) / predictor.together
    with (
        ThreadPoolExecutor(threads_for(share, usable_cores(), free_memory())) as pool,
        progress_bar("evaluating", len(pictures)) as bar,
    ):
        for part, result in zip(parts, pool.map(call, parts), strict=True):
            bar.update(len(part))
            yield result
