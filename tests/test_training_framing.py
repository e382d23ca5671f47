"""Photos that are not square: squashed or letter-boxed, whichever validates better, and the file says which."""

import io
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image
from training_kit import TINY

from pupila.data import load_dataset
from pupila.training.loop.head import choose_framing
from pupila.training.prepare import training_split
from pupila.training.weights import starting_network


def write_shapes(root, wide):
    """Shapes that lie or stand: squashed, one that lies in a wide photo is one that stands in a tall one, a circle."""
    draw = np.random.default_rng(0)
    for label, stretch in (("lying", 1.4), ("standing", 1 / 1.4)):
        (root / label).mkdir(parents=True)
        for number in range(40):
            width, height = (96, 48) if wide and number % 2 else (48, 96) if wide else (64, 64)
            y, x = np.mgrid[:height, :width]
            radius = draw.uniform(14, 18)
            inside = ((x - width / 2) / stretch) ** 2 + ((y - height / 2) * stretch) ** 2 < radius**2
            picture = Image.fromarray(np.where(inside[..., None], 255, draw.integers(0, 60, 3)).astype(np.uint8))
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            (root / label / f"{number}.png").write_bytes(buffer.getvalue())
    return root


def chosen(root, tmp_path, framing="auto", trained=True):
    read = partial(_read, root, tmp_path / "cache")
    recipe = replace(TINY, framing=framing, validation_fraction=0.3)
    start = starting_network("none", 2, 0)
    start = replace(start, origin="a file" if trained else "none")
    return choose_framing(read, training_split, read("squash"), recipe, start)


def _read(root, cache, framing):
    return load_dataset(root, 32, cache=cache, framing=framing)


def test_what_tells_by_its_shape_is_letter_boxed(tmp_path, caplog):
    splits, recipe = chosen(write_shapes(tmp_path / "shapes", wide=True), tmp_path)
    assert (splits.framing, recipe.framing) == ("letterbox", "letterbox")
    assert "2.00 times as long as wide" in caplog.text


def test_square_pictures_are_not_tried(tmp_path, caplog):
    splits, recipe = chosen(write_shapes(tmp_path / "shapes", wide=False), tmp_path)
    assert (splits.framing, recipe.framing) == ("squash", "squash")
    assert caplog.text == ""


def test_without_trained_weights_photos_are_squashed_and_that_is_said(tmp_path, caplog):
    splits, _ = chosen(write_shapes(tmp_path / "shapes", wide=True), tmp_path, trained=False)
    assert splits.framing == "squash" and "--set framing=letterbox" in caplog.text


@pytest.mark.parametrize("framing", ["squash", "letterbox"])
def test_framing_that_is_asked_for_is_taken(tmp_path, framing):
    splits, recipe = chosen(write_shapes(tmp_path / "shapes", wide=True), tmp_path, framing)
    assert (splits.framing, recipe.framing) == (framing, framing)
