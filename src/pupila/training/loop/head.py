"""Fit the last layer alone: features of the frozen backbone are computed once, then a convex problem is solved on them.

The first usable model in under a minute. A fit is short, so that there is nothing to resume.
"""

import time

import torch
from torch import Tensor
from torch.nn import functional

from pupila.data import Dataset
from pupila.progress import Progress
from pupila.recipe import Recipe
from pupila.training.loop.class_weights import Balance, balance_for, validation_scores
from pupila.training.loop.device import autocast, pick_device
from pupila.training.loop.fit import Fitted, OnEpoch, Row
from pupila.training.loop.resnet import ResNet18, enlarged

ITERATIONS = 10
"""Of L-BFGS in what counts as one epoch: a step of it looks at all features."""
BATCH = 250


def fit_head(
    recipe: Recipe,
    network: ResNet18,
    train: Dataset,
    validation: Dataset,
    on_epoch: OnEpoch = lambda _: None,
) -> Fitted:
    """Return the network with its last layer fitted to `train`: the weights of the epoch that validates best.

    The problem is multinomial logistic regression with weight decay on standardised features, solved by L-BFGS.
    """
    begun = time.monotonic()
    network = network.to(pick_device(), memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    features, labels = features_of(network, train, recipe), torch.from_numpy(train.labels)
    held_out, held_out_labels = features_of(network, validation, recipe), torch.from_numpy(validation.labels)
    mean, spread = features.mean(0), features.std(0) + 1e-6
    x, held_out = (features - mean) / spread, (held_out - mean) / spread
    weight, bias = torch.zeros(len(train.classes), x.shape[1]), torch.zeros(len(train.classes))
    balance = balance_for(recipe, train)
    best = (-1.0, 0, weight, bias)
    rows: list[Row] = []
    for epoch in range(recipe.epochs):
        loss = minimise(weight, bias, x, labels, balance, recipe.weight_decay)
        logits = functional.linear(held_out, weight, bias)
        row: Row = {
            "epoch": epoch + 1,
            "network_size": recipe.network_size,
            "train_loss": loss,
            "train_accuracy": _accuracy(functional.linear(x, weight, bias), labels),
            **validation_scores(logits, held_out_labels),
            "seconds": time.monotonic() - begun,
            "pictures": len(train) if epoch == 0 else 0,
        }
        rows.append(row)
        on_epoch(rows)
        chosen_by = balance.accuracy(logits, held_out_labels)
        if chosen_by > best[0]:
            best = (chosen_by, epoch, weight.clone(), bias.clone())
    _, best_epoch, weight, bias = best
    network = network.cpu()
    with torch.no_grad():  # the standardisation goes into the layer, so that the file needs none
        network.fc.weight.copy_(weight / spread)
        network.fc.bias.copy_(bias - (weight / spread) @ mean)
    return Fitted(network, recipe.network_size, best_epoch, rows, len(train) / rows[-1]["seconds"])


def features_of(network: ResNet18, dataset: Dataset, recipe: Recipe) -> Tensor:
    """Return float32 [N, 512] on the CPU."""
    device = next(network.parameters()).device
    parts = torch.split(torch.from_numpy(dataset.images), BATCH)
    features = []
    with torch.inference_mode(), autocast(recipe, device), Progress("features", len(parts)) as bar:
        for part in parts:
            features.append(network.features(enlarged(part.to(device), recipe.network_size)).float().cpu())
            bar.advance()
    return torch.cat(features)


def minimise(weight: Tensor, bias: Tensor, x: Tensor, labels: Tensor, balance: Balance, decay: float) -> float:
    """Improve weight and bias in place by ITERATIONS steps; return the cross entropy reached."""
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(parameters, max_iter=ITERATIONS, line_search_fn="strong_wolfe")
    loss = torch.zeros(())

    def closure() -> Tensor:
        nonlocal loss
        optimizer.zero_grad()
        loss = balance.loss(functional.linear(x, weight, bias), labels, sampled=False)
        total = loss + decay / 2 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    weight.requires_grad_(False)
    bias.requires_grad_(False)
    return float(loss.detach())


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())
