"""A run's metrics in TensorBoard's and MLflow's own stores, read back by their own readers, also after --resume."""

import contextlib
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner
from training_kit import write_photos

from pupila.cli import main
from pupila.errors import MissingExtraError, TrainingError
from pupila.recipe import Recipe
from pupila.training import trackers
from pupila.training.trackers import tracking

FAST = [
    *("--weights", "none", "--set", "batch_size=16", "--set", "network_size=32", "--set", "progressive=[]"),
    *("--set", "export=float32"),
]

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's use of SQLAlchemy


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("data") / "photos")


def train(photos, runs, log, *more):
    command = ["train", str(photos), "--runs", str(runs), "--name", "run", "--log", log, *FAST, *more]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (runs / "run" / "metrics.jsonl").read_text().splitlines()]
    return {row["epoch"]: row["validation_accuracy"] for row in rows}


def kept_until_killed(rows, folder, log):
    """What a run killed within its third epoch leaves: two epochs that count, and one that was logged and is lost."""
    with tracking(log, folder, Recipe()) as tracker:
        for count in (1, 2, 3):
            tracker.record(rows[:count])


def row(epoch, accuracy, later=0.0):
    return {"epoch": epoch, "validation_accuracy": accuracy, "seconds": epoch + later, "pictures": 9}


ROWS = [row(1, 0.25), row(2, 0.5), row(3, 0.125)]
RESUMED = [*ROWS[:2], row(3, 0.75, later=0.1), row(4, 1.0, later=0.1)]


def scalars(folder, name="validation_accuracy"):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def train_until_ctrl_c(photos, runs, *arguments):
    impatient = threading.Thread(target=press_ctrl_c_after_an_epoch, args=[runs / "run" / "metrics.jsonl"])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        impatient.start()
        return train(photos, runs, *arguments)
    finally:
        impatient.join()
        signal.signal(signal.SIGINT, before)


def press_ctrl_c_after_an_epoch(metrics):
    limit = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < limit:
        time.sleep(0.01)
    if metrics.exists():
        os.kill(os.getpid(), signal.SIGINT)


def test_tensorboard_reads_what_training_wrote(photos, tmp_path):
    pytest.importorskip("tensorboard")
    written = train(photos, tmp_path, "tensorboard", "--epochs", "2", "--set", "batch_size=40")  # a step an epoch
    assert len(written) == 2 and scalars(tmp_path / "run") == pytest.approx(written)


def test_resumed_run_goes_on_in_the_same_tensorboard_log(tmp_path):
    pytest.importorskip("tensorboard")
    kept_until_killed(ROWS, tmp_path, "tensorboard")
    with tracking("tensorboard", tmp_path, Recipe()) as tracker:
        tracker.record(RESUMED[:3])
        tracker.record(RESUMED)
    assert scalars(tmp_path) == {1: 0.25, 2: 0.5, 3: 0.75, 4: 1.0}


def mlflow_client(runs):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{runs}/mlflow.db")


def mlflow_run(client):
    (run,) = client.search_runs([client.get_experiment_by_name("pupila").experiment_id])
    return run


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder with an empty MLflow store: making its tables takes several seconds."""
    pytest.importorskip("mlflow")
    folder = tmp_path_factory.mktemp("store")
    mlflow_client(folder).search_experiments()
    return folder / "mlflow.db"


def test_mlflow_reads_what_training_wrote_also_after_ctrl_c_and_resume(photos, store, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(store, tmp_path)
    epochs = ("--epochs", "5", "--checkpoint-seconds", "0")
    stopped = train_until_ctrl_c(photos, tmp_path, "mlflow", *epochs)
    client = mlflow_client(tmp_path)
    assert mlflow_run(client).info.status == "KILLED"
    expected = train(photos, tmp_path, "mlflow", *epochs, "--resume")
    assert 1 <= len(stopped) < len(expected) == 5
    run = mlflow_run(client)
    history = client.get_metric_history(run.info.run_id, "validation_accuracy")
    assert {metric.step: metric.value for metric in history} == expected
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["batch_size"] == "16"


def test_resumed_run_goes_on_in_the_same_mlflow_run(store, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(store, tmp_path)
    folder = tmp_path / "resumed"
    kept_until_killed(ROWS, folder, "mlflow")
    with tracking("mlflow", folder, Recipe()) as tracker:
        tracker.record(RESUMED[:3])
        tracker.record(RESUMED)
    client = mlflow_client(tmp_path)
    history = client.get_metric_history(mlflow_run(client).info.run_id, "validation_accuracy")
    assert [(m.step, m.value) for m in history] == [(1, 0.25), (2, 0.5), (3, 0.125), (3, 0.75), (4, 1.0)]


def test_metric_that_is_not_a_number_is_logged_once_an_epoch(store, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(store, tmp_path)
    rows = [row(1, math.nan), row(2, 0.5)]
    for _ in range(2):  # the second time, what is there is read from the store
        with tracking("mlflow", tmp_path / "run", Recipe()) as tracker:
            tracker.record(rows[:1])
            tracker.record(rows)
    client = mlflow_client(tmp_path)
    history = client.get_metric_history(mlflow_run(client).info.run_id, "validation_accuracy")
    assert [(m.step, str(m.value)) for m in history] == [(1, "nan"), (2, "0.5")]


def test_run_that_fails_is_marked_as_failed(store, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(store, tmp_path)
    with pytest.raises(TrainingError, match="no longer finite"), tracking("mlflow", tmp_path / "run", Recipe()):
        raise TrainingError("no longer finite")
    assert mlflow_run(mlflow_client(tmp_path)).info.status == "FAILED"


def test_run_that_is_stopped_within_its_first_epoch_is_not_marked_as_failed(store, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(store, tmp_path)
    with pytest.raises(TrainingError, match="no model yet"), tracking("mlflow", tmp_path / "run", Recipe()):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise TrainingError("there is no model yet") from None
    assert mlflow_run(mlflow_client(tmp_path)).info.status == "KILLED"


def test_store_that_is_gone_for_a_while_gets_what_it_missed(store, tmp_path, monkeypatch, caplog):
    shutil.copy(store, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with tracking("mlflow", tmp_path / "run", Recipe()) as tracker:
        tracker.record(ROWS[:1])
        with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
            other.execute("ALTER TABLE metrics RENAME TO away")
            tracker.record(ROWS[:2])
            other.execute("ALTER TABLE away RENAME TO metrics")
        tracker.record(ROWS)
    client = mlflow_client(tmp_path)
    history = client.get_metric_history(mlflow_run(client).info.run_id, "validation_accuracy")
    assert {metric.step: metric.value for metric in history} == {1: 0.25, 2: 0.5, 3: 0.125}
    assert "MLflow did not take the metrics; they are sent again after the next epoch" in caplog.text


def test_mlflow_store_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://here")
    with pytest.raises(TrainingError, match="nonsense://here: MLflow cannot use it"):
        tracking("mlflow", tmp_path / "run", Recipe()).__enter__()


@pytest.mark.parametrize("log", trackers.LOGS)
def test_log_without_its_package_says_what_to_install_before_anything_is_read(log, monkeypatch):
    monkeypatch.setitem(trackers.LOGS, log, ("a_package_that_nobody_has",))
    with pytest.raises(MissingExtraError, match=rf"--log {log} needs .* pip install -e '.*\[{log}\]'"):
        trackers.check_installed(log)


def test_training_without_a_log_loads_neither_package():
    code = (
        "import sys, pupila.training.train as t; t.check_installed(None); t.tracking(None, None, None).__enter__(); "
        "print(sorted({'tensorboard', 'mlflow', 'sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
