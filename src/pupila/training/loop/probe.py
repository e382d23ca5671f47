"""Linear probe: a regularised logistic regression on the features of a frozen network.

It is the whole training of `trains=head`, the start of every other one, and how image size, framing and mirror image
are chosen. Features are computed once; the regression that follows is convex and takes seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pupila._arguments import counted
from pupila.data import Dataset
from pupila.data.sources.archive import check_memory
from pupila.progress import progress_bar
from pupila.recipe import Recipe
from pupila.training.loop.class_weights import Balance
from pupila.training.loop.device import autocast
from pupila.training.loop.resnet import ResNet18, enlarged

BATCH = 250
ITERATIONS = 40
"""Of L-BFGS at most; the loss hardly changes after 30."""
PRIOR, WHITENED_PRIOR, FEATURES = 90.0, 1600.0, 512
"""Weight decay times pictures, and for whitened features times pictures and features together. Measured with 900
pictures, where 0.1 was best of 0.003 to 1, and with 30 to 5,000 (docs/experiments.md)."""
COPIES = 6
"""Of the logits: the loss and its gradients hold four, and two more are made of them; L-BFGS keeps its steps beside."""
LEAST_WITHIN = 0.1
"""Share of a feature's variance that is taken to lie within classes, at least: of one picture a class there is none."""
KNOWN_ROWS, KNOWN_SHARE = 4096, 0.8
"""As if what the backbone knows of classes had been seen in so many rows, and its share beside the identity (measured
with 6 to 900 pictures, docs/experiments.md)."""
LEAST_SPREAD = 0.3
"""Of a feature that hardly varies, in multiples of what is known of how it varies within classes."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits [N, K] and labels [N] to the mean loss."""


@dataclass(frozen=True, eq=False)
class Linear:
    """A fitted last layer: weight [K, D], bias [K]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return logits [N, K] for features [N, D]."""
        return functional.linear(features, self.weight, self.bias)

    def put_into(self, network: ResNet18) -> None:
        """Make this the network's last layer."""
        with torch.no_grad():
            network.fc.weight.copy_(self.weight)
            network.fc.bias.copy_(self.bias)


@dataclass(frozen=True, eq=False)
class Features:
    """Of N pictures: features [N, D] as they are and, where computed, of their mirror images; labels [N]."""

    labels: Tensor
    plain: Tensor
    mirrored: Tensor | None = None

    def all(self) -> tuple[Tensor, Tensor]:
        """Return the features of pictures and mirror images one after the other, and the labels of all."""
        if self.mirrored is None:
            return self.plain, self.labels
        return torch.cat([self.plain, self.mirrored]), self.labels.repeat(2)

    def take(self, rows: Tensor) -> "Features":
        """Return those of some of the pictures."""
        return Features(self.labels[rows], self.plain[rows], None if self.mirrored is None else self.mirrored[rows])

    def averaged(self) -> Tensor:
        """Return the means over picture and mirror image, which give the mean of the two answers."""
        return self.plain if self.mirrored is None else (self.plain + self.mirrored) / 2


def features_of(network: ResNet18, dataset: Dataset, recipe: Recipe, *, mirrored: bool = False) -> Tensor:
    """Return float32 [N, D] on the CPU, computed at recipe.network_size; leaves the network in evaluation mode."""
    network.eval()
    device = next(network.parameters()).device
    parts = torch.split(torch.from_numpy(dataset.images), BATCH)
    features = []
    with torch.inference_mode(), autocast(recipe, device), progress_bar("features", len(parts)) as bar:
        for part in parts:
            x = enlarged(part.to(device), recipe.network_size)
            features.append(network.features(x.flip(3) if mirrored else x).float().cpu())
            bar.update(1)
    return torch.cat(features)


def all_features(network: ResNet18, dataset: Dataset, recipe: Recipe, *, mirrored: bool) -> Features:
    """Return the features of pictures, and with `mirrored` those of their mirror images."""
    plain = features_of(network, dataset, recipe)
    flipped = features_of(network, dataset, recipe, mirrored=True) if mirrored else None
    return Features(torch.from_numpy(dataset.labels), plain, flipped)


