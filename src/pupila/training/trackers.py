"""Writes a run's metrics where other tools look for them: TensorBoard's event files, or an MLflow store.

Each is an optional package that is imported only when it is asked for. A run that goes on, goes on in the same log.
"""

import contextlib
import importlib.util
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pupila.errors import MissingExtraError, TrainingError
from pupila.recipe import Recipe

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

logger = logging.getLogger("pupila.training")

Row = dict[str, Any]
"""The metrics of one epoch; see fit."""
LOGS = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""The logs there are, and the packages that each needs."""
EXPERIMENT = "pupila"
RUN_ID_FILE = "mlflow-run-id.txt"
BATCH = 1000
"""Metrics that MLflow takes at once."""


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
    if log is None:
        yield Tracker()
    elif log == "tensorboard":
        with _tensorboard(folder) as tracker:
            yield tracker
    else:
        with _mlflow(folder, recipe) as tracker:
            yield tracker


def metrics_of(row: Row) -> Mapping[str, float]:
    """Return a row's numbers by name, without the epoch, which is their step."""
    return {name: float(value) for name, value in row.items() if name != "epoch"}


@contextlib.contextmanager
def _tensorboard(folder: Path) -> Iterator[Tracker]:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    try:
        writer = EventFileWriter(str(folder))
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be written ({error.strerror}). Choose another --runs.") from error
    with contextlib.closing(writer):
        yield _EventFile(writer)


class _EventFile(Tracker):
    """Begins with the whole history, so that a log is complete even if it was asked for only on the way."""

    def __init__(self, writer: "EventFileWriter") -> None:
        self._writer = writer
        self._written = 0

    def record(self, rows: Sequence[Row]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        now = time.time()
        if not self._written:  # tells readers to forget what an earlier, killed part of this run wrote
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=now, step=rows[0]["epoch"], session_log=start))
        for row in rows[self._written :]:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics_of(row).items()]
            when = now - rows[-1]["seconds"] + row["seconds"]
            self._writer.add_event(Event(wall_time=when, step=row["epoch"], summary=Summary(value=values)))
        self._written = len(rows)
        self._writer.flush()


@contextlib.contextmanager
def _mlflow(folder: Path, recipe: Recipe) -> Iterator[Tracker]:
    # Read by MLflow's import: it sends nothing unless told to, and does not wait long for a server that is away.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
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
        tracker.end(status)


class _MlflowRun(Tracker):
    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._logged = {
            (name, metric.step): metric.value
            for name in client.get_run(run_id).data.metrics
            for metric in client.get_metric_history(run_id, name)
        }
        """An epoch that is trained again after a kill is logged again only where it differs."""

    def record(self, rows: Sequence[Row]) -> None:
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        now = time.time()
        fresh = [
            Metric(name, value, round(1000 * (now - rows[-1]["seconds"] + row["seconds"])), row["epoch"])
            for row in rows
            for name, value in metrics_of(row).items()
            if not _same(self._logged.get((name, row["epoch"])), value)
        ]
        try:
            with _ctrl_c_later():
                for first in range(0, len(fresh), BATCH):
                    self._client.log_batch(self._run_id, metrics=fresh[first : first + BATCH])
        except MlflowException as error:
            logger.warning(
                f"MLflow did not take the metrics; they are sent again after the next epoch: {_first_line(error)}"
            )
        else:
            self._logged |= {(metric.key, metric.step): metric.value for metric in fresh}

    def end(self, status: str) -> None:
        """Say how the run ended."""
        from mlflow.exceptions import MlflowException

        try:
            with _ctrl_c_later():
                self._client.set_terminated(self._run_id, status)
        except MlflowException as error:
            logger.warning(f"MLflow did not take the end of the run: {_first_line(error)}")


def _same(one: float | None, other: float) -> bool:
    return one == other or (one is not None and math.isnan(one) and math.isnan(other))


@contextlib.contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block: within a transaction it would leave the store locked, even for us."""
    if threading.current_thread() is not threading.main_thread():
        yield  # which hears of no signals
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            signal.raise_signal(signal.SIGINT)


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
