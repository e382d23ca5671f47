"""Data-parallel training on a cluster: the workers of pupila.training, placed, watched and started again by Ray Train.

Every node must find the pictures and the runs folder under the same path. A worker or node that is lost costs what was
trained since the last checkpoint: Ray starts the workers again, on the nodes that are left, and since what a batch
holds does not depend on how many share it, fewer of them go on with the same batches.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util import get_node_ip_address

from pupila.cluster.connect import HERE, check_weights, connected, full, gave_up, has_gpus, shown
from pupila.errors import PupilaError, TrainingError
from pupila.progress import printing_to
from pupila.training.distributed.process_group import meet_on_the_network_of
from pupila.training.distributed.ranks import RESTARTS, check, take_part
from pupila.training.train import TrainJob


def train_on_cluster(job: TrainJob, workers: int, address: str = HERE) -> Path:
    """Train with up to `workers` workers, one core or GPU each, and return the model file.

    Raises what train() raises, SettingsError if no cluster is there, and TrainingError if more than RESTARTS workers
    were lost.
    """
    check_weights(job.recipe)
    check(job)
    folder = job.folder.resolve()
    paths: dict[str, Any] = {key: value.resolve() for key, value in vars(job.data).items() if isinstance(value, Path)}
    data = replace(job.data, source=full(job.data.source), **paths)
    # Only a checkpoint of this run can be in the folder: a worker that is started again goes on with it.
    job = replace(job, data=data, folder=folder, resume=True)
    with connected(address), shown(folder):
        gpus = has_gpus()
        trainer = TorchTrainer(
            _work,  # type: ignore[arg-type] # here and below: ray.train's types are those of its older interface
            train_loop_config={"job": job},
            torch_config=OnOneNetwork("nccl" if gpus else "gloo"),
            scaling_config=ScalingConfig(num_workers=(1, workers), use_gpu=gpus),  # type: ignore[arg-type]
            run_config=RunConfig(
                name="ray", storage_path=str(folder), failure_config=FailureConfig(max_failures=RESTARTS)
            ),
        )
        try:
            outcome: Mapping[str, str] = trainer.fit().return_value  # type: ignore[attr-defined]
        except Exception as error:
            raise gave_up(error, "Go on with --resume.") from error
    if "error" in outcome:
        raise TrainingError(outcome["error"])
    return Path(outcome["model"])


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc] # Ray's own has no public name
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Do as Ray does, once each worker knows on which network it reaches the first."""
        worker_group.execute(meet_on_the_network_of, worker_group.execute_single(0, get_node_ip_address))
        super().on_start(worker_group, backend_config)


class OnOneNetwork(TorchConfig):
    """Ray's way to a process group, on the network that the nodes know each other by."""

    @property
    def backend_cls(self) -> type:
        """Return what sets it up."""
        return _Backend


def _work(config: Mapping[str, Any]) -> dict[str, str]:
    """What each worker runs. An error that a person can act on is an answer: starting again would not help."""
    job: TrainJob = config["job"]
    try:
        with printing_to(job.folder):
            return {"model": str(take_part(job) or "")}
    except PupilaError as error:
        return {"error": str(error)}
