"""The last layer, fitted on features of the frozen backbone, and what these choose: size, mirror image, framing.

The first model, and what fine-tuning starts from: a random last layer would first destroy what
the backbone knows (Kumar et al., "Fine-Tuning can Distort Pretrained Features", 2022).
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pupila.data import Dataset, Splits, sample
from pupila.evaluation.metrics import fit_temperature
from pupila.recipe import Recipe
from pupila.training.distributed.process_group import ALONE, Team
from pupila.training.loop.class_weights import balance_for, validation_scores
from pupila.training.loop.device import pick_device
from pupila.training.loop.probe import (
    Features,
    Linear,
    all_features,
    cross_validated,
    features_of,
    fit_linear,
    mean_loss,
    weight_decay,
)
from pupila.training.loop.resnet import ResNet18
from pupila.training.weights import Start

log = logging.getLogger("pupila.training")

FOLDS = 3
TRIAL_PICTURES = 1000
TRIAL_COST, TRIAL_COST_A_MINUTE = 12_000, 6_000
"""Pictures of 64 px that all trials together may cost; a picture costs by its area. About 15 s of two cores, and an
eighth of a short budget."""
HEAD_COST, HEAD_COST_A_MINUTE, LEAST_HEAD_COST, MOST_HEAD_COST = 12_000, 24_000, 6_000, 64_000
"""The same for the features that the last layer is fitted on: about 15 s where no minutes are given, two fifths of a
short budget, in which more features bring more than as many steps (docs/experiments.md); at least, whatever else the
budget has to hold, and at most about a minute."""
FEATURES_SHARE = 0.8
"""Share of its seconds that the last layer takes for these features: the fit itself takes the rest."""
GAIN = 0.005
"""Accuracy that the best size must be ahead of a smaller one to be taken."""
CLEARLY = 0.02
"""Accuracy below the best from which still larger sizes are not tried."""
FEW = 5_000
"""Training pictures below which accuracy is scarcer than time, and too few to measure a small gain with."""
SURE = 0.99
"""Accuracy from which the mirror image is only taken if it gains."""
Way = tuple[bool, float]
WAYS: tuple[Way, ...] = (*((False, each) for each in (0.3, 1, 3)), *((True, each) for each in (0.03, 0.1, 0.3, 1, 3)))
"""Ways to fit the last layer to choose from: whether features are whitened, and multiples of weight_decay()."""
MANY_CLASSES, SURE_WAYS = 200, ((False, 1.0), (True, 0.1))
"""Classes above which only two ways are tried, as each then takes seconds."""


@dataclass(frozen=True)
class InputChoice:
    """What the features are best computed from and how, and what was found in cross-validation, for people to read."""

    network_size: int
    flip_average: bool
    reason: str


def cost(size: int) -> float:
    """Return the cost of one picture in pictures of 64 px."""
    return (size / 64) ** 2


def choose_input(network: ResNet18, training: Dataset, recipe: Recipe, sizes: Sequence[int]) -> InputChoice:
    """Choose the network size from `sizes`, which ascend, and whether answers average mirror images.

    By cross-validation of last layers on a sample of the training pictures. The smallest size within GAIN of the best
    is taken, as each costs about twice the one before. The mirror image, which costs as much, gains a point with few
    pictures, where this sample has an error of a point or more (docs/experiments.md): there it is left out only if it
    loses more than that standard error.
    The last layer alone, on many pictures, is a first look, and does without.
    """
    spent = min(TRIAL_COST, TRIAL_COST_A_MINUTE * recipe.minutes) if recipe.minutes else TRIAL_COST
    most = max(int(spent / sum(cost(size) for size in sizes)), 2 * len(training.classes))
    trial = at_most(training, min(TRIAL_PICTURES, most), recipe.seed)
    within = known_within(network)
    found: dict[int, tuple[float, Features]] = {}
    for size in sizes:
        features = all_features(network, trial, replace(recipe, network_size=size, progressive=()), mirrored=False)
        found[size] = _scores(features, training, recipe, within)[0], features
        if found[size][0] < max(score for score, _ in found.values()) - CLEARLY:
            break
    best = max(score for score, _ in found.values())
    chosen = min(size for size, (score, _) in found.items() if score >= best - GAIN)
    tried = ", ".join(f"{score:.3f} at {size} px" for size, (score, _) in found.items())
    flip, more = recipe.flip_average == "on", ""
    if recipe.flip_average == "auto" and (recipe.trains == "all" or len(training) < FEW):
        mirrored = features_of(network, trial, replace(recipe, network_size=chosen, progressive=()), mirrored=True)
        plain, averaged = _scores(replace(found[chosen][1], mirrored=mirrored), training, recipe, within)
        by_chance = math.sqrt(plain * (1 - plain) / len(trial)) if len(training) < FEW else 0.0
        flip = averaged > plain or (plain < SURE and averaged > plain - by_chance)
        more = f"; averaged with the mirror image {averaged:.3f}, alone {plain:.3f}"
    return InputChoice(chosen, flip, f"cross-validated on features of {len(trial):,} pictures: {tried}{more}.")


def known_within(network: ResNet18) -> Tensor | None:
    """Return what is known of how its features vary within classes; nothing of features that are no square roots."""
    return network.within if network.pooling == "root" else None


def _scores(features: Features, training: Dataset, recipe: Recipe, within: Tensor | None) -> tuple[float, float]:
    """Return the cross-validated accuracy of plain answers and of those averaged with the mirror image."""
    balance, (whitened, strength) = balance_for(recipe, training), SURE_WAYS[within is not None]
    decay = strength * weight_decay(len(features.labels), whitened=whitened)
    classes, loss = len(training.classes), mean_loss(balance)
    logits = cross_validated(features, classes, loss, decay, FOLDS, whitened=whitened, within=within)
    plain, averaged = (balance.accuracy(each, features.labels) for each in logits)
    return plain, averaged


def _way_to_fit(features: Features, training: Dataset, recipe: Recipe, within: Tensor | None = None) -> Way:
    """Return which of WAYS gives the lowest cross-validated loss."""
    ways = WAYS if len(training.classes) <= MANY_CLASSES else SURE_WAYS
    return min(ways, key=lambda way: _held_out_loss(features, training, recipe, way, within))


def _held_out_loss(features: Features, training: Dataset, recipe: Recipe, way: Way, within: Tensor | None) -> float:
    """Return the cross-validated loss, which varies less by chance than accuracy.

    Of answers brought to the temperature that suits them, as a strong decay makes them unsure and not wrong.
    """
    loss, (whitened, strength) = mean_loss(balance_for(recipe, training)), way
    decay = strength * weight_decay(len(features.labels), whitened=whitened)
    plain, _ = cross_validated(features, len(training.classes), loss, decay, FOLDS, whitened=whitened, within=within)
    return float(loss(plain / fit_temperature(plain.numpy(), features.labels.numpy()), features.labels))


def at_most(dataset: Dataset, count: int, seed: int) -> Dataset:
    """Return a sample of so many pictures, or all if they are no more; of each class one at least."""
    count = max(count, len(dataset.classes))
    return sample(dataset, count, seed) if count < len(dataset) else dataset


def fit_head(
    recipe: Recipe,
    network: ResNet18,
    training: Dataset,
    validation: Dataset,
    seconds: float = math.inf,
    team: Team = ALONE,
) -> dict[str, float]:
    """Fit the network's last layer in place to features of `training`; return the metrics, as of an epoch 0.

    Of many pictures a sample is taken: what the recipe allows, and what can be looked at in so many `seconds`, as the
    validation pictures show, on the clock of the team's first worker; LEAST_HEAD_COST in any case. Few are looked at
    mirrored, too.
    """
    begun = time.monotonic()
    network.to(pick_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    held_out = all_features(network, validation, recipe, mirrored=recipe.flip_average == "on")
    each, took = cost(recipe.network_size), time.monotonic() - begun
    most = min(MOST_HEAD_COST, HEAD_COST_A_MINUTE * recipe.minutes) if recipe.minutes else HEAD_COST
    if seconds < math.inf:
        rate = each * len(validation) * (2 if recipe.flip_average == "on" else 1) / took
        most = min(most, max(LEAST_HEAD_COST, team.firsts(rate * (FEATURES_SHARE * seconds - took))))
    used = at_most(training, int(most / each), recipe.seed)
    features = all_features(network, used, recipe, mirrored=2 * each * len(used) <= most)
    balance, classes = balance_for(recipe, training), len(training.classes)
    loss, (x, labels) = mean_loss(balance), features.all()
    trial = features.take(torch.linspace(0, len(used) - 1, min(len(used), TRIAL_PICTURES)).long())
    within = known_within(network)
    whitened, strength = _way_to_fit(trial, training, recipe, within)
    decay = strength * weight_decay(len(used), whitened=whitened)
    layer = fit_linear(x, labels, classes, loss, decay, whitened=whitened, within=within)
    layer.put_into(network)
    logits = layer(x)
    return {
        "epoch": 0,
        "network_size": recipe.network_size,
        "train_loss": float(loss(logits, labels)),
        "train_accuracy": float((logits.argmax(1) == labels).double().mean()),
        **validation_scores(layer(held_out.averaged()), held_out.labels),
        "seconds": time.monotonic() - begun,
        "pictures": len(used),
    }


def plain_layer(recipe: Recipe, network: ResNet18, training: Dataset) -> Linear:
    """Return a last layer fitted to features of all these pictures as they are; no way to fit it is chosen."""
    x, labels = features_of(network, training, recipe), torch.from_numpy(training.labels)
    loss = mean_loss(balance_for(recipe, training))
    return fit_linear(x, labels, len(training.classes), loss, weight_decay(len(training)))


LONG = 1.2
"""Median of longer side / shorter side from which it is worth asking; photos of 4:3 have 1.33."""
FRAMING_PICTURES = 2000
"""To fit on, at most; a quarter of that to judge by."""
FRAMING_SIZE = 96
"""Network size of the trial at most: enough to tell, and quick."""

Read = Callable[[str], Splits]
"""Reads the data set in a framing."""
Cut = Callable[[Splits, Recipe], tuple[Dataset, Dataset]]
"""Cuts it into what is trained on and what is validated on."""


def choose_framing(read: Read, cut: Cut, squashed: Splits, recipe: Recipe, start: Start) -> tuple[Splits, Recipe]:
    """Return the data set in the framing that the recipe says, or that validates better, and the recipe naming it.

    Compared by last layers fitted on features of a frozen backbone: seconds, where two whole trainings take minutes.
    """
    if recipe.framing != "auto":
        return (squashed if recipe.framing == squashed.framing else read(recipe.framing)), recipe
    chosen = squashed
    if squashed.aspect >= LONG and start.origin == "none":
        log.info(
            f"The photos are {squashed.aspect:.2f} times as long as wide (median), and are squashed: there are no "
            "trained weights to try letter-boxing with. Choose it by --set framing=letterbox."
        )
    elif squashed.aspect >= LONG:
        boxed = read("letterbox")
        scores = [_framing_score(start.network, *cut(splits, recipe), recipe) for splits in (squashed, boxed)]
        chosen = boxed if scores[1] > scores[0] else squashed
        log.info(
            f"The photos are {squashed.aspect:.2f} times as long as wide (median). With the starting weights, squash "
            f"gives {scores[0]:.3f} and letterbox {scores[1]:.3f} on validation pictures: {chosen.framing} is taken."
        )
    return chosen, replace(recipe, framing=chosen.framing)


def _framing_score(network: ResNet18, training: Dataset, validation: Dataset, recipe: Recipe) -> float:
    """Return the accuracy (balanced, where classes are uneven) of a last layer fitted on the backbone's features."""
    training, validation = (
        at_most(training, FRAMING_PICTURES, recipe.seed),
        at_most(validation, FRAMING_PICTURES // 4, recipe.seed),
    )
    small = replace(recipe, network_size=min(recipe.network_size or FRAMING_SIZE, FRAMING_SIZE), progressive=())
    logits = plain_layer(small, network, training)(features_of(network, validation, small))
    return balance_for(recipe, training).accuracy(logits, torch.from_numpy(validation.labels))