def weight_decay(pictures: int, *, whitened: bool = False) -> float:
    """Return the decay for so many pictures: a prior of constant strength beside a mean loss."""
    return WHITENED_PRIOR / (FEATURES + pictures) if whitened else PRIOR / max(pictures, 1)


def fit_linear(
    x: Tensor,
    labels: Tensor,
    classes: int,
    loss: Loss,
    decay: float,
    iterations: int = ITERATIONS,
    *,
    whitened: bool = False,
    within: Tensor | None = None,
) -> Linear:
    """Fit a last layer to features [N, D] by L-BFGS on standardised features; the result takes them as they are.

    decay / 2 times the squared weights of these features is added to the loss. whitened: they are made to vary alike
    within the classes, too. within: their covariance [D, D] within other classes, see ResNet18. Raises DataError if
    that would not fit into memory.
    """
    needed = 4.0 * classes * (COPIES * len(x) + 2 * iterations * x.shape[1])
    what = f"The answers to {counted(len(x), 'picture')} in {counted(classes, 'class')}"
    check_memory(needed, what, "Use fewer classes.")
    mean, spread = x.mean(0), x.std(0, correction=0) + 1e-6
    x = (x - mean) / spread
    whitening = torch.eye(x.shape[1])
    if within is not None:
        by = torch.maximum(spread, LEAST_SPREAD * within.diagonal().sqrt())
        within = within / by / by[:, None]
    if whitened:
        whitening = _whitening(x, labels, classes, within)
    x = x @ whitening
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = loss(functional.linear(x, weight, bias), labels) + decay / 2 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    raw = weight.detach() @ whitening.T / spread
    return Linear(raw, bias.detach() - raw @ mean)


def _whitening(x: Tensor, labels: Tensor, classes: int, within: Tensor | None) -> Tensor:
    """Return [D, D] by which standardised features [N, D] are multiplied, so that a class varies alike everywhere.

    So a decay holds the weights back most where pictures of one class differ anyway, as linear discriminant analysis
    does. The covariance within the classes is shrunk towards a multiple of the identity (Ledoit and Wolf, "A
    well-conditioned estimator for large-dimensional covariance matrices", 2004), as if that had been seen in 2 D rows,
    or towards the covariance within classes of other pictures: few pictures tell little of their own.
    """
    rows, size = x.shape
    means = torch.zeros(classes, size).index_add(0, labels, x) / labels.bincount(minlength=classes)[:, None]
    residual = x - means[labels]
    covariance = residual.T @ residual
    target, known = torch.eye(size), 2 * size
    if within is not None:
        target, known = (1 - KNOWN_SHARE) * target + KNOWN_SHARE * within / within.diagonal().mean(), KNOWN_ROWS
    target *= (covariance.diagonal().mean() / rows).clamp(min=LEAST_WITHIN)
    factor = torch.linalg.cholesky((covariance + known * target) / (rows + known))
    whitening: Tensor = torch.linalg.solve_triangular(factor, torch.eye(size), upper=False).T
    return whitening


def mean_loss(balance: Balance) -> Loss:
    """Return the loss by which features are fitted: pictures are not drawn here, so that uneven classes are weighed."""
    return lambda logits, labels: balance.loss(logits, labels, sampled=False)


def folds_of(labels: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """Return [N]: the fold of each picture, stratified, drawn from a stream that NumPy promises to keep."""
    order = np.lexsort((np.random.PCG64(0).random_raw(len(labels)), labels))
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def cross_validated(
    features: Features,
    classes: int,
    loss: Loss,
    decay: float,
    folds: int,
    iterations: int = ITERATIONS,
    *,
    whitened: bool = False,
    within: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return logits [N, K] by layers that were not fitted on the picture: of it, and averaged with its mirror image."""
    fold = torch.from_numpy(folds_of(features.labels.numpy(), folds))
    plain, averaged = (torch.zeros(len(fold), classes) for _ in range(2))
    for number in range(folds):
        held_out = fold == number
        kept = features.take(~held_out).all()
        layer = fit_linear(*kept, classes, loss, decay, iterations, whitened=whitened, within=within)
        plain[held_out], averaged[held_out] = layer(features.plain[held_out]), layer(features.averaged()[held_out])
    return plain, averaged
