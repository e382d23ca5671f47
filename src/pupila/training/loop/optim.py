"""SGD, and its learning rate as a function of the run's progress."""

import torch
from torch import nn

from pupila.recipe import Recipe


def sgd(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD with momentum, one group of parameters for each stage, whose rate is `rate_factor` times the rate."""
    stages: dict[str, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        stages.setdefault(name.split(".")[0], []).append(parameter)
    return torch.optim.SGD(
        [{"params": parameters, "factor": rate_factor(recipe, stage)} for stage, parameters in stages.items()],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov and recipe.momentum > 0,  # without momentum there is nothing to look ahead along
        weight_decay=recipe.weight_decay,
    )


def rate_factor(recipe: Recipe, stage: str) -> float:
    """Return 1 for the last layer and layer4, and layer_decay times that of the next for each stage below."""
    below = {"fc": 0, "layer4": 0, "layer3": 1, "layer2": 2}.get(stage, 3)  # the first convolution moves with layer1
    return (recipe.layer_decay or 1.0) ** below


def learning_rate(recipe: Recipe, progress: float, epoch: int) -> float:
    """Return the backbone's rate at `progress` in 0 to 1 of the run, in epoch number `epoch` from 0.

    one_cycle: up in a straight line for `warmup` of the run, then down to zero (Smith and Topin, "Super-Convergence",
    2017); step: times `lr_decay` every `lr_period` epochs.
    """
    if recipe.schedule == "step":
        return recipe.learning_rate * float(recipe.lr_decay ** (epoch // recipe.lr_period))
    if progress < recipe.warmup:
        return recipe.learning_rate * (0.05 + 0.95 * progress / recipe.warmup)
    return recipe.learning_rate * max((1 - progress) / (1 - recipe.warmup), 0.0)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group its multiple of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
