"""Copies are found, however they were saved, and pictures that are merely alike are not."""

import dataclasses

import numpy as np
import pytest
from data_kit import encode, scene
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pupila import images
from pupila.data.dataset import Pictures
from pupila.data.quality import duplicates
from pupila.data.quality.duplicates import DuplicatePair, centred, find_duplicates, shrink

SIZE = 32


def stored(image: Image.Image, kind: str = "PNG", **options: int) -> Pictures:
    """Return the picture as it is after it was saved so and decoded."""
    return images.decode(encode(image, kind, **options), SIZE)


def pairs_with(copy: Pictures) -> list[DuplicatePair]:
    """Look for the copy of picture 7 among 40 others."""
    others = np.stack([stored(scene(seed)) for seed in range(40)])
    return find_duplicates([others, copy[np.newaxis]])


def test_pictures_that_differ_are_no_pairs() -> None:
    assert find_duplicates([np.stack([stored(scene(seed)) for seed in range(60)])]) == []


def test_same_pixels_are_an_exact_pair() -> None:
    assert pairs_with(stored(scene(7))) == [DuplicatePair(7, 40, True, False, 1.0)]


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_picture_saved_again_is_found(quality: int) -> None:
    [pair] = pairs_with(stored(scene(7), "JPEG", quality=quality))
    assert (pair.first, pair.second, pair.exact, pair.mirrored) == (7, 40, False, False)


@pytest.mark.parametrize("size", [24, 48, 128])
def test_resized_picture_is_found(size: int) -> None:
    [pair] = pairs_with(stored(scene(7).resize((size, size))))
    assert (pair.first, pair.second) == (7, 40)


def test_mirrored_picture_is_found_and_called_so() -> None:
    [pair] = pairs_with(stored(ImageOps.mirror(scene(7)), "JPEG", quality=75))
    assert (pair.first, pair.second, pair.mirrored) == (7, 40, True)


def test_pictures_of_one_colour_are_no_near_pairs() -> None:
    plain = np.stack([np.full((SIZE, SIZE, 3), value, dtype=np.uint8) for value in (10, 11, 200)])
    assert find_duplicates([plain]) == []
    assert find_duplicates([plain, plain[2:]]) == [DuplicatePair(2, 3, True, False, 1.0)]


def test_pairs_across_tiles_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.stack([stored(scene(seed)) for seed in [*range(9), 3, 5]])
    whole = find_duplicates([pictures])
    monkeypatch.setattr("pupila.data.quality.duplicates.TILE", 2)
    assert find_duplicates([pictures]) == whole
    assert [(pair.first, pair.second) for pair in whole] == [(3, 9), (5, 10)]


@pytest.mark.parametrize("size", [32, 50, 64, 224])
def test_copies_of_any_size_are_compared_at_one(size: int) -> None:
    picture = images.resize(np.asarray(scene(1, 224)), size)
    small = shrink(picture[np.newaxis], 32)
    assert small.shape == (1, 32, 32, 3)
    reference = shrink(images.resize(np.asarray(scene(1, 224)), 32)[np.newaxis], 32)
    assert float(np.sum(centred(small) * centred(reference))) > 0.97


def test_copies_of_a_picture_are_found_near_to_another_one_too() -> None:
    near = stored(scene(7), "JPEG", quality=60)
    train, test = np.stack([near, stored(scene(3))]), np.stack([stored(scene(7)), near, stored(scene(7))])
    found = find_duplicates([train, test])
    assert {(pair.first, pair.second): pair.exact for pair in found} == {
        (0, 3): True, (2, 4): True, (0, 2): False, (0, 4): False, (2, 3): False,
    }  # fmt: skip


@pytest.mark.parametrize("different", [False, True])
def test_crowd_of_equal_pictures_has_as_many_pairs_as_pictures(different: bool) -> None:
    crowd = np.repeat(stored(scene(1))[np.newaxis], 600, axis=0)
    if different:  # in two pixels of one corner, whose mean is the same: exactly alike from afar
        crowd[:, 0, :2] = 0
        for pixel, colour in np.ndindex(2, 2):
            number = np.arange(600) // (1, 30)[colour] % 30
            crowd[:, 0, pixel, colour] = number if pixel else 30 - number
    found = find_duplicates([crowd])
    assert {pair.second for pair in found} == set(range(1, 600))
    assert len(found) <= (duplicates.CROWD * 600 if different else 599)


def test_near_pairs_of_many_copies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MOST", 50)
    one, other = (
        np.repeat(picture[np.newaxis], 200, axis=0) for picture in (stored(scene(1)), stored(scene(1), "JPEG"))
    )
    found = find_duplicates([one, other])
    assert sum(pair.exact for pair in found) == 398
    assert 0 < sum(not pair.exact for pair in found) <= 50


