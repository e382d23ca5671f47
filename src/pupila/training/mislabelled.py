"""How likely each label of a data set is wrong: features of a frozen backbone, a last layer cross-validated on them.

Seconds for thousands of pictures, as the backbone runs once over each. That of a model trained on the same pictures
has seen their labels, but hardly learned single wrong ones by heart; the last layer never sees its own.

Which labels are wrong is estimated by confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating
Uncertainty in Dataset Labels", JAIR 2021; written from the paper). A class's threshold is the mean probability of it
over the pictures labelled so. A picture that passes the threshold of another class, and of that class most, counts as
one of that class; these numbers, scaled to the labels that there are, say how many are wrong.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pupila._arguments import counted
from pupila.data import Dataset, Splits, load_dataset
from pupila.data.quality.labels import picture_paths
from pupila.data.sources.archive import check_memory
from pupila.errors import DataError, TrainingError
from pupila.evaluation.evaluate import predict_features
from pupila.evaluation.metrics import Float64, Int64
from pupila.evaluation.pages.data_report import Doubt, Mislabelled
from pupila.predictor import Predictor
from pupila.recipe import Recipe
from pupila.training.loop import probe
from pupila.training.loop.probe import Features, features_of
from pupila.training.loop.resnet import ResNet18
from pupila.training.weights import starting_network

FOLDS = 5
ITERATIONS = 20
"""Of L-BFGS a fold: more hardly change a problem that is so convex."""
WEIGHT_DECAY = 3e-2
"""Recall by it, on CIFAR-10: docs/experiments-data.md."""
NOISE = 0.055
"""Share of the labels that the last layers take to be any class: 1 in 20 wrong, where there are ten classes."""
LARGEST = 96
"""Network size at most, where no model says another."""
FIX = "Use fewer pictures."
LEAST = 2 * FOLDS
"""Pictures a class needs: in each fold some to learn from and some to judge."""


def find_mislabelled(
    source: str, *, weights: str = "auto", model: Path | None = None, size: int | None = None, most: int = 500
) -> Mislabelled:
    """Rank the labels of train (and validation, where the data has one) by how likely they are wrong.

    Features are of `model`, a model file, if given, else of a network that starts from `weights`, see Recipe.weights.
    Raises DataError if a class has too few pictures, TrainingError without trained weights, and what loading raises.
    """
    predictor = None if model is None else Predictor.load(model)
    framing = predictor.manifest.framing if predictor else "squash"
    splits = load_dataset(source, predictor.manifest.input_size if predictor else size, framing=framing)
    pool, paths = _pool(splits)
    if predictor is not None:
        features = np.asarray(predict_features(predictor, pool.images)[1], dtype=np.float32)
        origin = f"{predictor.manifest.name} {predictor.version}"
    else:
        features, origin = backbone_features(pool, weights)
    return _found(splits.name, pool, paths, features, origin, most)


def _pool(splits: Splits) -> tuple[Dataset, list[str]]:
    """Join train and validation: the labels that training sees. The test split is not looked at."""
    named = {name: part for name, part in splits.parts().items() if name != "test"}
    count = sum(map(len, named.values()))
    check_memory(2 * sum(p.images.nbytes for p in named.values()), f"The copies of {counted(count, 'picture')}", FIX)
    images = np.concatenate([part.images for part in named.values()])
    labels = np.concatenate([part.labels for part in named.values()])
    paths = picture_paths(splits)
    pool = Dataset(images, labels, splits.train.classes)
    counts = pool.counts()
    if counts.min() < LEAST:
        category = pool.classes[int(counts.argmin())]
        raise DataError(
            f"{splits.name}: '{category}' has {counted(int(counts.min()), 'picture')}; judging takes {LEAST} a class. "
            "Add pictures to it or leave the class out."
        )
    return pool, [path for name in named for path in paths[name]]


def backbone_features(pool: Dataset, weights: str) -> tuple[NDArray[np.float32], str]:
    """Return features [N, 768] of the starting weights, and what these are; TrainingError if there are none.

    Those of the last stage and of the one before, which knows more of textures, averaged over each picture and its
    mirror image: what each of the two finds more of planted errors is in docs/experiments-data.md.
    """
    start = starting_network(weights, len(pool.classes), seed=0)
    if start.origin == "none":
        raise TrainingError("Judging labels needs trained weights. Give --model MODEL, or --weights FILE.")
    side = min(max(pool.size, Recipe().network_size or 64), LARGEST)
    recipe, network = Recipe(network_size=side), start.network.eval()
    mirrored = Dataset(np.ascontiguousarray(pool.images[:, :, ::-1]), pool.labels, pool.classes)
    both = _two_stages(network, pool, recipe) + _two_stages(network, mirrored, recipe)
    return (both / 2).numpy(), f"{start.origin} at {side} px"


def _two_stages(network: ResNet18, dataset: Dataset, recipe: Recipe) -> Tensor:
    earlier: list[Tensor] = []
    hook = network.layer3.register_forward_hook(lambda _, __, output: earlier.append(output.float().mean((2, 3))))
    last = features_of(network, dataset, recipe)
    hook.remove()
    return torch.cat([torch.cat(earlier).cpu(), last], 1)


def _found(
    name: str, pool: Dataset, paths: list[str], features: NDArray[np.float32], origin: str, most: int
) -> Mislabelled:
    probabilities = cross_validated(features, pool.labels, len(pool.classes))
    found = doubts(probabilities, pool.labels)
    rows = found.ranking[: min(found.count, most)]
    listed = [
        Doubt(paths[r], pool.classes[pool.labels[r]], pool.classes[found.suggested[r]], float(found.score[r]))
        for r in rows
    ]
    agreement = float((probabilities.argmax(axis=1) == pool.labels).mean())
    return Mislabelled(name, listed, [pool.images[r] for r in rows], len(pool), found.count, agreement, origin)


def cross_validated(features: NDArray[np.float32], labels: Int64, classes: int) -> Float64:
    """Return [N, K]: for each picture the probabilities of a last layer that was not fitted on it."""
    known = Features(torch.from_numpy(labels), torch.from_numpy(features))
    logits, _ = probe.cross_validated(known, classes, _loss_of_doubtful_labels, WEIGHT_DECAY, FOLDS, ITERATIONS)
    return np.asarray(logits.double().softmax(1).numpy())


def _loss_of_doubtful_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of labels that may be wrong: no single one, however sure the others are, bends the layer.

    Patrini et al., "Making Deep Neural Networks Robust to Label Noise: a Loss Correction Approach", 2017: forward, with
    the same chance for each class.
    """
    own = logits.softmax(1).gather(1, labels.unsqueeze(1))
    return -torch.log((1 - NOISE) * own + NOISE / logits.shape[1]).mean()


