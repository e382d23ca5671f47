"""Two model files on the same pictures: which is better, for which class, whose answer changed."""

import json
import shutil
import tracemalloc

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from server_kit import CLASSES, COLOURS, write_model

from pupila.cli import main
from pupila.evaluation import comparison


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare") / "photos"
    for number in range(10):
        for name in CLASSES:
            (root / name).mkdir(parents=True, exist_ok=True)
            colour = tuple(max(0, value - number) for value in COLOURS[name])
            Image.new("RGB", (32, 32), colour).save(root / name / f"{number}.png")
    return root


def compare(photos, tmp_path, *options, second=6.0):
    first = write_model(tmp_path / "good.onnx")
    other = write_model(tmp_path / "other.onnx", "snow", white=second)
    done = CliRunner().invoke(main, ["compare", str(first), str(other), str(photos), *map(str, options)])
    assert done.exit_code == 0, done.output
    return done.output


def test_better_model_is_named_with_its_test(photos, tmp_path):
    output = compare(photos, tmp_path)
    assert "accuracy 1.0000 and 0.2500" in output
    assert "The first is better: only the first has 30 right, only the second 0: p = 1.86e-09" in output
    assert output.splitlines()[4].split()[:4] == ["blue", "1.000", "0.000", "-1.000"]
    assert "blue/0.png: blue -> white (right: blue)" in output and "and 10 more" in output


def test_long_names_of_classes_take_no_memory_for_each_picture():
    names = [letter * 1000 for letter in "abcd"]
    tracemalloc.start()
    named = comparison._named(names, np.arange(100_000) % 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert named[5] == names[1] and peak < 3 * 2**20


def test_same_answers_are_no_real_difference(photos, tmp_path):
    output = compare(photos, tmp_path, second=0.0)
    assert "No real difference shows" in output and "p = 1" in output and "Answers that differ: 0." in output


def test_pictures_that_a_model_may_have_been_trained_on_are_cautioned_about(photos, tmp_path):
    caution = "A model that was trained on pictures among these answers them better than any others."
    assert caution in compare(photos, tmp_path) and caution in compare(photos, tmp_path, "--json")
    compare(photos, tmp_path, "--report", tmp_path / "page.html")
    assert caution in (tmp_path / "page.html").read_text()
    for part in ("train", "test"):
        shutil.copytree(photos, tmp_path / "parted" / part)
    assert caution not in compare(tmp_path / "parted", tmp_path)
    assert caution in compare(tmp_path / "parted", tmp_path, "--split", "train")


def test_json_lists_every_changed_picture(photos, tmp_path):
    found = json.loads(compare(photos, tmp_path, "--json"))
    assert found["only_first"] == 30 and len(found["changes"]) == 30
    assert found["changes"][0] == {"path": "blue/0.png", "truth": "blue", "first": "blue", "second": "white"}
    assert [c["category"] for c in found["classes"]] == ["blue", "green", "red", "white"]


def test_page_shows_the_changed_pictures_and_asks_for_nothing(photos, tmp_path):
    compare(photos, tmp_path, "--report", tmp_path / "out" / "page.html")
    page = (tmp_path / "out" / "page.html").read_text()
    assert page.count("<figure>") == 30 and "blue → white (right: blue)" in page and "http://" not in page