def test_copies_of_many_near_pairs_are_looked_at_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each near pair with each of 2,000 copies: those that are kept are few, and so are those that are looked at."""
    monkeypatch.setattr(duplicates, "MOST", 20)
    frames = np.repeat(stored(scene(1))[np.newaxis], 2020, axis=0)
    frames[2000:, 0, 0, 0] = np.arange(20)
    made: list[int] = []
    pair = duplicates.DuplicatePair
    monkeypatch.setattr(duplicates, "replace", lambda *old, **new: made.append(1) or dataclasses.replace(*old, **new))
    near = [found for found in find_duplicates([frames]) if not found.exact]
    assert len(near) == 20 and isinstance(near[0], pair) and len(made) < 300


def test_pictures_all_alike_from_afar_are_compared_with_few_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """X-rays: the likest of all tiles are compared, so that time grows with their number; a copy is the likest."""
    monkeypatch.setattr(duplicates, "TILE", 32)
    draw = np.random.default_rng(0)
    broad = np.asarray(scene(0, 32)).astype(np.int64)
    scans = np.clip(broad + draw.integers(-20, 21, (400, 32, 32, 3)), 0, 255).astype(np.uint8)
    scans[[77, 250]] = np.clip(scans[[210, 390]].astype(np.int64) + draw.integers(-1, 2, (2, 32, 32, 3)), 0, 255)
    compared: list[int] = []
    confirm = duplicates._confirm
    monkeypatch.setattr(
        duplicates, "_confirm", lambda fine, pairs: compared.append(len(pairs.first)) or confirm(fine, pairs)
    )
    found = {(pair.first, pair.second) for pair in find_duplicates([scans[:300], scans[300:]])}
    assert found == {(77, 210), (250, 390)}
    assert 350 * 16 < sum(compared) <= 400 * 2 * 16


def test_correlations_are_those_of_their_definitions() -> None:
    """Centred by colour, and less the mean of each block of 4 x 4, in float64; mirrored where a pair says so."""
    draw = np.random.default_rng(0)
    pictures = np.concatenate([draw.integers(low, high, (20, 32, 32, 3)) for low, high in ((0, 256), (250, 253))])
    pictures[7] = 9
    first, second = draw.integers(0, 40, (2, 200))
    flip = draw.random(200) < 0.5
    pairs = duplicates._Proposed(first, second, flip, np.zeros(200, dtype=np.float32))
    one, other = pictures[first].astype(np.float64), pictures[second].astype(np.float64)
    other[flip] = other[flip][:, :, ::-1]

    def correlation(*rows: NDArray[np.float64]) -> NDArray[np.float64]:
        length = [np.maximum(np.sqrt((values**2).sum(axis=(1, 2, 3))), 1e-6) for values in rows]
        return np.asarray((rows[0] * rows[1]).sum(axis=(1, 2, 3)) / (length[0] * length[1]))

    def detail(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values - values.reshape(-1, 8, 4, 8, 4, 3).mean(axis=(2, 4)).repeat(4, 1).repeat(4, 2)

    wanted = (
        correlation(*(values - values.mean(axis=(1, 2), keepdims=True) for values in (one, other))),
        correlation(detail(one), detail(other)),
    )
    got = duplicates._Fine(pictures.astype(np.uint8)).correlations(pairs)
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)


def test_leaks_are_found_beside_more_pairs_within_train_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of films, the same scenes in both parts: train, which is looked at first, has far more pairs."""
    monkeypatch.setattr(duplicates, "MOST", 60)
    draw = np.random.default_rng(0)
    scenes = [draw.integers(0, 256, (16, 16, 3)).repeat(2, 0).repeat(2, 1) for _ in range(3)]
    frames = [np.clip(scene + draw.normal(0, 3, (32, 32, 3)), 0, 255).astype(np.uint8) for scene in scenes * 20]
    pairs = find_duplicates([np.stack(frames[:48]), np.stack(frames[48:])])
    assert {pair.second for pair in pairs if pair.first < 48 <= pair.second} == set(range(48, 60))


def test_pictures_of_one_part_are_compared_until_its_pairs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """None can be between parts: to wait for such compared frames of a film for an hour.

    Of ten rows of tiles, one is compared.
    """
    monkeypatch.setattr(duplicates, "MOST", 50)
    monkeypatch.setattr(duplicates, "TILE", 16)
    draw = np.random.default_rng(0)
    scene = draw.integers(40, 200, (16, 16, 3)).repeat(2, 0).repeat(2, 1)
    frames = np.stack([np.clip(scene + draw.normal(0, 3, (32, 32, 3)), 0, 255).astype(np.uint8) for _ in range(160)])
    tiles: list[int] = []
    propose = duplicates._propose
    monkeypatch.setattr(duplicates, "_propose", lambda *tile: tiles.append(1) or propose(*tile))
    assert len(find_duplicates([frames])) == 50 and len(tiles) == 20
    assert len(find_duplicates([frames, frames[:0]])) == 50 and len(tiles) == 40
