"""Pictures of none of the classes: what is read of them, where they go in a batch, and that they teach doubt."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from data_kit import encode, scene
from torch.nn import functional
from training_kit import TINY, colours, noise, write_photos

from pupila.cli import main
from pupila.errors import DataError
from pupila.predictor import Predictor
from pupila.training.distributed.process_group import ALONE, Team
from pupila.training.loop.batches import batches
from pupila.training.loop.class_weights import EVEN
from pupila.training.loop.fit import _begin, _Files, _step
from pupila.training.loop.resnet import ResNet18
from pupila.training.outliers import exposed, read_outliers

pytestmark = pytest.mark.usefixtures("narrow")

STRANGE = torch.from_numpy(noise(9).images)


def epoch(recipe, start=0, team=ALONE):
    data = colours(48)
    tensors = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    where = {"size": 32, "epoch": 1, "start": start, "team": team}
    return list(exposed(batches(*tensors, recipe, **where), STRANGE, recipe, **where))


def test_outliers_stand_behind_the_pictures_of_each_batch():
    plain = replace(TINY, outliers=0.5)
    data = colours(48)
    without = list(batches(torch.from_numpy(data.images), torch.from_numpy(data.labels), plain, size=32, epoch=1))
    for ours, theirs in zip(epoch(plain), without, strict=True):
        assert len(ours.pictures) - len(ours.labels) == round(0.5 * len(theirs.pictures))
        assert torch.equal(ours.pictures[: len(theirs.pictures)], theirs.pictures)
        assert ours.outlier_weight == 1


def test_epoch_taken_up_in_the_middle_shows_the_same_outliers():
    for ours, theirs in zip(epoch(TINY, start=2), epoch(TINY)[2:], strict=True):
        assert torch.equal(ours.pictures, theirs.pictures)


def test_workers_share_the_outliers_of_one_worker():
    for whole, *parts in zip(epoch(TINY), *(epoch(TINY, team=Team(rank, 3)) for rank in range(3)), strict=True):
        strange = torch.cat([part.pictures[len(part.labels) :] for part in parts])
        assert torch.equal(strange, whole.pictures[len(whole.labels) :])
        assert sum(part.outlier_weight for part in parts) == pytest.approx(1)


def scenes(root: Path, name: str, seeds: range) -> Path:
    for seed in seeds:
        path = root / name / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(scene(seed, 32)))
    return root


def test_copies_of_the_data_sets_own_pictures_are_left_out(tmp_path):
    folder = scenes(tmp_path, "things", range(8))
    (folder / "broken.jpg").write_bytes(b"no picture")
    own = np.stack([np.asarray(scene(seed, 32)) for seed in (5, 6)])
    read = read_outliers(folder, [replace(colours(2), images=own)], "squash")
    assert (len(read.pictures), read.own) == (6, 2)
    assert read.describe() == (
        "Pictures that teach what is none of the classes: 6; left out: 2 in the data set, too; "
        "1 not readable as a picture"
    )


def test_class_that_is_to_be_learned_is_refused_by_name(tmp_path):
    folder = scenes(scenes(tmp_path, "Red", range(3)), "things", range(3, 6))
    with pytest.raises(DataError, match="has a folder 'Red', and that is a class to be learned"):
        read_outliers(folder, [colours(6)], "squash")


def test_nothing_but_copies_is_refused(tmp_path):
    folder = scenes(tmp_path, "things", range(2))
    own = np.stack([np.asarray(scene(seed, 32)) for seed in range(2)])
    with pytest.raises(DataError, match="every picture in it is one of the data set's own"):
        read_outliers(folder, [replace(colours(2), images=own)], "squash")


def test_loss_by_outliers_is_the_distance_from_all_classes_alike(tmp_path):
    recipe = replace(TINY, outliers=0.5, outlier_loss=0.5)
    batch = epoch(recipe)[0]
    network = ResNet18(3)
    with torch.no_grad():
        logits = copy.deepcopy(network).train()(batch.pictures)
    known, strange = logits[: len(batch.labels)], logits[len(batch.labels) :]
    evenly = functional.cross_entropy(strange, torch.full_like(strange, 1 / 3))
    expected = functional.cross_entropy(known, batch.labels) + 0.5 * evenly
    files = _Files(tmp_path / "checkpoint", 60.0, {})
    run = _begin(files, recipe, network, EVEN, resume=False, team=ALONE, outliers=STRANGE.numpy())
    value, correct = _step(run, batch)
    assert value == pytest.approx(float(expected), rel=1e-4)
    assert correct == int((known.argmax(1) == batch.labels).sum())


def test_command_takes_them_says_so_and_can_be_repeated(tmp_path):
    write_photos(tmp_path / "photos")
    others = scenes(tmp_path / "others", "things", range(12))
    values = ("weights=none", "network_size=32", "progressive=[]", "batch_size=16", "export=float32")
    command = ["train", tmp_path / "photos", "--outliers", others, "--epochs", "1", "--runs", tmp_path, "--name", "run"]
    words = [*map(str, command), *(f"--set={value}" for value in values)]
    assert "of the classes: 12; left out" in CliRunner().invoke(main, [*words, "--explain"]).output
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "Pictures that teach what is none of the classes: 12; left out: none" in done.output
    told = Predictor.load(tmp_path / "run" / "model.onnx").manifest.data["outliers"]
    assert (told["source"], told["pictures"]) == ("others", 12)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["outliers"] == str(others)
    again = CliRunner().invoke(main, ["reproduce", str(tmp_path / "run")])
    assert "The same weights and scores came out, bit for bit." in again.output, again.output
    next(others.rglob("*.*")).unlink()
    other = CliRunner().invoke(main, ["reproduce", str(tmp_path / "run")]).output
    assert re.search(r"--outliers is 11 pictures \(\w+\) and was 12 pictures \(\w+\)\.", other), other
    assert "processor" not in other


def test_head_alone_cannot_learn_doubt(tmp_path):
    command = ["train", "digits", "--outliers", tmp_path, "--recipe", "quick", "--runs", tmp_path]
    done = CliRunner().invoke(main, [str(word) for word in command])
    assert done.exit_code == 1
    assert "--outliers teach the whole network, and trains=head fits only its last layer." in done.output


@pytest.mark.parametrize(
    ("file", "said"), [("notes.txt", "there are no pictures in it"), ("1.jpg", "none of its pictures can be read")]
)
def test_folder_without_a_readable_picture_is_refused(tmp_path, file, said):
    (tmp_path / file).write_bytes(b"no picture")
    with pytest.raises(DataError, match=said):
        read_outliers(tmp_path, [colours(6)], "squash")
