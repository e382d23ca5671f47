"""On a Ray cluster: killed nodes, drivers and replicas cost time, and change nothing of what comes out."""

import contextlib
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import psutil
import pytest
from batch_kit import count_answers
from cluster_kit import ARCHIVE, NAMES, Load, Nodes, deploy, fill_with_photos, free_ports, serve_command
from process_kit import ended, printed, started, wait_for

from pupila.batch import predict_all
from pupila.manifest import METADATA_KEY, UNSEALED, Manifest, sealed
from pupila.models import bundled_model
from pupila.predictor import Predictor

pytest.importorskip("ray")
parquet: Any = pytest.importorskip("pyarrow.parquet")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # each starts many processes, on machines that do much else

VALUES = ["weights=bundled", "validation_fraction=0.4", "batch_size=54", "network_size=32", "progressive=[]"]
SMALL = [*(f"--set={value}" for value in [*VALUES, "precision=float32", "export=float32"])]
SMALL += ["--name", "run", "--checkpoint-seconds", "0"]


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def lines_of(output: str) -> list[str]:
    """Check that nobody speaks but ourselves, and return what was said."""
    assert not any(word in output for word in ("Ray", "ray.", "pid=", "Warning", "INFO")), output
    return output.splitlines()


def test_prediction_loses_and_repeats_nothing_when_a_node_is_killed(cluster: Nodes, tmp_path: Path) -> None:
    folder, model = tmp_path / "photos", bundled_model()
    origin = fill_with_photos(folder, 500)
    (folder / "broken.png").write_bytes(b"no picture")
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    predict_all(model, [folder], here, say=lambda _: None)
    node = cluster.add(num_cpus=1)
    with started(tmp_path, "predict", model, folder, "--out", there, f"--cluster={cluster.address}") as job:
        # Best while that node works; but a fast head may be halfway before the node has loaded the model.
        wait_for(lambda: count_answers(there) >= (300 if cluster.predicts(node) else 750), job, tmp_path)
        cluster.kill(node)
        killed_at = count_answers(there)
        job.join(600)
    assert job.exitcode == 1, printed(tmp_path)  # one file is no picture
    lines_of(printed(tmp_path))
    assert killed_at < 1501, "the job was over before the node was killed"
    rows = parquet.read_table(there).to_pylist()
    assert len({row["path"] for row in rows}) == len(rows) == 1501
    assert rows == parquet.read_table(here).to_pylist()
    if origin == ARCHIVE:
        right = [row["category"] == Path(row["path"]).parent.name for row in rows if row["error"] is None]
        assert sum(right) / len(right) > 0.8, NAMES


def test_training_goes_on_when_a_node_is_killed(cluster: Nodes, photos: Path, tmp_path: Path) -> None:
    node = cluster.add(num_cpus=1)
    metrics = tmp_path / "run" / "metrics.jsonl"
    more = ["--epochs", "3", "--workers", "2", f"--cluster={cluster.address}"]
    with started(tmp_path, "train", photos, *SMALL, "--runs", tmp_path, *more) as process:
        wait_for(metrics.exists, process, tmp_path)  # the second epoch has begun
        cluster.kill(node)
        at = len(read_rows(metrics))
        output = ended(process, tmp_path)
    assert at < 4, "the run was over before the node was killed"
    rows = read_rows(metrics)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]  # 0: the last layer alone, fitted to features
    assert [row["pictures"] for row in rows] == [108] * 4
    lines = lines_of(output)
    told = [sum(line.startswith(f"epoch {n} at") for line in lines) for n in (1, 2, 3)]
    assert max(told) == told[2] == 1, output  # a line may be lost with its node, but none comes twice
    assert lines[-1] == f"Serve it with: pupila serve {tmp_path / 'run' / 'model.onnx'}"


def test_sweep_goes_on_when_its_driver_was_killed(cluster: Nodes, photos: Path, tmp_path: Path) -> None:
    more = ["--runs", tmp_path, "--grid", "lr=0.001,0.002", "--set", "epochs=4", f"--cluster={cluster.address}"]
    with started(tmp_path, "sweep", photos, *SMALL, *more) as first:
        wait_for(lambda: list(tmp_path.glob("run/*/metrics.jsonl")), first, tmp_path)
    before = len(printed(tmp_path))
    with started(tmp_path, "sweep", photos, *SMALL, *more) as second:
        lines = lines_of(ended(second, tmp_path)[before:])
    assert "2 trials, 0 of them done before" in lines[0]
    assert sorted(line.partition("]")[0] for line in lines if line.startswith("[")) == ["[1/2", "[2/2"]
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [trial["varied"]["learning_rate"] for trial in found["trials"]] == [0.001, 0.002]
    log = (tmp_path / "run" / found["best"] / "log.txt").read_text()
    told = [log.count(f"epoch {n} at") for n in (1, 2, 3, 4)]
    assert max(told) == told[3] == 1, log


def replicas(nodes: Nodes) -> set[int]:
    """Return the ids of the processes that run a replica, on this cluster and no other."""
    found = set()
    for node in nodes.cluster.list_all_nodes():
        for raylet in node.all_processes["raylet"]:
            for child in psutil.Process(raylet.process.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "ServeReplica:pupila:" in " ".join(child.cmdline()):
                        found.add(child.pid)
    return found


def renamed(model: Path, path: Path) -> Path:
    """Write the same model under another name: another version, with the same answers."""
    file = onnx.load(model)
    (entry,) = [entry for entry in file.metadata_props if entry.key == METADATA_KEY]
    entry.value = replace(Manifest.from_json(entry.value), name="renamed", sha256=UNSEALED).to_json()
    path.write_bytes(sealed(file.SerializeToString()))
    return path


def test_killed_processes_and_a_new_model_under_load_fail_no_request(
    cluster: Nodes, photos: Path, tmp_path: Path
) -> None:
    first, second = bundled_model(), renamed(bundled_model(), tmp_path / "second.onnx")
    photo = sorted(photos.rglob("*.*"))[0]
    expected = Predictor.load(first).predict(photo)
    port, other = free_ports(2)
    node = cluster.add(num_cpus=1)
    try:
        deploy(first, port, cluster.address)
        before = replicas(cluster)
        assert len(before) == 2
        refused = serve_command(first, other, cluster.address)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith(
            f"pupila: Ray Serve runs on this cluster already, at 127.0.0.1, port {port}. Give"
        )
        with Load([f"http://127.0.0.1:{port}"], photo.read_bytes()) as load:
            load.wait_for(20)
            os.kill(min(before), signal.SIGKILL)
            load.wait_for(20)
            deploy(second, port, cluster.address)
            load.wait_for(40)
        versions = [Predictor.load(model).version for model in (first, second)]
        assert {a.status for a in load.answers} == {200}, [a for a in load.answers if a.status != 200][:3]
        assert {a.category for a in load.answers} == {expected.top[0].category}
        assert {a.version for a in load.answers} == set(versions)
        assert {a.version for a in load.answers[-20:]} == {versions[1]}
    finally:
        cluster.kill(node)
