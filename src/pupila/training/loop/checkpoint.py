"""A run's whole state in one safetensors file, written beside and renamed: a killed run goes on where it was.

Tensors are weights, optimizer momentum and the best weights so far; JSON in the header holds the rest.
No pickle. Random state is not stored, since every draw follows from (seed, epoch, batch).
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pupila._files import SMALL, from_json, is_figure, json_object, replacing
from pupila.errors import TrainingError
from pupila.training.state_file import check_header

MAX_BYTES = 2**30
"""Of a checkpoint: with 20,000 classes it has some 350 MB."""
FIGURES = (
    "epoch", "network_size", "train_loss", "train_accuracy", "validation_accuracy", "validation_balanced_accuracy",
    "pictures", "seconds",
)  # fmt: skip
"""Of an epoch's row, what the training reads again."""
COUNTS = (
    "epoch", "batch", "steps", "seconds", "reserve", "correct", "seen", "best_size", "cooldown", "rate", "begun",
)  # fmt: skip
"""Of a position, what is never below zero: a training that had done so many steps less would not end."""


@dataclass
class Position:
    """How far a run has come; all plain numbers."""

    epoch: int = 0
    batch: int = 0
    """Batches done in this epoch."""
    steps: int = 0
    seconds: float = 0.0
    """Time spent so far, over all starts, with what came before the first step."""
    reserve: float = 0.0
    """Seconds of the budget that are kept for what follows the last step: the model file and the report."""
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    """Pictures this epoch, and over them the sum of the loss and the number of right answers."""
    best: float = -1.0
    best_epoch: int = -1
    """Its place in `rows`."""
    best_size: int = 0
    """Network size that the best weights were validated at."""
    head: float = -1.0
    """What the fitted last layer that training started from scored; -1 without one."""
    cooldown: float = 0.0
    """Progress at which validation was found to be flat; 0 before that."""
    rate: float = 0.0
    """The schedule's rate at the last step."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """One mapping of metrics an epoch."""
    begun: float = 0.0
    """Seconds that were over before the first step, where the schedule begins."""


def save_checkpoint(
    path: Path, position: Position, groups: Mapping[str, Mapping[str, Tensor]], identity: Mapping[str, Any]
) -> None:
    """Write atomically. groups: tensors under names such as `network`, `momentum`, `best`.

    identity: recipe and data fingerprint, compared at resume. Raises TrainingError if the disk is full.
    """
    tensors = {f"{group}/{name}": t.contiguous() for group, named in groups.items() for name, t in named.items()}
    header = {"position": json.dumps(dataclasses.asdict(position)), "identity": json.dumps(identity, sort_keys=True)}
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, header)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{path}: cannot be written ({error}). Make room on the disk; resume with --resume."
        ) from error


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> tuple[Position, dict[str, dict[str, Tensor]]]:
    """Read a checkpoint; raises TrainingError if it is damaged or of another recipe or data set."""
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it is no file of at most {MAX_BYTES // 2**20:,} MiB")
        check_header(path, SMALL)
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118, it is not a mapping
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = file.get_tensor(key)
        position = from_json(Position, json_object(header["position"]))
        _check_position(position)
        theirs = json_object(header["identity"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise not_whole(path, error) from error
    check_identity(path, identity, theirs)
    return position, groups


def not_whole(path: Path, error: Exception) -> TrainingError:
    """Return what to raise for a checkpoint that something is missing from, or is of another kind."""
    return TrainingError(f"{path}: is not a whole checkpoint ({str(error)[:200]}). Delete it and train again.")


def _check_position(position: Position) -> None:
    wrong = next((name for name in COUNTS if not is_figure(name, getattr(position, name))), "")
    are_figures = all(
        isinstance(row, dict) and row.keys() >= set(FIGURES) and all(is_figure(*item) for item in row.items())
        for row in position.rows
    )
    wrong = wrong if are_figures else "rows"
    wrong = wrong if -1 <= position.best_epoch < len(position.rows) else "best_epoch"
    if wrong:
        raise ValueError(f"it has no valid {wrong}")


def check_identity(path: Path, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Raise TrainingError that names what differs, unless both are the identity of one run."""
    theirs = theirs if isinstance(theirs, dict) else {}
    ours, recipe = json.loads(json.dumps(ours)), theirs.get("recipe")
    ours = {**ours, **ours.get("recipe", {})}
    theirs = {**theirs, **(recipe if isinstance(recipe, dict) else {})}
    different = sorted(k for k in ours.keys() | theirs.keys() if k != "recipe" and ours.get(k) != theirs.get(k))
    if different:
        changes = ", ".join(
            "the pictures are others" if key == "data" else f"{key} was {theirs.get(key)} and is {ours.get(key)}"
            for key in different
        )
        raise TrainingError(f"{path}: is of another run ({changes}). Use the same settings, or another --name.")


def momentum_of(optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """Return SGD's momentum buffers by the parameter's number; empty before the first step."""
    state = optimizer.state_dict()["state"]
    return {
        str(number): values["momentum_buffer"]
        for number, values in state.items()
        if values.get("momentum_buffer") is not None
    }


def restore_momentum(optimizer: torch.optim.SGD, momentum: Mapping[str, Tensor]) -> None:
    """Give SGD its momentum buffers back."""
    state = optimizer.state_dict()
    state["state"] = {int(number): {"momentum_buffer": tensor} for number, tensor in momentum.items()}
    optimizer.load_state_dict(state)
