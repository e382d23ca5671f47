"""The training loop, from tensors and a recipe to the best weights.

One epoch: augmented batches -> loss -> SGD step; then validation, and the best weights are kept.
A run ends when its epochs or minutes are over, when validation stays flat, when the loss diverges, or at Ctrl-C.
Stopped at any instruction, a run goes on from its last checkpoint and ends with the same weights bit for bit (on a CPU
with the same number of threads; by epochs, not by minutes).
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pupila._arguments import counted
from pupila.data import Dataset
from pupila.errors import TrainingError
from pupila.images import Pixels
from pupila.progress import progress_bar
from pupila.recipe import Recipe
from pupila.training.distributed.process_group import ALONE, Team
from pupila.training.loop.batches import Batch, batch_count, batches, smallest_batch
from pupila.training.loop.checkpoint import (
    Position,
    load_checkpoint,
    momentum_of,
    not_whole,
    restore_momentum,
    save_checkpoint,
)
from pupila.training.loop.class_weights import Balance, balance_for, validation_scores
from pupila.training.loop.device import autocast, keep_memory, pick_device
from pupila.training.loop.optim import learning_rate, set_learning_rate, sgd
from pupila.training.loop.resnet import ResNet18, enlarged
from pupila.training.loop.signals import StopSignals
from pupila.training.outliers import exposed
from pupila.training.teacher import SHARE, Teacher

CHECKPOINT_SECONDS = 60.0
"""Between two checkpoints: what a killed run loses at most."""

COOLDOWN = 0.1
"""Share of the run in which the rate falls to zero once validation is flat."""
LEAST_TRAINED = 0.1
"""Share of a budget in minutes that is left to train, whatever comes before and after. Behind a fitted last layer less
is left out: so few steps bring nothing, and their validation takes as long (docs/experiments.md)."""
PATIENCE = 6
"""Epochs without a better validation score, at least, that count as flat."""
MIDWAY = 0.5
"""Where between the fitted last layer's weights and the trained ones those lie that are kept of few pictures. Such
averages are right more often than either end (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022)."""
MIDWAY_EPOCHS = 4
"""Epochs from which on they may validate a standard error worse than the fitted layer and be kept: two or three at the
height of the rate, which a short budget allows at a large size, do harm that few validation pictures do not show."""
DIVERGED = 10.0
"""The loss has diverged where its average over ten steps is above so many times (1 + log of the classes): untrained
weights give about the logarithm, and a few times that while they find their way."""

Row = dict[str, Any]
OnEpoch = Callable[[Sequence[Row]], None]
"""Called after each epoch with the metrics of all epochs so far."""


@dataclass(frozen=True)
class Fitted:
    """What a run ends with: the network with its best weights, on the CPU, and the size these were validated at."""

    network: ResNet18
    network_size: int
    best_epoch: int
    rows: list[Row]
    examples_per_second: float
    stopped: bool = False
    """True if Ctrl-C ended it before its time."""
    ended: str = ""
    """Why it ended before its time, in one sentence; empty if it did not."""


@dataclass(frozen=True)
class _Files:
    """Where and how often the run is saved, and what it must agree with to be resumed."""

    checkpoint: Path
    seconds: float
    identity: Mapping[str, Any]


class _Diverged(Exception):  # noqa: N818, it ends a run in order
    """The loss is not finite, or far above that of untrained weights."""


@dataclass
class _Run:
    """The moving parts of one run, passed from step to step."""

    recipe: Recipe
    device: torch.device
    network: ResNet18
    optimizer: torch.optim.SGD
    position: Position
    best: dict[str, Tensor]
    files: _Files
    balance: Balance
    team: Team
    outliers: Tensor | None
    teacher: Teacher | None
    forward: nn.Module
    """The network as it is called in training: with several workers its backward pass averages their gradients."""
    saved: float
    """When the last checkpoint was written, on the clock of time.monotonic."""
    recent_loss: float
    """Moving average of the loss over about ten steps."""
    start: dict[str, Tensor] = field(default_factory=dict)
    """The weights with the fitted last layer, where batch norm is frozen; else empty."""
    signals: StopSignals = field(default_factory=StopSignals)

    def keep_weights(self, network: nn.Module) -> None:
        """Take these weights for the best so far."""
        self.best = _copied(network)

    def midway(self) -> ResNet18:
        """Return the network that may be kept: the trained one, or of few pictures one MIDWAY to it from the start."""
        if not self.start:
            return self.network
        network = copy.deepcopy(self.network)
        with torch.no_grad():
            for name, trained in network.named_parameters():
                trained.lerp_(self.start[name], 1 - MIDWAY)
        return network

    def save_if_due(self) -> None:
        """Write a checkpoint if the last one is old enough, as short epochs shall not be spent on writing.

        Or if somebody asked to stop, and then do so.
        """
        if self.signals.asked is not None or time.monotonic() - self.saved > self.files.seconds:
            self.save()
        if self.signals.asked is not None:
            self.signals.stop()

    def save(self) -> None:
        """Write a checkpoint; of several workers, which are all in the same state, the first does."""
        if not self.team.leads:
            return
        groups = {
            "network": self.network.state_dict(),
            "momentum": momentum_of(self.optimizer),
            "best": self.best,
            "start": self.start,
        }
        save_checkpoint(self.files.checkpoint, self.position, groups, self.files.identity)
        self.saved = time.monotonic()


def fit(
    recipe: Recipe,
    network: ResNet18,
    train: Dataset,
    validation: Dataset,
    checkpoint: Path,
    *,
    identity: Mapping[str, Any],
    resume: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    on_epoch: OnEpoch = lambda _: None,
    team: Team = ALONE,
    outliers: Pixels | None = None,
    teacher: Teacher | None = None,
    head: Row | None = None,
    spent: float = 0.0,
    reserve: float = 0.0,
) -> Fitted:
    """Train until there is a reason to end, see above; return the best epoch's weights.

    identity: what a checkpoint must agree with to be resumed. team: the workers that share each batch. outliers:
    pictures uint8 [M, H, W, 3] of none of the classes, to be answered with doubt. teacher: what is
    learned beside the labels. head: metrics of the network as it
    is, if its last layer is fitted: epoch 0, which the others have to beat. spent, reserve: seconds of a budget in
    minutes that are over, and that are kept for what follows; a tenth of the budget is left to train whatever they are,
    or, behind a fitted last layer, none if it would be less.
    Raises TrainingError if the checkpoint cannot be written or belongs to another run, or if the run was stopped, or
    its loss diverged, before there was a model.
    """
    files = _Files(checkpoint, checkpoint_seconds, identity)
    team.check(smallest_batch(len(train), recipe.batch_size), len(validation))
    run = _begin(files, recipe, network, balance_for(recipe, train), resume, team, outliers, teacher)
    if is_new := not run.position.steps and not run.position.rows:
        _plan(run, team.firsts(spent), team.firsts(reserve), fitted=head is not None)
    if head is not None and not run.position.rows:
        _count_head(run, {name: type(value)(team.firsts(value)) for name, value in head.items()})
        on_epoch(run.position.rows)
    if is_new:
        run.position.begun = run.position.seconds
    pictures, labels = (torch.from_numpy(values).to(run.device) for values in (train.images, train.labels))
    steps_per_epoch = batch_count(len(train), recipe.batch_size)
    if team.size == 1:
        run.signals.install()
    try:
        while _goes_on(run.position, progress := _progress(recipe, run.position, steps_per_epoch)):
            size = size_at(recipe, progress)
            _train_epoch(run, pictures, labels, size, steps_per_epoch)
            _validate_epoch(run, validation, size)
            if recipe.minutes and not run.position.cooldown and is_flat(recipe, run.position, progress):
                run.position.cooldown = _progress(recipe, run.position, steps_per_epoch)
            run.save_if_due()
            on_epoch(run.position.rows)
        run.save()
    except KeyboardInterrupt as stop:
        if run.position.best_epoch < 0:
            raise TrainingError(
                "Stopped before the first epoch was over: there is no model yet. Go on with --resume."
            ) from stop
        kept = f"Ended early by Ctrl-C after {counted(run.position.epoch, 'epoch')}: the best model so far is kept."
        return replace(_finish(run), stopped=True, ended=kept)
    except _Diverged:
        advice = _advice(run)
        return replace(_finish(run), ended=advice)
    finally:
        run.signals.remove()
    return replace(_finish(run), ended=_why_ended(run))


def _plan(run: _Run, spent: float, reserve: float, fitted: bool) -> None:
    """Note the seconds of a budget in minutes that are over, and those that are kept for what follows."""
    budget = 60 * run.recipe.minutes
    most = (1 - LEAST_TRAINED) * budget
    if fitted and spent + reserve > most:
        run.position.seconds = min(spent, budget)
        run.position.reserve = budget - run.position.seconds
    else:
        run.position.seconds = min(spent, most)
        run.position.reserve = min(reserve, most - run.position.seconds)


def _goes_on(position: Position, progress: float) -> bool:
    """Return True if an epoch is left to train, or one that was trained before a kill is left to validate."""
    return progress < end_of(position) or position.batch > 0


def end_of(position: Position) -> float:
    """Return the progress at which a run ends: 1, or sooner once validation was flat and the rate falls to zero."""
    return min(1.0, position.cooldown + COOLDOWN) if position.cooldown else 1.0


def is_flat(recipe: Recipe, position: Position, progress: float) -> bool:
    """Return True if validation has not risen for so many epochs that it is unlikely to: a third of them, at least 6.

    Not while the rate still climbs or the pictures are still small.
    """
    best = max(range(len(position.rows)), key=lambda row: _ranking(position.rows[row]))
    waited = len(position.rows) - 1 - best
    settled = progress > recipe.warmup and position.rows[-1]["network_size"] == recipe.network_size
    return settled and waited >= max(PATIENCE, len(position.rows) // 3)


def _ranking(row: Row) -> tuple[int, float]:
    return row["network_size"], row["validation_balanced_accuracy"]


def _why_ended(run: _Run) -> str:
    """Say why a run ended before its time, if it did."""
    if run.recipe.minutes and not run.position.epoch:
        minutes = counted(run.recipe.minutes, "minute")
        return (
            f"Only the last layer was fitted: with the model files it takes {minutes}. More would train the rest, too."
        )
    if not run.position.cooldown or run.position.cooldown + COOLDOWN >= 1:
        return ""
    return (
        f"Ended after {run.position.seconds / 60:.1f} of {counted(run.recipe.minutes, 'minute')}: validation had been "
        "flat for so long that it was unlikely to rise."
    )


def _advice(run: _Run) -> str:
    """Say that the loss diverged and what to do; raise it as TrainingError if no model is worth keeping."""
    rate = run.recipe.learning_rate
    trouble = (
        f"The loss diverged in epoch {run.position.epoch + 1}, far above that of untrained weights: a learning rate of "
        f"{rate:g} is too high. Try --set learning_rate={min(rate / 10, 0.05):g}"
    )
    classes = run.network.fc.out_features
    if run.position.best_epoch < 0 or run.position.best <= 1.2 / classes:
        raise TrainingError(f"{trouble}; there is no model.")
    best = run.position.rows[run.position.best_epoch]
    return f"{trouble}. The best model so far is kept: valid acc {best['validation_accuracy']:.3f}."


def _count_head(run: _Run, head: Row) -> None:
    """Take the network as it is for the best so far, and its time into account."""
    position = run.position
    position.seconds = max(position.seconds, head["seconds"])
    position.rows.append({**head, "seconds": position.seconds})
    position.head = head["validation_balanced_accuracy" if run.balance.way != "none" else "validation_accuracy"]
    position.best, position.best_epoch, position.best_size = position.head, 0, head["network_size"]
    run.keep_weights(run.network)
    if run.recipe.batch_norm == "frozen":
        run.start = _copied(run.network)


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def size_at(recipe: Recipe, progress: float) -> int:
    """Return the network size at `progress` in 0 to 1 of the run."""
    end = 0.0
    for size, share in recipe.progressive:
        end += share
        if progress < end - 1e-9:
            return size
    return recipe.network_size


def validate(network: ResNet18, dataset: Dataset, size: int, recipe: Recipe, batch: int = 250) -> Tensor:
    """Return logits float32 [N, K] at network size `size`, averaged with the mirror image if the recipe says so."""
    device = next(network.parameters()).device
    network.eval()
    logits = []
    with torch.inference_mode(), autocast(recipe, device):
        for part in torch.split(torch.from_numpy(dataset.images), batch):
            x = enlarged(part.to(device), size)
            views = [x, x.flip(3)] if recipe.flip_average == "on" else [x]
            logits.append(torch.stack([network(view).float().cpu() for view in views]).mean(0))
    return torch.cat(logits)


def set_training_mode(network: ResNet18, recipe: Recipe) -> None:
    """Set training mode; frozen batch norm keeps the statistics that the backbone brought."""
    network.train()
    if recipe.batch_norm == "frozen":
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _begin(
    files: _Files, recipe: Recipe, network: ResNet18, balance: Balance, resume: bool, team: Team,
    outliers: Pixels | None, teacher: Teacher | None = None,
) -> _Run:  # fmt: skip
    keep_memory()
    device = pick_device()
    network = team.synced(network.to(device, memory_format=torch.channels_last).train())  # type: ignore[call-overload]
    optimizer = sgd(network, recipe)
    forward = team.wrapped(network)
    strange = None if outliers is None else torch.from_numpy(outliers).to(device)
    run = _Run(
        recipe, device, network, optimizer, Position(), {}, files, balance, team, strange, teacher, forward,
        time.monotonic(), math.log(network.fc.out_features),
    )  # fmt: skip
    if resume and files.checkpoint.exists():
        run.position, groups = load_checkpoint(files.checkpoint, files.identity)
        _restore(run, files.checkpoint, groups)
    team.agree(run.position.steps, files.identity)
    return run


def _restore(run: _Run, path: Path, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Give the run its weights and momentum back; raises TrainingError where they are not those of this network."""
    try:
        run.network.load_state_dict(groups["network"])
        shapes = {name: value.shape for name, value in run.network.state_dict().items()}
        for name in ("best", "start"):
            group = groups.get(name, {})
            if group and {key: value.shape for key, value in group.items()} != shapes:
                raise ValueError(f"it has no valid {name}")
        parameters, momentum = list(run.network.parameters()), groups.get("momentum", {})
        if any(value.shape != parameters[int(number)].shape for number, value in momentum.items()):
            raise ValueError("it has no valid momentum")
        restore_momentum(run.optimizer, momentum)
    except (IndexError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise not_whole(path, error) from error
    run.best, run.start = (dict(groups.get(name, {})) for name in ("best", "start"))


def _progress(recipe: Recipe, position: Position, steps_per_epoch: int) -> float:
    """Return the share of the steps that is over: of their epochs, or of minutes and most epochs, what is further.

    1 where the fitted last layer has used the minutes up.
    """
    if not recipe.minutes:
        return position.steps / (recipe.epochs * steps_per_epoch)
    by_epochs = position.steps / (recipe.max_epochs * steps_per_epoch) if recipe.max_epochs else 0.0
    left = 60 * recipe.minutes - position.reserve - position.begun
    return max((position.seconds - position.begun) / left if left > 0 else 1.0, by_epochs)


def _rate(recipe: Recipe, position: Position, progress: float) -> float:
    """Return the rate of the schedule, or from the moment that validation was flat on, a fall to zero."""
    if not position.cooldown:
        return learning_rate(recipe, progress, position.epoch)
    rest = 1 - (progress - position.cooldown) / max(end_of(position) - position.cooldown, 1e-9)
    return learning_rate(recipe, position.cooldown, position.epoch) * max(rest, 0.0)


def _train_epoch(run: _Run, pictures: Tensor, labels: Tensor, size: int, steps_per_epoch: int) -> None:
    """Go through the rest of the current epoch; ends early when a budget in minutes is used up."""
    recipe, position = run.recipe, run.position
    begun = time.monotonic()
    set_training_mode(run.network, recipe)
    label = f"epoch {position.epoch + 1} at {size} px"
    with progress_bar(label, steps_per_epoch, hidden=not run.team.leads) as bar:
        bar.update(position.batch)
        for batch in _batches(run, pictures, labels, size):
            progress = _progress(recipe, position, steps_per_epoch)
            if progress >= end_of(position):
                break
            position.rate = _rate(recipe, position, progress)
            set_learning_rate(run.optimizer, position.rate)
            loss, correct = _step(run, batch)
            position.loss_sum += loss * batch.count
            position.correct += correct
            position.seen += batch.count
            position.batch += 1
            position.steps += 1
            position.seconds = run.team.firsts(position.seconds + (now := time.monotonic()) - begun)
            begun = now
            run.save_if_due()
            bar.update(1)


def _batches(run: _Run, pictures: Tensor, labels: Tensor, size: int) -> Iterator[Batch]:
    """Return the rest of the current epoch."""
    recipe, team, position = run.recipe, run.team, run.position
    where: dict[str, Any] = {"size": size, "epoch": position.epoch, "start": position.batch, "team": team}
    plain = batches(pictures, labels, recipe, balance=run.balance, **where)
    return plain if run.outliers is None else exposed(plain, run.outliers, recipe, **where)


def _step(run: _Run, batch: Batch) -> tuple[float, int]:
    """One SGD step; returns the mean loss and the number of right answers, of the whole batch."""
    with autocast(run.recipe, run.device):
        logits = run.forward(batch.pictures).float()
    logits, strange = logits.split([len(batch.labels), len(logits) - len(batch.labels)])
    loss = run.balance.loss(logits, batch.labels, run.recipe.label_smoothing) * batch.weight
    if run.teacher is not None:
        loss = (1 - SHARE) * loss + SHARE * run.teacher.loss(logits, batch.rows) * batch.weight
    if len(strange):  # the cross entropy with all classes equally likely
        loss = loss - run.recipe.outlier_loss * batch.outlier_weight * strange.log_softmax(1).mean()
    right = int((logits.argmax(1) == batch.labels).sum())
    value, correct = run.team.sums(loss.item(), right)
    run.recent_loss += 0.1 * (value - run.recent_loss)
    if not run.recent_loss <= DIVERGED * math.log(logits.shape[1]) + DIVERGED:  # true for nan, too
        raise _Diverged
    run.optimizer.zero_grad()
    (loss * run.team.size).backward()  # type: ignore[no-untyped-call] # gradients are averaged, shares add up
    run.optimizer.step()
    return value, int(correct)


def _validate_epoch(run: _Run, validation: Dataset, size: int) -> None:
    """Validate the weights, keep them if they are as good as the best at this size, and begin the next epoch.

    As good: at most one standard error worse. A few hundred pictures do not tell such epochs apart, and of these the
    latest is the best bet, as its rate was the lowest (after the one-standard-error rule of Breiman et al., 1984).
    Never worse than the fitted last layer that training started from, but for that error where weights lie midway
    after MIDWAY_EPOCHS.
    """
    position, begun = run.position, time.monotonic()
    part = run.team.part(len(validation))
    mine = Dataset(validation.images[part], validation.labels[part], validation.classes)
    network = run.midway()
    logits = run.team.gathered(validate(network, mine, size, run.recipe), len(validation))
    labels = torch.from_numpy(validation.labels)
    if not torch.isfinite(logits).all():
        raise _Diverged
    chosen_by = run.balance.accuracy(logits, labels)
    if size > position.best_size:
        position.best, position.best_size = chosen_by, size
    standard_error = math.sqrt(position.best * (1 - position.best) / len(validation))
    trusted = run.start and position.epoch + 1 >= MIDWAY_EPOCHS
    least = position.best - standard_error if trusted else max(position.best - standard_error, position.head)
    if size == position.best_size and chosen_by >= least:
        position.best, position.best_epoch = max(position.best, chosen_by), len(position.rows)
        run.keep_weights(network)
    seen = max(position.seen, 1)
    position.seconds = run.team.firsts(position.seconds + time.monotonic() - begun)
    row: Row = {
        "epoch": position.epoch + 1,
        "network_size": size,
        "learning_rate": position.rate,
        "train_loss": position.loss_sum / seen,
        "train_accuracy": position.correct / seen,
        **validation_scores(logits, labels),
        "seconds": position.seconds,
        "pictures": position.seen,
    }
    position.rows.append(row)
    position.epoch, position.batch = position.epoch + 1, 0
    position.loss_sum, position.correct, position.seen = 0.0, 0, 0


def _finish(run: _Run) -> Fitted:
    position = run.position
    network = ResNet18(run.network.fc.out_features, run.network.pooling)
    network.load_state_dict(run.best)
    seen = sum(row["pictures"] for row in position.rows)
    speed = seen / position.seconds if position.seconds else 0.0
    return Fitted(network.eval(), position.best_size, position.best_epoch, position.rows, speed)
