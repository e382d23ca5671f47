"""Networks that do as they are told, and runs of the training loop that write nothing: for histories made up."""

from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_pre_hook
from training_kit import TINY, colours

from pupila.training.distributed.process_group import ALONE
from pupila.training.loop.class_weights import EVEN
from pupila.training.loop.fit import _begin, _Files, fit
from pupila.training.loop.resnet import ResNet18

VALIDATION = colours(30, seed=1)
"""What a scripted network answers; the class of picture number n is n % 3."""


def answers(right, count, classes):
    """Logits [count, classes] that are right for the first `right` pictures of colours(), and wrong for the others."""
    labels = torch.arange(count) % classes
    given = torch.where(torch.arange(count) < right, labels, (labels + 1) % classes)
    return 3.0 * functional.one_hot(given, classes).float()


class Scripted(ResNet18):
    """Learns next to nothing at next to no cost, and answers so many validation pictures right, epoch by epoch."""

    def __init__(self, right, classes=3, breaks_at=None):
        super().__init__(classes)
        self.right, self.breaks_at, self.steps = list(right), breaks_at, 0

    def forward(self, x):
        if not self.training:
            return answers(self.right.pop(0), len(x), self.fc.out_features)
        self.steps += 1
        trouble = float("nan") if self.steps == self.breaks_at else 1.0
        return trouble * self.fc(x.mean((1, 2, 3)).unsqueeze(1).expand(-1, self.fc.in_features) / 32)


class Small(nn.Module):
    """The same with hardly a weight: in training it gives the logits that it was handed."""

    def __init__(self, right=(), classes=3, logits=None):
        super().__init__()
        self.fc = nn.Linear(1, classes)
        self.right, self.logits = list(right), logits
        self.register_buffer("validated", torch.zeros(()))

    def forward(self, x):
        if self.training:
            return self.logits + 0 * self.fc.weight.sum()
        self.validated += 1
        return answers(self.right.pop(0), len(x), self.fc.out_features)


def begun(network, recipe=TINY, balance=EVEN):
    """A run before its first step, which writes nothing by itself."""
    files = _Files(Path("never-written"), 1e9, {})
    return _begin(files, recipe, network, balance, resume=False, team=ALONE, outliers=None)


def scripted_run(recipe, right, folder, count=60, breaks_at=None, **options):
    """A whole run of a network whose validation is scripted."""
    torch.manual_seed(0)
    network = Scripted(right, breaks_at=breaks_at)
    return fit(recipe, network, colours(count), VALIDATION, folder / "checkpoint.safetensors", identity={}, **options)


@contextmanager
def recorded_rates():
    """Yield a list that gets, at each step of any optimiser, the rate of each group of parameters."""
    rates = []

    def note(optimizer, *_):
        rates.append([group["lr"] for group in optimizer.param_groups])

    handle = register_optimizer_step_pre_hook(note)
    try:
        yield rates
    finally:
        handle.remove()


def slow_one_cycle(peak, warmup, progress):
    """Up in a straight line from a twentieth of the peak, and down in another one to zero."""
    if progress >= 1:
        return 0.0
    if progress < warmup:
        return peak / 20 + (peak - peak / 20) * (progress / warmup)
    return peak - peak * ((progress - warmup) / (1 - warmup))


def slow_is_flat(recipe, rows, progress):
    """Go through the epochs one by one and count those since the last that was better than all before it."""
    best, since = (0, -1.0), 0
    for row in rows:
        score = (row["network_size"], row["validation_balanced_accuracy"])
        best, since = (score, 0) if score > best else (best, since + 1)
    at_full_size = rows[-1]["network_size"] == recipe.network_size
    return progress > recipe.warmup and at_full_size and since >= 6 and since >= len(rows) // 3
