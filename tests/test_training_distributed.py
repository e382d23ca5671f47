"""Several workers: they compute what one computes, count every picture once, and survive the loss of one of them."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from cluster_kit import free_ports
from process_kit import ended, printed, started, wait_for
from torch import multiprocessing
from training_kit import TINY, colours, write_photos

from pupila.errors import TrainingError
from pupila.training.distributed.process_group import ALONE, Team, joined
from pupila.training.loop.batches import batch_count, batches, smallest_batch
from pupila.training.loop.class_weights import Balance, balance_for
from pupila.training.loop.fit import fit
from pupila.training.loop.resnet import ResNet18


class Exact(ResNet18):
    """In float64: in float32 a rounding of 1e-7 turns a ReLU on here and there, and gradients part from then on."""

    def __init__(self, classes):
        super().__init__(classes)
        self.double()

    def forward(self, x):
        return super().forward(x.double())


def fitted_rows(folder, team):
    """Fit a few steps on 60 pictures, of which the first two batches are of 24 and the last of 12."""
    torch.manual_seed(0)
    chosen = replace(TINY, epochs=2, batch_size=24, learning_rate=0.01, batch_norm="frozen")
    checkpoint = folder / f"{team.size}.safetensors"
    return fit(chosen, Exact(3), colours(60), colours(31, seed=1), checkpoint, identity={}, team=team).rows


def work(rank, size, folder, port):
    """What each process of the test's team runs."""
    torch.set_num_threads(1)
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({key: str(value) for key, value in environment.items()}, MASTER_PORT=port)
    with joined() as team:
        rows = fitted_rows(Path(folder), team)
    Path(folder, f"rows-{rank}.json").write_text(json.dumps(rows))


@pytest.mark.slow
def test_two_workers_compute_what_one_computes(tmp_path):
    alone = fitted_rows(tmp_path, ALONE)
    multiprocessing.spawn(work, (2, str(tmp_path), *map(str, free_ports(1))), nprocs=2)
    for rank in (0, 1):
        for ours, theirs in zip(json.loads((tmp_path / f"rows-{rank}.json").read_text()), alone, strict=True):
            for key in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "pictures"):
                assert ours[key] == pytest.approx(theirs[key], rel=1e-5), key


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_parts_of_a_team_hold_every_picture_once(size):
    numbers = list(range(31))
    assert [n for rank in range(size) for n in numbers[Team(rank, size).part(31)]] == numbers


@pytest.mark.parametrize("way", ["none", "sampling"])
def test_shares_of_a_batch_add_up_to_one_and_pictures_are_those_of_one_worker(way):
    data = colours(40).take([0, 1, 2, 3, 6, 9, 12, 15, 18, 21])  # more of red than of the others
    balance = balance_for(replace(TINY, balance=way), data) if way != "none" else Balance("none", torch.ones(3))
    tensors = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    options = {"size": 32, "epoch": 1, "balance": balance}
    recipe = replace(TINY, color_jitter=0.4)
    (whole,) = batches(*tensors, recipe, **options)
    parts = [next(batches(*tensors, recipe, **options, team=Team(rank, 3))) for rank in range(3)]
    assert sum(part.weight for part in parts) == pytest.approx(1)
    assert torch.equal(torch.cat([part.pictures for part in parts]), whole.pictures)
    assert {part.count for part in parts} == {len(data)}


@pytest.mark.parametrize(("pictures", "size"), [(60, 16), (33, 16), (5, 16), (64, 16), (49, 16)])
def test_smallest_batch_is_the_smallest_that_is_yielded(pictures, size):
    data = colours(pictures)
    recipe = replace(TINY, batch_size=size)
    yielded = batches(torch.from_numpy(data.images), torch.from_numpy(data.labels), recipe, size=32, epoch=0)
    counts = [batch.count for batch in yielded]
    assert len(counts) == batch_count(pictures, size)
    assert min(counts) == smallest_batch(pictures, size)


def test_too_many_workers_for_a_batch_are_refused(tmp_path):
    recipe = replace(TINY, batch_size=2)
    with pytest.raises(TrainingError, match="3 workers cannot share the smallest batch, of 2 pictures"):
        fit(recipe, ResNet18(3), colours(18), colours(9), tmp_path / "c", identity={}, team=Team(0, 3))


VALUES = ["weights=none", "batch_size=64", "network_size=32", "progressive=[]", "export=float32"]


@pytest.mark.slow
def test_run_goes_on_by_itself_when_a_worker_is_killed(tmp_path):
    photos, metrics = write_photos(tmp_path / "photos", 60), tmp_path / "team" / "metrics.jsonl"
    options = ["--workers", 2, "--epochs", 3, "--runs", ".", "--name", "team", "--checkpoint-seconds", 0]
    with started(tmp_path, "train", photos, *options, *(f"--set={value}" for value in VALUES)) as process:
        wait_for(metrics.exists, process, tmp_path)  # the second epoch has begun
        below = psutil.Process(process.pid).children(recursive=True)
        workers = [worker for worker in below if "spawn_main" in " ".join(worker.cmdline())]
        assert len(workers) == 2
        heard = [c.laddr.ip for each in [psutil.Process(process.pid), *below] for c in each.net_connections("inet")]
        assert heard and set(heard) <= {"127.0.0.1", "::1"}  # nobody else can reach what they tell each other
        workers[1].kill()
        output = ended(process, tmp_path)
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["pictures"] for row in rows] == [54, 54, 54]
    assert output.count("epoch 1 at") == 1 and (tmp_path / "team" / "model.onnx").exists()


@pytest.mark.slow
def test_ctrl_c_leaves_the_checkpoint_of_several_workers_and_says_so(tmp_path):
    photos, metrics = write_photos(tmp_path / "photos", 60), tmp_path / "runs/team/metrics.jsonl"
    options = ["--workers", 2, "--epochs", 90, "--name", "team", "--checkpoint-seconds", 0]
    with started(tmp_path, "train", photos, *options, *(f"--set={value}" for value in VALUES)) as process:
        wait_for(metrics.exists, process, tmp_path)
        below = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGINT)
        process.join(300)
        assert process.exitcode == 130, printed(tmp_path)
    kept = "has a checkpoint, and no model file yet. Go on with: pupila train --resume --name team"
    assert f"runs/team: {kept}" in printed(tmp_path).splitlines()
    assert not psutil.wait_procs(below, 60)[1]
