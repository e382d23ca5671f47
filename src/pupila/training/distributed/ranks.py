"""One training by several processes of this machine, or as one of the processes that torchrun has started.

Starting them, noticing that one is lost and starting all of them again is torchelastic's; each start goes on from the
last checkpoint. How the work is shared is decided in process_group.py.
"""

import signal
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pupila.errors import PupilaError, TrainingError
from pupila.progress import printed_log, quiet_log
from pupila.training.distributed.process_group import joined, meeting_place, restarted
from pupila.training.loop.device import usable_threads
from pupila.training.prepare import prepare
from pupila.training.run_folder import holds_run, is_finished
from pupila.training.train import TrainJob, assist, refuse_to_overwrite, train

RESTARTS = 10
"""How many times a run survives that a worker is lost."""


def take_part(job: TrainJob) -> Path | None:
    """Train as one of the team that this process belongs to, or alone; return the model, None if another leads."""
    if restarted():
        job.folder.mkdir(parents=True, exist_ok=True)  # it may have been lost before it had made one
        job = replace(job, resume=True)
        if holds_run(job.folder) and is_finished(job.folder):
            return job.folder / "model.onnx"  # lost after its last instruction
    with joined() as team:
        if team.leads:
            return train(job, team).model
        assist(job, team)
    return None


def check(job: TrainJob) -> None:
    """Raise what is wrong with the job before any worker starts, and put the data into the cache for them."""
    refuse_to_overwrite(job.folder, job.resume)
    with quiet_log():  # the first worker says it again
        prepare(job.data, job.recipe)
    job.folder.mkdir(parents=True, exist_ok=True)


def train_with_workers(job: TrainJob, workers: int, threads: int | None = None) -> Path:
    """Train with so many processes on this machine, and return the model file.

    Every process gets its share of the machine's threads. Raises what train() raises, and TrainingError if workers
    were lost more than RESTARTS times.
    """
    check(job)
    threads = threads or max(1, usable_threads() // workers)
    try:
        with meeting_place() as place:
            config = LaunchConfig(
                min_nodes=1, max_nodes=1, nproc_per_node=workers, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
                rdzv_endpoint=str(place / "agents"), rdzv_configs={"store_type": "file"}, local_addr="127.0.0.1",
                max_restarts=RESTARTS, start_method="spawn",
            )  # fmt: skip
            done: dict[int, dict[str, str]] = elastic_launch(config, _work)(job, threads)
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


def _work(job: TrainJob, threads: int) -> dict[str, str]:
    """What each process runs. An error that a person can act on is an answer: starting again would not help."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # workers stop at once; the run is taken up with --resume
    torch.set_num_threads(threads)
    try:
        with printed_log():
            return {"model": str(take_part(job) or "")}
    except PupilaError as error:
        return {"error": str(error)}


def _reason(error: ChildFailedError) -> str:
    """Return the first line of what the first failing worker said."""
    failures: list[Any] = list(error.failures.values())
    return str(failures[0].message).strip().splitlines()[0] if failures else "no reason was given"
