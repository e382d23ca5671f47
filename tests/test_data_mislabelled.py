"""Wrong labels: planted ones come first, training takes the table that is written, the method equals its paper."""

import csv
import shlex

import numpy as np
import pytest
from click.testing import CliRunner
from data_kit import make_folder
from PIL import Image
from safetensors.torch import save_file
from training_kit import colours

from pupila.cli import main
from pupila.data import load_dataset
from pupila.data.quality.labels import relabelled
from pupila.training.loop.resnet import ResNet18
from pupila.training.mislabelled import confident_joint, cross_validated, doubts, estimated_joint, thresholds

pytestmark = pytest.mark.usefixtures("narrow")


def planted(count=600, share=0.05, seed=0):
    """Features of three classes that overlap a little, and labels of which some were changed; and which."""
    draw = np.random.default_rng(seed)
    truth = np.arange(count) % 3
    features = draw.normal(size=(count, 16)).astype(np.float32) + 2.0 * np.eye(3, 16, dtype=np.float32)[truth]
    wrong = draw.permutation(count)[: round(share * count)]
    labels = truth.copy()
    labels[wrong] = (labels[wrong] + draw.integers(1, 3, len(wrong))) % 3
    return features, labels, wrong


def test_planted_wrong_labels_come_first():
    features, labels, wrong = planted()
    found = doubts(cross_validated(features, labels, 3), labels)
    first = found.ranking[: len(wrong)]
    assert np.isin(first, wrong).mean() >= 0.75
    assert len(wrong) / 2 < found.count < 4 * len(wrong)


def test_no_picture_is_judged_by_a_layer_that_was_fitted_on_it():
    draw = np.random.default_rng(0)
    labels = np.arange(200) % 2  # of features that say nothing, so that only knowing the label could tell it
    probabilities = cross_validated(draw.normal(size=(200, 64)).astype(np.float32), labels, 2)
    assert 0.3 < (probabilities.argmax(axis=1) == labels).mean() < 0.7


def test_confident_joint_equals_the_slow_version():
    draw = np.random.default_rng(1)
    probabilities = draw.dirichlet(np.ones(4), 300)
    labels = draw.integers(0, 4, 300)
    limits = [probabilities[labels == k, k].mean() for k in range(4)]
    slow = np.zeros((4, 4), dtype=int)
    for row, label in zip(probabilities, labels, strict=True):
        passing = [k for k in range(4) if row[k] >= limits[k]]
        if passing:
            slow[label, max(passing, key=lambda k: row[k])] += 1
    assert thresholds(probabilities, labels) == pytest.approx(limits)
    assert (confident_joint(probabilities, labels) == slow).all()
    joint = estimated_joint(slow, np.bincount(labels))
    assert joint.sum(axis=1) == pytest.approx(np.bincount(labels) / 300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Colours in class folders, where the pictures 0, 1 and 2 lie in the wrong one."""
    root = tmp_path_factory.mktemp("photos") / "the colours"
    data = colours(90)
    for number, (picture, label) in enumerate(zip(data.images, data.labels, strict=True)):
        category = data.classes[(label + (number < 3)) % 3]
        (root / category).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / category / f"{number}.png")
    return root


def test_command_writes_a_table_that_training_takes(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PUPILA_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "backbone.safetensors"
    save_file({k: v for k, v in ResNet18(3).state_dict().items() if not k.startswith("fc.")}, weights)
    done = CliRunner().invoke(main, ["mislabelled", str(folder), str(tmp_path / "out"), "--weights", str(weights)])
    assert done.exit_code == 0, done.output
    assert shlex.split(done.output.splitlines()[-1])[-3:] == [
        str(folder),
        "--labels",
        str(tmp_path / "out" / "fixes.csv"),
    ]
    rows = list(csv.DictReader((tmp_path / "out" / "fixes.csv").read_text("utf-8-sig").splitlines()))
    assert {"green/0.png", "blue/1.png", "red/2.png"} == {row["path"] for row in rows[:3]}
    page = (tmp_path / "out" / "mislabelled.html").read_text()
    assert "green → red?" in page and "data:image/png" in page and "http://" not in page
    splits = load_dataset(folder, cache=tmp_path / "cache")
    fixed = relabelled(splits, tmp_path / "out" / "fixes.csv")
    assert sum(name.split("/")[0] != fixed.train.classes[label] for name, label in
               zip(fixed.train.names, fixed.train.labels, strict=True)) == len(rows)  # fmt: skip
    again = CliRunner().invoke(main, ["mislabelled", str(folder), str(tmp_path / "out"), "--weights", str(weights)])
    assert again.exit_code == 1 and "may hold corrections" in again.output


def test_class_of_too_few_pictures_is_named(tmp_path):
    root = make_folder(tmp_path / "few", {"cat": 12, "dog": 9})
    done = CliRunner().invoke(main, ["mislabelled", str(root), str(tmp_path / "out"), "--weights", "none"])
    assert done.exit_code == 1 and "'dog' has 9 pictures" in done.output
