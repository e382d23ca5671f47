"""Squash or letter-box, chosen on validation pictures where the photos are clearly not square.

Compared by last layers fitted on features of a frozen backbone: seconds, where two whole trainings take minutes.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

import torch

from pupila.data import Dataset, Splits
from pupila.recipe import Recipe
from pupila.training.loop.class_weights import balance_for
from pupila.training.loop.head import at_most
from pupila.training.loop.probe import features_of, fit_linear, mean_loss, weight_decay
from pupila.training.loop.resnet import ResNet18
from pupila.training.weights import Start

log = logging.getLogger("pupila.training")

CLEARLY = 1.2
"""Median of longer side / shorter side from which it is worth asking; photos of 4:3 have 1.33."""
PICTURES = 2000
"""To fit on, at most; a quarter of that to judge by."""
LARGEST = 96
"""Network size of the trial at most: enough to tell, and quick."""

Read = Callable[[str], Splits]
"""Reads the data set in a framing."""
Cut = Callable[[Splits, Recipe], tuple[Dataset, Dataset]]
"""Cuts it into what is trained on and what is validated on."""


def choose_framing(read: Read, cut: Cut, squashed: Splits, recipe: Recipe, start: Start) -> tuple[Splits, Recipe]:
    """Return the data set in the framing that the recipe says, or that validates better, and the recipe naming it."""
    if recipe.framing != "auto":
        return (squashed if recipe.framing == squashed.framing else read(recipe.framing)), recipe
    chosen = squashed
    if squashed.aspect >= CLEARLY and start.origin == "none":
        log.info(
            f"The photos are {squashed.aspect:.2f} times as long as wide (median), and are squashed: there are no "
            "trained weights to try letter-boxing with. Choose it by --set framing=letterbox."
        )
    elif squashed.aspect >= CLEARLY:
        boxed = read("letterbox")
        scores = [_score(start.network, *cut(splits, recipe), recipe) for splits in (squashed, boxed)]
        chosen = boxed if scores[1] > scores[0] else squashed
        log.info(
            f"The photos are {squashed.aspect:.2f} times as long as wide (median). With the starting weights, squash "
            f"gives {scores[0]:.3f} and letterbox {scores[1]:.3f} on validation pictures: {chosen.framing} is taken."
        )
    return chosen, replace(recipe, framing=chosen.framing)


def _score(network: ResNet18, training: Dataset, validation: Dataset, recipe: Recipe) -> float:
    """Return the accuracy (balanced, where classes are uneven) of a last layer fitted on the backbone's features."""
    training, validation = at_most(training, PICTURES, recipe.seed), at_most(validation, PICTURES // 4, recipe.seed)
    small = replace(recipe, network_size=min(recipe.network_size or LARGEST, LARGEST), progressive=())
    x, y = (features_of(network, part, small) for part in (training, validation))
    balance, decay = balance_for(recipe, training), weight_decay(len(training))
    layer = fit_linear(x, torch.from_numpy(training.labels), len(training.classes), mean_loss(balance), decay)
    return balance.accuracy(layer(y), torch.from_numpy(validation.labels))
