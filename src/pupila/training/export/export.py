"""From fitted weights to the model file: graph, parity check, quantisation behind a gate, calibration, golden set.

The file is published by renaming only after it has answered real validation pictures as the training model does.
"""

import base64
import logging
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from pupila import images
from pupila._files import write_file
from pupila._workers import usable_cores
from pupila.data import Dataset, Splits
from pupila.errors import TrainingError
from pupila.evaluation.drift import answers_of, reference_of
from pupila.evaluation.evaluate import Evaluation, predict_features
from pupila.evaluation.metrics import fit_temperature, score
from pupila.evaluation.unknown import COUNT, UnknownScore, find_prototypes, fit_unknown, made_pictures, threshold
from pupila.feedback.corrections import Corrections
from pupila.manifest import METADATA_KEY, UNSEALED, GoldenPicture, Manifest, sealed
from pupila.predictor import Predictor
from pupila.recipe import Recipe
from pupila.training.export import graph
from pupila.training.loop.class_weights import Balance, balance_for
from pupila.training.loop.fit import Fitted
from pupila.training.loop.resnet import ResNet18, enlarged
from pupila.training.outliers import Outliers
from pupila.training.teacher import Teacher

log = logging.getLogger("pupila.training")

GATE = 0.003
"""Accuracy that a smaller file may lose; beyond it float32 is kept."""
JUDGED, JUDGED_A_MINUTE, MOST_JUDGED = 1000, 500, 3000
"""Pictures that the gate looks at, at least, if there are so many: of 100, a single one would decide; for each minute
of a budget, as both files answer them in its time; and at most."""
PARITY_PICTURES = 128
PARITY_TOLERANCE = 1e-3
"""Largest difference of a probability between torch and the float32 file; measured differences are near 1e-5."""
GOLDEN_PICTURES = 4
PROTOTYPE_PICTURES = 2000
"""Training pictures at most that the unknown score's prototypes are found from."""
KNOWN = 0.96
"""Share of the validation pictures that are not marked unknown: one point above the 95 % promised of other pictures, of
which the bundled model marks 5.1 % where it marks 5.0 % of those that it was validated on."""
ROUNDING = 0.01
"""Added to the unknown threshold, since the graph computes in float32; scores are of the order of 1."""
TIMED_CALLS = 50
TRIED = 32
"""Pictures that expected_seconds() asks such a file about."""
INT8, FIXED_SECONDS = 0.6, 4.0
"""What a picture takes in int8, in multiples of what it takes in float32; and what takes the same whatever there is to
ask: building, plots. Measured at 64, 96 and 128 px."""


@dataclass(frozen=True)
class Candidate:
    """One precision of the same network, judged on the validation pictures."""

    precision: str
    predictor: Predictor
    model: onnx.ModelProto
    logits: NDArray[np.float32]
    """Of the validation pictures that the gate looks at, at most MOST_JUDGED."""
    features: NDArray[np.float32]
    accuracy: float
    """What epochs were chosen by, of these pictures: balanced accuracy where the classes are uneven."""
    judged: float
    """The same over them and the training pictures that the gate looks at besides."""
    size_bytes: int
    milliseconds: float
    """Of one picture on one thread, median."""


@dataclass(frozen=True)
class Exported:
    """A published model file."""

    path: Path
    predictor: Predictor
    """The file, loaded again and verified."""
    evaluation: Evaluation
    """Its answers on the validation pictures."""
    candidates: tuple[Candidate, ...]
    parity: float
    """Largest difference of a probability between the float32 file, from encoded pictures on, and the torch model."""


