"""Squash or letter-box, chosen on validation pictures where the photos are clearly not square.

Knows a frozen backbone and last layers fitted on its features: seconds, where two whole trainings take twice as long.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from pupila.data import Dataset, Splits, sample
from pupila.recipe import Recipe
from pupila.training.loop.class_weights import balance_for
from pupila.training.loop.head import features_of, minimise
from pupila.training.loop.resnet import ResNet18
from pupila.training.weights import Start

log = logging.getLogger("pupila.training")

CLEARLY = 1.2
"""Median of longer side / shorter side from which it is worth asking; photos of 4:3 have 1.33."""
PICTURES = 2000
"""To fit on, at most; a quarter of that to judge by."""
LARGEST = 96
"""Network size of the trial at most: enough to tell, and quick."""
WEIGHT_DECAY = 1e-3

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
    training, validation = _few(training, PICTURES, recipe.seed), _few(validation, PICTURES // 4, recipe.seed)
    small = replace(recipe, network_size=min(recipe.network_size or LARGEST, LARGEST), progressive=())
    network.eval()
    x, y = (features_of(network, part, small) for part in (training, validation))
    mean, spread = x.mean(0), x.std(0) + 1e-6
    weight, bias = torch.zeros(len(training.classes), x.shape[1]), torch.zeros(len(training.classes))
    balance = balance_for(recipe, training)
    for _ in range(3):
        minimise(weight, bias, (x - mean) / spread, _labels(training), balance, WEIGHT_DECAY)
    return balance.accuracy(functional.linear((y - mean) / spread, weight, bias), _labels(validation))


def _few(dataset: Dataset, most: int, seed: int) -> Dataset:
    most = max(most, len(dataset.classes))
    return sample(dataset, most, seed) if len(dataset) > most else dataset


def _labels(dataset: Dataset) -> Tensor:
    return torch.from_numpy(dataset.labels)
