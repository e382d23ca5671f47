"""Writes a run's metrics where other tools look for them: TensorBoard's event files, or an MLflow store.

Each is an optional package that is imported only when it is asked for. A run that goes on, goes on in the same log.
"""

import contextlib
import importlib.util
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pupila.errors import MissingExtraError, TrainingError
from pupila.recipe import Recipe

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger("pupila.training")

Row = dict[str, Any]
"""The metrics of one epoch; see fit."""
LOGS = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""The logs there are, and the packages that each needs."""
EXPERIMENT = "pupila"
RUN_ID_FILE = "mlflow-run-id.txt"
MLFLOW_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Read by MLflow's import: it sends nothing unless told to, and does not wait long for a server that is away."""


class Tracker:
    """Takes the rows of all epochs so far after each epoch. This one, for a run without a log, does nothing."""

    stopped = False
    """Whether somebody has stopped the run, which then ends well, but early."""

    def record(self, rows: Sequence[Row]) -> None:
        """Bring the log up to date with `rows`."""


def check_installed(log: str | None) -> None:
    """Raise MissingExtraError if a package that `log` needs is not there: before the data is read, and cheaply."""
    if log is not None and any(importlib.util.find_spec(package) is None for package in LOGS[log]):
        raise MissingExtraError(f"--log {log}", log)


@contextlib.contextmanager
def tracking(log: str | None, folder: Path, recipe: Recipe) -> Iterator[Tracker]:
    """Open the log of the run in `folder`, and close it as finished, as stopped by Ctrl-C, or as failed.

    log: one of LOGS, installed, or None. Raises TrainingError if the log cannot be opened or, for TensorBoard, written.
    An MLflow server that is gone for a while does not end a training: it gets what it missed after the next epoch.
    """
    if log == "tensorboard":
        with _tensorboard(folder) as tracker:
            yield tracker
    elif log == "mlflow":
        with _mlflow(folder, recipe) as tracker:
            yield tracker
    else:
        yield Tracker()


def metrics_of(row: Row) -> Mapping[str, float]:
    """Return a row's numbers by name, without the epoch, which is their step."""
    return {name: float(value) for name, value in row.items() if name != "epoch"}


@contextlib.contextmanager
def _tensorboard(folder: Path) -> Iterator[Tracker]:
    from torch.utils.tensorboard import SummaryWriter

    try:  # purge_step: readers forget what an earlier, killed part of this run wrote
        writer = SummaryWriter(str(folder), purge_step=0)
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be written ({error.strerror}). Choose another --runs.") from error
    with contextlib.closing(writer):
        yield _EventFile(writer)


class _EventFile(Tracker):
    """Begins with the whole history, so that a log is complete even if it was asked for only on the way."""

    def __init__(self, writer: "SummaryWriter") -> None:
        self._writer = writer
        self._written = 0

    def record(self, rows: Sequence[Row]) -> None:
        began = time.time() - rows[-1]["seconds"]
        for row in rows[self._written :]:
            for name, value in metrics_of(row).items():
                self._writer.add_scalar(name, value, row["epoch"], began + row["seconds"])
        self._written = len(rows)
        self._writer.flush()


@contextlib.contextmanager
def _mlflow(folder: Path, recipe: Recipe) -> Iterator[Tracker]:
    for name, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.parent.resolve()}/mlflow.db"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(tracking_uri=store)
        tracker = _MlflowRun(client, _mlflow_run(client, folder, recipe))
    except (MlflowException, OSError) as error:
        raise TrainingError(f"{store}: MLflow cannot use it ({_first_line(error)}).") from error
    status = "FAILED"
    try:
        yield tracker
        status = "KILLED" if tracker.stopped else "FINISHED"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
            status = "KILLED"  # within the first epoch, where fit has no model to return
        raise
    finally:
        with _warning("the end of the run"):
            client.set_terminated(tracker.run_id, status)


class _MlflowRun(Tracker):
    """An epoch that is trained again after a kill is logged again: its seconds are others."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self._client = client
        self.run_id = run_id
        self._logged = {metric.step: metric.value for metric in client.get_metric_history(run_id, "seconds")}

    def record(self, rows: Sequence[Row]) -> None:
        from mlflow.entities import Metric

        began = time.time() - rows[-1]["seconds"]
        with _warning("the metrics; they are sent again after the next epoch"):
            for row in (row for row in rows if self._logged.get(row["epoch"]) != row["seconds"]):
                when = round(1000 * (began + row["seconds"]))
                metrics = [Metric(name, value, when, row["epoch"]) for name, value in metrics_of(row).items()]
                self._client.log_batch(self.run_id, metrics=metrics)
                self._logged[row["epoch"]] = row["seconds"]


@contextlib.contextmanager
def _warning(what: str) -> Iterator[None]:
    """Log MLflow's errors as a warning that it did not take `what`."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        logger.warning(f"MLflow did not take {what}: {_first_line(error)}")


def _mlflow_run(client: "MlflowClient", folder: Path, recipe: Recipe) -> str:
    """Return the run of this folder, begun anew if the folder has none yet or the store does not know it."""
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException

    noted = folder / RUN_ID_FILE
    if noted.exists():
        run_id = noted.read_text(encoding="utf-8").strip()
        with contextlib.suppress(MlflowException):
            client.update_run(run_id, status="RUNNING")
            return run_id
    known = client.get_experiment_by_name(EXPERIMENT)
    experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT)
    run_id = str(client.create_run(experiment, run_name=folder.name).info.run_id)
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in recipe.to_dict().items()])
    noted.write_text(run_id + "\n", encoding="utf-8")
    return run_id


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
