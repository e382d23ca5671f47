"""Training and sweeps on a cluster: killed nodes and drivers cost time, and change nothing of what comes out."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster_kit import Nodes
from PIL import Image
from training_kit import colours

VALUES = ["weights=none", "sample=120", "batch_size=32", "network_size=32", "progressive=[]", "precision=float32"]
SMALL = [word for value in [*VALUES, "export=float32"] for word in ("--set", value)]


def start(command: str, runs: Path, *more: str, data: "str | Path" = "digits") -> "subprocess.Popen[str]":
    line = [sys.executable, "-W", "ignore", "-m", "pupila", command, str(data), *SMALL, "--runs", str(runs), *more]
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


@pytest.mark.slow
def test_training_goes_on_when_a_node_is_killed(cluster: Nodes, tmp_path: Path):
    node = cluster.add(num_cpus=1)
    metrics = tmp_path / "run" / "metrics.jsonl"
    more = ["--epochs", "4", "--workers", "2", f"--cluster={cluster.address}"]
    with start("train", tmp_path, *more) as process:
        try:
            wait_for(metrics.exists, process)  # the second epoch has begun
            cluster.kill(node)
            at = len(read_rows(metrics))
            output, _ = process.communicate(timeout=1200)
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert at < 4, "the run was over before the node was killed"
    assert [row["pictures"] for row in read_rows(metrics)] == [110] * 4
    assert (tmp_path / "run" / "model.onnx").exists()


@pytest.mark.slow
def test_sweep_goes_on_when_its_driver_was_killed(cluster: Nodes, tmp_path: Path):
    more = ["--grid", "lr=0.001,0.002", "--set", "epochs=2", f"--cluster={cluster.address}"]
    with start("sweep", tmp_path, *more) as first:
        wait_for(lambda: list(tmp_path.glob("run/*/result.json")), first)
        first.kill()
    done = {path: path.read_text() for path in tmp_path.glob("run/*/result.json")}
    with start("sweep", tmp_path, *more) as second:
        output, _ = second.communicate(timeout=1200)
    assert second.returncode == 0, output
    assert "2 trials, 1 of them done before" in output
    assert all(path.read_text() == text for path, text in done.items())
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(found["trials"]) == 2 and (tmp_path / "run" / "model.onnx").exists()


@pytest.mark.parametrize("command", ["train digits --workers 2", "sweep digits --grid lr=0.1,0.2"])
def test_without_the_extra_it_says_what_to_install(command: str):
    code = (
        f"import sys; sys.modules['ray'] = None; from pupila.cli import main; main({[*command.split(), '--cluster']})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("Install it with: pip install 'pupila[cluster]'")


@pytest.mark.slow
def test_trial_that_falls_behind_is_stopped_early(cluster: Nodes, tmp_path: Path):
    photos = tmp_path / "photos"
    data = colours(90)
    for number, (picture, label) in enumerate(zip(data.images, data.labels, strict=True)):
        path = photos / data.classes[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    more = ["--grid", "lr=0.01,1e-8", "--set", "epochs=8", f"--cluster={cluster.address}", "--stop-early"]
    with start("sweep", tmp_path, *more, data=photos) as process:
        output, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, output
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [trial["varied"]["learning_rate"] for trial in found["trials"]] == [0.01]
    assert [failure["reason"] for failure in found["failures"]] == ["Stopped early: other trials were better by then."]
