"""A teacher: its answers by name, its part of the loss by hand, and the command that takes it."""

import json
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import server_kit
import torch
from click.testing import CliRunner
from loop_kit import TINY, Small, begun
from server_kit import COLOURS, write_model
from training_kit import write_photos

from pupila.cli import main
from pupila.data import Dataset
from pupila.errors import DataError
from pupila.evaluation import evaluate
from pupila.predictor import Predictor
from pupila.training.loop.batches import Batch, batches
from pupila.training.loop.fit import _step
from pupila.training.teacher import SHARE, TEMPERATURE, Teacher, read_teacher

NAMES = ("blue", "white", "red")
"""Three of the four classes that the model of plain colours knows, in another order than it has them."""


def plain(labels, size=32):
    """One picture of one colour for each label."""
    pictures = np.stack([np.full((size, size, 3), COLOURS[NAMES[label]], np.uint8) for label in labels])
    return Dataset(pictures, np.asarray(labels, np.int64), NAMES)


def test_its_answers_are_found_by_the_classes_names(tmp_path):
    model = write_model(tmp_path / "colours.onnx")
    teacher = read_teacher(model, plain([0, 1, 2, 2]))
    assert teacher.accuracy == 1 and teacher.fingerprint == Predictor.load(model).version
    predictor = Predictor.load(model)
    for row, label in enumerate([0, 1, 2, 2]):
        logits = predictor.logits(plain([label]).images)[0]
        raised = [math.exp(logits[predictor.manifest.classes.index(name)] / TEMPERATURE) for name in NAMES]
        assert teacher.probabilities[row].tolist() == pytest.approx([one / sum(raised) for one in raised], rel=1e-4)


def test_pictures_of_another_size_are_resized_for_it(tmp_path):
    model = write_model(tmp_path / "colours.onnx")
    small, large = (read_teacher(model, plain([0, 1, 2], size)) for size in (32, 48))
    assert torch.allclose(small.probabilities, large.probabilities, atol=1e-3)


def test_large_pictures_that_it_asks_for_are_made_a_batch_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(server_kit, "SIZE", 512)
    monkeypatch.setattr(evaluate, "usable_cores", lambda: 2)
    model = write_model(tmp_path / "large.onnx")
    training = plain(np.arange(400) % 3)
    tracemalloc.start()
    assert read_teacher(model, training).accuracy == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 290 * 2**20, "all pictures are 300 MiB, and were held twice; to load a model takes 256"


def test_one_that_lacks_a_class_or_knows_nothing_is_refused(tmp_path):
    model = write_model(tmp_path / "colours.onnx")
    with pytest.raises(DataError, match="only the data set has: 'cat'"):
        read_teacher(model, replace(plain([0, 1, 2]), classes=("blue", "white", "cat")))
    wrong = replace(plain([0, 1, 2, 0, 1, 2]), labels=np.array([1, 2, 0, 1, 2, 0]))
    with pytest.raises(DataError, match=r"names only 0% of the pictures as their labels do"):
        read_teacher(model, wrong)


def test_batches_say_which_pictures_they_hold():
    labels = torch.arange(23) % 4
    pictures = torch.arange(23, dtype=torch.uint8).reshape(23, 1, 1, 1).expand(23, 8, 8, 3).contiguous()
    shown = list(batches(pictures, labels, replace(TINY, batch_size=5), size=8, epoch=3))
    assert sorted(row for batch in shown for row in batch.rows.tolist()) == list(range(23))
    for batch in shown:
        assert torch.equal(labels[batch.rows], batch.labels)


def test_loss_with_a_teacher_is_the_slow_one():
    rng = np.random.default_rng(0)
    logits, told = (rng.normal(0, 2, (5, 4)).astype(np.float32) for _ in range(2))
    wanted = np.exp(told) / np.exp(told).sum(1, keepdims=True)
    labels, rows = np.array([0, 3, 1, 1]), torch.tensor([4, 0, 2, 1])
    run = begun(Small(classes=4, logits=torch.from_numpy(logits[:4])))
    run.teacher = Teacher(torch.from_numpy(wanted), "colours.onnx", "v", 1.0)
    value, _ = _step(run, Batch(torch.zeros(4, 3, 8, 8), torch.from_numpy(labels), rows, 1.0, 4))
    expected = 0.0
    for place, (label, row) in enumerate(zip(labels, rows.tolist(), strict=True)):
        plain_logs = logits[place] - math.log(sum(math.exp(one) for one in logits[place]))
        soft = logits[place] / TEMPERATURE
        soft_logs = soft - math.log(sum(math.exp(one) for one in soft))
        taught = -sum(wanted[row][k] * soft_logs[k] for k in range(4)) * TEMPERATURE**2
        expected += ((1 - SHARE) * -plain_logs[label] + SHARE * taught) / 4
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("narrow")
def test_command_takes_it_says_so_and_can_be_repeated(tmp_path):
    photos = write_photos(tmp_path / "photos")
    values = ("weights=none", "network_size=32", "progressive=[]", "batch_size=16", "export=float32")
    settings = [f"--set={value}" for value in values]
    command = ["train", photos, "--runs", tmp_path, *settings]

    def invoke(*words):
        return CliRunner().invoke(main, [str(word) for word in words])

    first = invoke(*command, "--name", "first", "--epochs", "8")
    assert first.exit_code == 0, first.output
    model = tmp_path / "first" / "model.onnx"
    second = invoke(*command, "--name", "second", "--epochs", "2", "--teacher", model)
    assert second.exit_code == 0 and "It teaches beside the labels; it names" in second.output, second.output
    manifest = Predictor.load(tmp_path / "second" / "model.onnx").manifest
    assert manifest.data["teacher"]["version"] == Predictor.load(model).version
    assert json.loads((tmp_path / "second" / "run.json").read_text())["teacher"] == str(model)
    again = invoke("reproduce", tmp_path / "second")
    assert "The same weights and scores came out, bit for bit." in again.output, again.output


def test_the_last_layer_alone_learns_from_no_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["train", "digits", "--teacher", "a.onnx", "--recipe", "quick", "--runs", "runs"])
    assert done.exit_code == 1
    assert "--teacher teaches the whole network, and trains=head fits only its last layer." in done.output