def export(
    fitted: Fitted,
    recipe: Recipe,
    training: Dataset,
    validation: Dataset,
    path: Path,
    *,
    splits: Splits,
    origin: str,
    corrections: Corrections | None = None,
    outliers: Outliers | None = None,
    teacher: Teacher | None = None,
    prototype_pictures: int = PROTOTYPE_PICTURES,
    made: int = COUNT,
) -> Exported:
    """Write the model file at `path`; prints size, time and accuracy of each precision.

    corrections: those that are in `training`; outliers and teacher: what was learned from beside it. The manifest tells
    of them. prototype_pictures: training pictures at most that the unknown score's prototypes are found from. made:
    strange pictures of each kind that it is tried on.

    Raises TrainingError if the file answers validation pictures otherwise than the network does, or the disk is full.
    """
    draft = _draft(fitted, recipe, training, validation, splits, origin, path.stem)
    for name, more in {"feedback": corrections, "outliers": outliers, "teacher": teacher}.items():
        if more is not None:
            draft = replace(draft, data={**draft.data, name: more.to_manifest()})
    full = _built(fitted.network, recipe, training.size, fitted.network_size)
    balance = balance_for(recipe, training)
    judged = np.linspace(0, len(validation) - 1, _judged(recipe, validation)).astype(np.int64)
    some = validation.take(judged)
    pictures = some if recipe.export == "float32" else _with_training_pictures(some, training)
    judge = partial(_judge, draft=draft, pictures=pictures, validated=len(some), balance=balance)
    exact = judge("float32", full)
    parity = _check_parity(fitted, recipe, exact.predictor, validation)
    candidates = [exact]
    if recipe.export == "int8":
        step = max(len(training) // graph.CALIBRATION_PICTURES, 1)
        spread = training.images[::step]  # over the whole set, whatever its order
        if (quantised := graph.int8(full, spread)) is not None:
            candidates.append(judge("int8", quantised))
    chosen = _choose(candidates, len(some), len(pictures) - len(some))
    logits, features = _all_answers(chosen, validation, judged)
    unknown = _fit_unknown(chosen.predictor, training, prototype_pictures, logits, features, validation.labels)
    scores = score(logits, validation.labels, validation.classes, unknown.temperature)
    evaluation = Evaluation(logits, validation.labels, scores, unknown(logits, features).astype(np.float32))
    manifest = replace(_complete(chosen, draft, validation, evaluation, unknown, made), sha256=UNSEALED)
    model = graph.with_unknown(chosen.model, unknown)
    unsealed = graph.with_metadata(model, {METADATA_KEY: manifest.to_json()}).SerializeToString()
    _publish(sealed(unsealed), path)
    _report(candidates, chosen, len(some), parity, manifest)
    return Exported(path, Predictor.load(path), evaluation, tuple(candidates), parity)


def expected_seconds(network: ResNet18, recipe: Recipe, training: Dataset, validation: Dataset) -> float:
    """Return about how long export() will take and the report after it, from what a picture takes of such a file.

    Of one thread a core, as they are asked there.
    """
    drafted = Manifest("", training.classes, training.size, recipe.network_size, "float32", "", {}, {})
    predictor = _predictor(_built(network, recipe, training.size, recipe.network_size), drafted)
    pictures = validation.images[:TRIED]
    per_core = -(-len(pictures) // usable_cores())
    # the least: what else runs only adds to it
    took = min(_seconds(lambda: predict_features(predictor, pictures, per_core)) for _ in range(3))
    each = took / len(pictures)
    rounded = INT8 if recipe.export == "int8" else 1.0
    timed = TIMED_CALLS * usable_cores()  # by one of them
    judged = _judged(recipe, validation)
    gate = max(judged, min(JUDGED, len(validation) + len(training))) if recipe.export == "int8" else 0
    exact = (
        max(judged, gate)
        + timed
        + min(len(validation), PARITY_PICTURES)
        + min(len(training), graph.CALIBRATION_PICTURES)
    )
    chosen = len(validation) - judged + min(len(training), PROTOTYPE_PICTURES) + 4 * COUNT
    asked = exact + rounded * (gate + timed + chosen)
    return FIXED_SECONDS + each * (asked + len(validation))  # the last epoch is validated, too


def _judged(recipe: Recipe, validation: Dataset) -> int:
    """Return how many of the validation pictures the gate looks at."""
    affordable = max(JUDGED, int(JUDGED_A_MINUTE * recipe.minutes)) if recipe.minutes else MOST_JUDGED
    if recipe.trains == "head":
        affordable = JUDGED
    return min(len(validation), affordable, MOST_JUDGED)


def _draft(
    fitted: Fitted, recipe: Recipe, training: Dataset, validation: Dataset, splits: Splits, origin: str, name: str
) -> Manifest:
    return Manifest(
        name=splits.name if name == "model" else name,
        classes=training.classes,
        input_size=training.size,
        network_size=fitted.network_size,
        precision="float32",
        weights=origin,
        recipe={**recipe.to_dict(), "weights": Path(recipe.weights).name},  # a file goes to others, its folders do not
        framing=splits.framing,
        data={
            "source": splits.name,
            "fingerprint": splits.fingerprint,
            "train": len(training),
            "validation": len(validation),
        },
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Return Python's version and those of the packages that decide what comes out, by name."""
    packages = ("pupila", "torch", "onnx", "onnxruntime", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def _with_training_pictures(validation: Dataset, training: Dataset) -> Dataset:
    """Return the validation pictures, and where they are fewer than JUDGED, training pictures from all over the set."""
    wanted = min(JUDGED - len(validation), len(training))
    if wanted <= 0:
        return validation
    more = training.take(np.linspace(0, len(training) - 1, wanted).astype(np.int64))
    images = np.concatenate([validation.images, more.images])
    return Dataset(images, np.concatenate([validation.labels, more.labels]), training.classes)


def _judge(
    precision: str, model: onnx.ModelProto, draft: Manifest, pictures: Dataset, validated: int, balance: Balance
) -> Candidate:
    """Let a file answer the gate's pictures, of which the first so many are those of validation."""
    predictor = _predictor(model, replace(draft, precision=precision))
    logits, features = predict_features(predictor, pictures.images)
    answered, labels = torch.from_numpy(logits), torch.from_numpy(pictures.labels)
    accuracy = balance.accuracy(answered[:validated], labels[:validated])
    judged = balance.accuracy(answered, labels)
    milliseconds = _milliseconds(lambda: predictor.logits(pictures.images[:1]))
    shown = logits[:validated], features[:validated]
    return Candidate(precision, predictor, model, *shown, accuracy, judged, model.ByteSize(), milliseconds)


def _built(network: ResNet18, recipe: Recipe, size: int, network_size: int) -> onnx.ModelProto:
    state = {name: value.cpu().numpy() for name, value in network.state_dict().items()}
    return graph.build(state, size, network_size, flip_average=recipe.flip_average == "on", pooling=recipe.pooling)


def _predictor(model: onnx.ModelProto, draft: Manifest) -> Predictor:
    return Predictor.from_bytes(graph.with_metadata(model, {METADATA_KEY: draft.to_json()}).SerializeToString())


def _milliseconds(call: Callable[[], object]) -> float:
    return 1000 * statistics.median(_seconds(call) for _ in range(TIMED_CALLS))


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _check_parity(fitted: Fitted, recipe: Recipe, predictor: Predictor, validation: Dataset) -> float:
    """Compare the file, from encoded pictures on, with the network in torch; return the largest difference."""
    pictures = validation.images[:PARITY_PICTURES]
    decoded = images.stack([images.decode(images.encode_png(picture), validation.size) for picture in pictures])
    theirs = predictor.probabilities(predictor.logits(decoded))
    with torch.inference_mode():
        x = enlarged(torch.from_numpy(pictures), fitted.network_size)
        logits = fitted.network(x)
        if recipe.flip_average == "on":
            logits = (logits + fitted.network(x.flip(3))) / 2
    ours = logits.softmax(1).numpy()
    difference = float(np.abs(theirs - ours).max())
    answers = ours[np.arange(len(ours)), theirs.argmax(axis=1)]
    if difference > PARITY_TOLERANCE or (ours.max(axis=1) - answers).max() > 2 * PARITY_TOLERANCE:
        raise TrainingError(
            f"The exported file differs from the trained network by {difference:.4f} in probability, over the limit of "
            f"{PARITY_TOLERANCE:g}. The checkpoint is kept; please report this with the run's recipe.json."
        )
    return difference


def _choose(candidates: list[Candidate], validated: int, besides: int) -> Candidate:
    """Return the last candidate if it passes the gate, else the first, which is float32."""
    exact, wanted = candidates[0], candidates[-1]
    lost = exact.judged - wanted.judged
    if lost <= GATE + 1e-9:  # 3 of 1,000 pictures are just the limit, whatever their quotients round to
        return wanted
    more = f" and {besides:,} training" if besides else ""
    log.info(
        f"{wanted.precision} loses {100 * lost:.2f} points on {validated:,} validation{more} pictures, over the limit "
        f"of {100 * GATE:g}: float32 is kept."
    )
    return exact


def _all_answers(
    chosen: Candidate, validation: Dataset, judged: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return logits [N, K] and features [N, 512] of all validation pictures, of which the `judged` rows are known."""
    rest = np.setdiff1d(np.arange(len(validation)), judged)
    if not len(rest):
        return chosen.logits, chosen.features
    order = np.argsort(np.concatenate([judged, rest]))
    more = predict_features(chosen.predictor, validation.images[rest])
    known = chosen.logits, chosen.features
    logits, features = (np.concatenate(pair)[order] for pair in zip(known, more, strict=True))
    return logits, features


def _fit_unknown(
    predictor: Predictor,
    training: Dataset,
    most: int,
    logits: NDArray[np.float32],
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> UnknownScore:
    """Fit the unknown score to the file's own answers: prototypes of training pictures, scales of validation."""
    rows = np.linspace(0, len(training) - 1, min(most, len(training))).astype(np.int64)
    some = training.take(rows)
    _, of_training = predict_features(predictor, some.images)
    prototypes = find_prototypes(of_training, some.labels, len(training.classes))
    return fit_unknown(prototypes, logits, features, fit_temperature(logits, labels))


def _complete(
    chosen: Candidate, draft: Manifest, validation: Dataset, evaluation: Evaluation, unknown: UnknownScore, count: int
) -> Manifest:
    """Add what is measured on the chosen file's own answers, from the scores to the golden set."""
    temperature, known = unknown.temperature, evaluation.unknown
    limit = threshold(known, KNOWN) + ROUNDING
    answers = answers_of(np.column_stack([evaluation.logits, known]), temperature, limit)
    made = made_pictures(validation.images, draft.input_size, count)
    marked = {kind: unknown(*predict_features(chosen.predictor, pictures)) > limit for kind, pictures in made.items()}
    shares = {"validation pictures": known > limit, **marked}
    return replace(
        draft,
        precision=chosen.precision,
        temperature=temperature,
        unknown_score="energy_and_distance",
        unknown_threshold=limit,
        reference=reference_of(answers, validation.classes, "validation"),
        metrics={
            "split": "validation",
            **evaluation.scores.summary(),
            "milliseconds": round(chosen.milliseconds, 3),
            "marked_unknown": {kind: round(float(share.mean()), 4) for kind, share in shares.items()},
        },
        golden=_golden(chosen.predictor),
    )


def _golden(predictor: Predictor) -> tuple[GoldenPicture, ...]:
    """Pictures made up for the purpose, so that a model file gives nobody's photo away, and the file's answers."""
    size = predictor.manifest.input_size
    draw = np.random.default_rng(7)
    golden = []
    for _ in range(GOLDEN_PICTURES):
        coarse = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        picture = images.resize(coarse, size)
        logits = predictor.logits(picture[np.newaxis])[0]
        png = base64.b64encode(images.encode_png(picture)).decode("ascii")
        golden.append(GoldenPicture(png, tuple(round(float(value), 5) for value in logits)))
    return tuple(golden)


def _publish(data: bytes, path: Path) -> None:
    try:
        write_file(path, data)
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written ({error.strerror}). Make room, then go on with --resume."
        ) from error


def _report(candidates: list[Candidate], chosen: Candidate, pictures: int, parity: float, manifest: Manifest) -> None:
    """Print what each precision takes and reaches, and what is marked as unknown."""
    for candidate in candidates:
        name = f"{'*' if candidate is chosen else ' '} {candidate.precision}"
        log.info(
            f"{name}: {candidate.size_bytes / 1e6:.1f} MB, "
            f"{candidate.milliseconds:.2f} ms a picture on one thread, "
            f"valid acc {candidate.accuracy:.4f} on {pictures:,}"
        )
    log.info(f"parity with the training model: largest probability difference {parity:.1e}")
    shares = ", ".join(f"{share:.0%} of {kind}" for kind, share in manifest.metrics["marked_unknown"].items())
    log.info(f"marked as unknown: {shares}")
