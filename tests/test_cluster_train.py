"""Training and sweeps on a cluster: killed nodes and drivers cost time, and change nothing of what comes out."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster_kit import Nodes, free_ports
from torch import multiprocessing

from pupila.errors import DataError, TrainingError, install_command
from pupila.training.distributed.process_group import joined

VALUES = ["weights=bundled", "validation_fraction=0.4", "batch_size=54", "network_size=32", "progressive=[]"]
SMALL = [word for value in [*VALUES, "precision=float32", "export=float32"] for word in ("--set", value)]


def start(command: str, photos: Path, runs: Path, *more: str) -> "subprocess.Popen[str]":
    line = [sys.executable, "-m", "pupila", command, str(photos), *SMALL, "--runs", str(runs), *more]
    options = ["--name", "run", "--checkpoint-seconds", "0"]
    return subprocess.Popen([*line, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, process, seconds=1200):
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.05)


def read_rows(path: Path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def lines_of(output: str) -> list[str]:
    """Check that nobody speaks but ourselves, and return what was said."""
    assert not any(word in output for word in ("Ray", "ray.", "pid=", "Warning", "INFO")), output
    return output.splitlines()


@pytest.mark.slow
def test_training_goes_on_when_a_node_is_killed(cluster: Nodes, photos: Path, tmp_path: Path):
    node = cluster.add(num_cpus=1)
    metrics = tmp_path / "run" / "metrics.jsonl"
    more = ["--epochs", "3", "--workers", "2", f"--cluster={cluster.address}"]
    with start("train", photos, tmp_path, *more) as process:
        try:
            wait_for(metrics.exists, process)  # the second epoch has begun
            cluster.kill(node)
            at = len(read_rows(metrics))
            output, _ = process.communicate(timeout=1200)
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert at < 4, "the run was over before the node was killed"
    rows = read_rows(metrics)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]  # 0: the last layer alone, fitted to features
    assert [row["pictures"] for row in rows] == [108] * 4
    lines = lines_of(output)
    told = [sum(line.startswith(f"epoch {n} at") for line in lines) for n in (1, 2, 3)]
    assert max(told) == told[2] == 1, output  # a line may be lost with its node, but none comes twice
    assert lines[-1] == f"Serve it with: pupila serve {tmp_path / 'run' / 'model.onnx'}"


@pytest.mark.slow
def test_sweep_goes_on_when_its_driver_was_killed(cluster: Nodes, photos: Path, tmp_path: Path):
    more = ["--grid", "lr=0.001,0.002", "--set", "epochs=4", f"--cluster={cluster.address}"]
    with start("sweep", photos, tmp_path, *more) as first:
        wait_for(lambda: list(tmp_path.glob("run/*/metrics.jsonl")), first)
        first.kill()
    with start("sweep", photos, tmp_path, *more) as second:
        output, _ = second.communicate(timeout=1200)
    assert second.returncode == 0, output
    lines = lines_of(output)
    assert "2 trials, 0 of them done before" in lines[0]
    assert sorted(line.partition("]")[0] for line in lines if line.startswith("[")) == ["[1/2", "[2/2"]
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [trial["varied"]["learning_rate"] for trial in found["trials"]] == [0.001, 0.002]
    log = (tmp_path / "run" / found["best"] / "log.txt").read_text()
    told = [log.count(f"epoch {n} at") for n in (1, 2, 3, 4)]
    assert max(told) == told[3] == 1, log


def lead_or_fail(rank: int, folder: str, port: int) -> None:
    """One of two workers that look for the pictures; the second is on a machine that does not have them."""
    environment = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in environment.items()})
    with joined() as team:
        try:
            with team.first_on_the_machine():
                if rank == 1:
                    raise DataError("photos: there is no such folder.")
        except TrainingError as error:
            Path(folder, str(rank)).write_text(str(error))


def test_pictures_that_one_machine_lacks_end_all_workers_with_the_reason(tmp_path: Path):
    multiprocessing.spawn(lead_or_fail, (str(tmp_path), *free_ports(1)), nprocs=2)
    said = [(tmp_path / rank).read_text() for rank in "01"]
    assert said[0] == said[1]
    assert said[0].startswith("photos: there is no such folder.") and said[0].endswith("under the same path.")


WITHOUT = ["train digits", "sweep digits --grid lr=0.1,0.2", "predict m.onnx . --out a.csv", "serve"]
ASKED = """
import sys
from click.testing import CliRunner
from pupila.cli import main
sys.modules[sys.argv[1]] = None
for line in sys.argv[2:]:
    done = CliRunner().invoke(main, [*line.split(), "--cluster"])
    print(done.exit_code, done.stderr, end="")
"""


@pytest.mark.parametrize(("lacks", "commands"), [("ray", WITHOUT), ("starlette", WITHOUT[-1:])])
def test_without_the_extra_each_command_says_what_to_install(lacks: str, commands: list[str]):
    line = [sys.executable, "-c", ASKED, lacks, *commands]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, check=False)
    fix = f"Install it with: {install_command('cluster')}"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"1 pupila: Working on a cluster needs an optional part of Pupila. {fix}"
    ] * len(commands)
