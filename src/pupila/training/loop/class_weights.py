"""What one run does about uneven classes: how pictures are drawn, how they count, and how epochs are judged.

The decision itself is in pupila.data.quality.class_balance.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pupila.data import Dataset
from pupila.data.quality.class_balance import class_weights, remedy
from pupila.recipe import Recipe

GUESSING = 1.2
"""In multiples of one divided by the classes: accuracy or mean recall up to which a model only guesses."""


@dataclass(frozen=True)
class Balance:
    """Nothing at all (`none`), or one of the ways in Recipe.balance."""

    way: str
    weights: Tensor
    """float32 [K]: how often a class is drawn, or how much it counts, in multiples of its own share."""

    def order(self, labels: Tensor, draw: torch.Generator) -> Tensor:
        """Return int64 [N]: an epoch's pictures. Drawn by weight, one of a small class comes several times."""
        if self.way != "sampling":
            return torch.randperm(len(labels), generator=draw).to(labels.device)
        chances = self.weights[labels.cpu()]
        return torch.multinomial(chances, len(labels), replacement=True, generator=draw).to(labels.device)

    def loss(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0, *, sampled: bool = True) -> Tensor:
        """Return the mean cross entropy; with `sampled` False, the pictures were not drawn by weight, so it weighs."""
        weights = self.weights.to(logits.device) if self.way == "sampling" and not sampled else None
        return functional.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing)

    def accuracy(self, logits: Tensor, labels: Tensor) -> float:
        """Return what epochs and files are chosen by: balanced accuracy where classes are uneven, else accuracy."""
        right = (logits.argmax(1) == labels).double()
        return float(right.mean()) if self.way == "none" else balanced_accuracy(right, labels)


EVEN = Balance("none", torch.ones(1))


def balance_for(recipe: Recipe, training: Dataset) -> Balance:
    """Return what the recipe says about the balance of these pictures."""
    counts = training.counts()
    return Balance(remedy(counts, recipe.balance), torch.from_numpy(class_weights(counts)).float())


def balanced_accuracy(right: Tensor, labels: Tensor) -> float:
    """Return the mean, over the classes that there are, of the share of right answers; right: float64 [N]."""
    counts = torch.bincount(labels)
    sums = torch.bincount(labels, weights=right)
    return float((sums[counts > 0] / counts[counts > 0]).mean())


def validation_scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return what a row of metrics says of the validation pictures, whatever epochs are chosen by."""
    right = (logits.argmax(1) == labels).double()
    return {
        "validation_loss": float(functional.cross_entropy(logits, labels)),
        "validation_accuracy": float(right.mean()),
        "validation_balanced_accuracy": balanced_accuracy(right, labels),
    }
