"""The trials of a sweep as tasks of Ray, spread over a cluster.

Ray places trials, and gives those of a node that is lost to another. Each trial writes its checkpoints and what became
of it into the runs folder, which every node must find under the same path, as it must the pictures. So a trial goes on
anywhere, and a sweep whose driver died goes on with the same command, on the cluster or without one.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import ray
from ray.exceptions import RayError

from pupila.cluster.connect import HERE, check_weights, connected, full, gave_up, has_gpus
from pupila.progress import printing_to
from pupila.training.distributed.ranks import RESTARTS
from pupila.training.sweeps.trial import Execute, Job, Outcome, run_job

log = logging.getLogger("pupila.training")


def on_cluster(address: str = HERE) -> Execute:
    """Return what runs the jobs on all cores of a cluster, a core or GPU each."""

    def execute(jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            check_weights(job.trial.recipe)
        with connected(address):
            placed = trial.options(num_cpus=1, num_gpus=int(has_gpus()))
            waiting = [placed.remote(replace(j, source=full(j.source), folder=j.folder.resolve())) for j in jobs]
            for number in range(1, len(jobs) + 1):
                (done,), waiting = ray.wait(waiting)
                try:
                    outcome: Outcome = ray.get(done)
                except RayError as error:
                    raise gave_up(error, "The same command goes on.") from error
                log.info(f"[{number}/{len(jobs)}] {outcome.trial}")
                yield outcome

    return execute


@ray.remote(max_retries=RESTARTS)
def trial(job: Job) -> Outcome:
    """Run a job on a node as on one machine."""
    with printing_to(job.folder):
        return run_job(job)
