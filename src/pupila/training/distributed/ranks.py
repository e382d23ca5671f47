"""One training by several processes of this machine, or as one of the processes that torchrun has started.

Starting them, noticing that one is lost and starting all of them again is torchelastic's; each start goes on from the
last checkpoint. Knows nothing of how the work is shared: that is distributed.py.
"""

import signal
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pupila.errors import PupilaError, TrainingError
from pupila.progress import printed_log, quiet_log
from pupila.recipe import Recipe
from pupila.training.distributed.process_group import joined, restarted
from pupila.training.loop.device import usable_threads
from pupila.training.loop.fit import CHECKPOINT_SECONDS
from pupila.training.prepare import prepare
from pupila.training.run_folder import holds_run, is_finished
from pupila.training.train import assist, refuse_to_overwrite, train

RESTARTS = 10
"""How many times a run survives that a worker is lost."""


@dataclass(frozen=True)
class Order:
    """Everything that a training is told, to be sent to other processes; see train()."""

    source: str
    recipe: Recipe
    folder: Path
    resume: bool = False
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    checkpoints: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else train() takes: size, labels, feedback, outliers, log."""

    @property
    def of_data(self) -> dict[str, Any]:
        """The options that decide what is trained on, which every worker needs."""
        return {key: value for key, value in self.options.items() if key != "log"}


def take_part(order: Order) -> Path | None:
    """Train as one of the team that this process belongs to, or alone; return the model, None if another leads."""
    if restarted():
        order.folder.mkdir(parents=True, exist_ok=True)  # it may have been lost before it had made one
        order = replace(order, resume=True)
        if holds_run(order.folder) and is_finished(order.folder):
            return order.folder / "model.onnx"  # lost after its last instruction
    with joined() as team:
        if not team.leads:
            assist(
                order.source, order.recipe, order.folder, team, resume=order.resume, checkpoints=order.checkpoints,
                **order.of_data,
            )  # fmt: skip
            return None
        return train(
            order.source, order.recipe, order.folder, resume=order.resume,
            checkpoint_seconds=order.checkpoint_seconds, team=team, checkpoints=order.checkpoints, **order.options,
        ).model  # fmt: skip


def check(order: Order) -> None:
    """Raise what is wrong with the order before any worker starts, and put the data into the cache for them."""
    refuse_to_overwrite(order.folder, order.resume)
    with quiet_log():  # the first worker says it again
        prepare(order.source, order.recipe, **order.of_data)
    order.folder.mkdir(parents=True, exist_ok=True)


def train_with_workers(order: Order, workers: int, threads: int | None = None) -> Path:
    """Train with so many processes on this machine, and return the model file.

    Every process gets its share of the machine's threads. Raises what train() raises, and TrainingError if workers
    were lost more than RESTARTS times.
    """
    check(order)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=workers, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=RESTARTS, start_method="spawn",
    )  # fmt: skip
    threads = threads or max(1, usable_threads() // workers)
    try:
        done: dict[int, dict[str, str]] = elastic_launch(config, _work)(order, threads)
    except ChildFailedError as error:
        raise TrainingError(
            f"A worker was lost or failed {RESTARTS + 1} times: {_reason(error)}. Go on with --resume."
        ) from error
    except SignalException as error:  # torchelastic's name for Ctrl-C
        raise KeyboardInterrupt from error
    for outcome in done.values():
        if "error" in outcome:
            raise TrainingError(outcome["error"])
    return Path(done[0]["model"])


def _work(order: Order, threads: int) -> dict[str, str]:
    """What each process runs. An error that a person can act on is an answer: starting again would not help."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # workers stop at once; the run is taken up with --resume
    torch.set_num_threads(threads)
    try:
        with printed_log():
            return {"model": str(take_part(order) or "")}
    except PupilaError as error:
        return {"error": str(error)}


def _reason(error: ChildFailedError) -> str:
    """Return the first line of what the first failing worker said."""
    failures: list[Any] = list(error.failures.values())
    return str(failures[0].message).strip().splitlines()[0] if failures else "no reason was given"