@dataclass(frozen=True, eq=False)
class LabelDoubts:
    """What is likely wrong among N labels."""

    ranking: Int64
    """Rows [N]: the likeliest wrong label first."""
    score: Float64
    """[N], 0 to 1: the higher, the likelier is the label wrong; by row, not by rank."""
    suggested: Int64
    """[N]: the most probable class other than the label, by row."""
    count: int
    """How many labels are estimated to be wrong: the first so many of the ranking are the list to look at."""


def doubts(probabilities: Float64, labels: Int64) -> LabelDoubts:
    """Rank labels [N] by out-of-sample probabilities [N, K]; the rows must sum to 1."""
    own = probabilities[np.arange(len(labels)), labels]
    others = probabilities.copy()
    others[np.arange(len(labels)), labels] = -1.0
    suggested = others.argmax(axis=1)
    score = 1.0 - own  # the paper's self-confidence; its normalized margin finds a third less (experiments-data.md)
    joint = estimated_joint(confident_joint(probabilities, labels), np.bincount(labels, minlength=others.shape[1]))
    count = round(len(labels) * float(joint.sum() - np.trace(joint)))
    ranking = np.lexsort((np.arange(len(labels)), -score))
    return LabelDoubts(ranking, score, suggested.astype(np.int64), count)


def thresholds(probabilities: Float64, labels: Int64) -> Float64:
    """Return float64 [K]: the mean probability of each class over the pictures labelled so; 1 where there are none."""
    classes = probabilities.shape[1]
    sums = np.bincount(labels, probabilities[np.arange(len(labels)), labels], classes)
    counts = np.bincount(labels, minlength=classes)
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), 1.0))


def confident_joint(probabilities: Float64, labels: Int64) -> Int64:
    """Return int64 [K, K]: pictures by label (row) and by the class that they confidently are (column)."""
    classes = probabilities.shape[1]
    passes = probabilities >= thresholds(probabilities, labels) - 1e-6
    confident = passes.any(axis=1)
    counted = np.where(passes, probabilities, -1.0).argmax(axis=1)
    pairs = np.bincount(labels[confident] * classes + counted[confident], minlength=classes * classes)
    return pairs.reshape(classes, classes).astype(np.int64)


def estimated_joint(confident: Int64, counts: NDArray[np.integer]) -> Float64:
    """Return float64 [K, K] that sums to 1: each row of the confident joint scaled to the share of its label."""
    filled = confident + np.diag((confident.sum(axis=1) == 0).astype(np.int64))
    rows = filled / filled.sum(axis=1, keepdims=True) * np.asarray(counts)[:, np.newaxis]
    return np.asarray(rows / rows.sum())
