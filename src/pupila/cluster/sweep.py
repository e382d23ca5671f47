"""The trials of a sweep, spread over a cluster by Ray Tune; those that fall behind can be stopped early.

Ray Tune places trials, and starts one again whose node was lost. Each trial writes its checkpoints and what became of
it into the runs folder, which every node must find under the same path, as it must the pictures. So a trial goes on
anywhere, and a sweep whose driver died goes on with the same command, on the cluster or without one.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler

from pupila.cluster.connect import HERE, check_weights, connected, full, gave_up, has_gpus
from pupila.progress import printing_to
from pupila.training.distributed.ranks import RESTARTS
from pupila.training.loop.fit import Row
from pupila.training.sweeps.trial import Execute, Failure, Job, Outcome, read_result, read_stopped, run_job

log = logging.getLogger("pupila.training")

FIRST_RUNG = 25
"""Per cent of a trial's epochs before it can be stopped; the second and last rung is at twice that."""


def on_cluster(address: str = HERE, stop_early: bool = False) -> Execute:
    """Return what runs the jobs on all cores of a cluster, a core or GPU each.

    stop_early: at each rung the better half of the trials that have come so far goes on, as a sweep chooses (ASHA:
    Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020).
    """

    def execute(jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            check_weights(job.trial.recipe)
        by_name = {j.trial.name: replace(j, source=full(j.source), folder=j.folder.resolve()) for j in jobs}
        with connected(address):
            _tune(by_name, stop_early)
        for name, job in by_name.items():
            unknown = Failure(name, job.trial.group, "The cluster gave up on it; the same command tries it again.")
            yield read_result(job) or read_stopped(job) or _failure(job) or unknown

    return execute


def _tune(jobs: Mapping[str, Job], stop_early: bool) -> None:
    scheduler = AsyncHyperBandScheduler(
        time_attr="per_cent", metric="judged", mode="max", max_t=100, grace_period=FIRST_RUNG,
        reduction_factor=2,
    )  # fmt: skip
    folder = next(iter(jobs.values())).folder.parent
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_trial, jobs=dict(jobs)), {"cpu": 1, "gpu": int(has_gpus())}),
        param_space={"trial": tune.grid_search(list(jobs))},
        # A process that has done a trial does the next one: it has loaded PyTorch already.
        tune_config=tune.TuneConfig(scheduler=scheduler if stop_early else None, reuse_actors=True),
        run_config=tune.RunConfig(
            name="ray", storage_path=str(folder), failure_config=tune.FailureConfig(max_failures=RESTARTS), verbose=0,
            callbacks=[Told(len(jobs))],
        ),
    )  # fmt: skip
    try:
        tuner.fit()
    except Exception as error:
        raise gave_up(error, "The same command goes on.") from error


class Told(tune.Callback):
    """Says which trials are over, as they end; it is asked on the machine where the command was given."""

    def __init__(self, total: int) -> None:
        self._over, self._total = 0, total

    def on_trial_complete(self, *_: Any, trial: Any, **__: Any) -> None:  # type: ignore[override]
        """Print its number and name."""
        self._over += 1
        log.info(f"[{self._over}/{self._total}] {trial.config['trial']}")

    on_trial_error = on_trial_complete  # type: ignore[assignment]


def _trial(config: Mapping[str, str], jobs: Mapping[str, Job]) -> None:
    """What runs on a node: the same trial as without a cluster, which tells Ray Tune of each epoch."""
    job = jobs[config["trial"]]
    with printing_to(job.folder):
        outcome = run_job(job, lambda rows: _tell(job, rows))
    if isinstance(outcome, Failure):
        (job.folder / "failed.txt").write_text(outcome.reason)


def _failure(job: Job) -> Failure | None:
    path = job.folder / "failed.txt"
    return Failure(job.trial.name, job.trial.group, path.read_text()) if path.exists() else None


def _tell(job: Job, rows: Sequence[Row]) -> None:
    """Report the newest epoch; Ray Tune raises SystemExit here in a trial that it stops.

    Not the last one: a trial that has come to its end is not to be stopped any more, but to write its model.
    """
    recipe, row = job.trial.recipe, rows[-1]
    done = row["seconds"] / (60 * recipe.minutes) if recipe.minutes else len(rows) / max(recipe.epochs, 1)
    if done < 1:
        tune.report({"judged": row[job.judged_by], "per_cent": round(100 * done)})
