"""A run's metrics in TensorBoard's own files, read back by its own reader, also after --resume."""

import json
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from training_kit import write_photos

from pupila.cli import main
from pupila.training import tensorboard
from pupila.training.tensorboard import event_file

FAST = [
    *("--weights", "none", "--set", "batch_size=16", "--set", "network_size=32", "--set", "progressive=[]"),
    *("--set", "export=float32"),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("data") / "photos")


def train(photos, runs, *more):
    command = ["train", str(photos), "--runs", str(runs), "--name", "run", "--log", "tensorboard", *FAST, *more]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (runs / "run" / "metrics.jsonl").read_text().splitlines()]
    return {row["epoch"]: row["validation_accuracy"] for row in rows}


def kept_until_killed(rows, folder):
    """What a run killed within its third epoch leaves: two epochs that count, and one that was logged and is lost."""
    with event_file(folder) as record:
        for count in (1, 2, 3):
            record(rows[:count])


def row(epoch, accuracy, later=0.0):
    return {"epoch": epoch, "validation_accuracy": accuracy, "seconds": epoch + later, "pictures": 9}


ROWS = [row(1, 0.25), row(2, 0.5), row(3, 0.125)]
RESUMED = [*ROWS[:2], row(3, 0.75, later=0.1), row(4, 1.0, later=0.1)]


def scalars(folder, name="validation_accuracy"):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def test_tensorboard_reads_what_training_wrote(photos, tmp_path):
    pytest.importorskip("tensorboard")
    written = train(photos, tmp_path, "--epochs", "2", "--set", "batch_size=40")  # a step an epoch
    assert len(written) == 2 and scalars(tmp_path / "run") == pytest.approx(written)


def test_resumed_run_goes_on_in_the_same_tensorboard_log(tmp_path):
    pytest.importorskip("tensorboard")
    kept_until_killed(ROWS, tmp_path)
    with event_file(tmp_path) as record:
        record(RESUMED[:3])
        record(RESUMED)
    assert scalars(tmp_path) == {1: 0.25, 2: 0.5, 3: 0.75, 4: 1.0}


def test_log_without_its_package_says_what_to_install_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(tensorboard, "PACKAGE", "a_package_that_nobody_has")
    done = CliRunner().invoke(main, ["train", "nowhere", "--log", "tensorboard"])
    assert done.exit_code == 1 and re.search(r"--log tensorboard needs .*\[tensorboard\]", done.output), done.output


def test_training_without_a_log_does_not_load_the_package():
    code = "import sys, pupila.training.train; print('tensorboard' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"
