"""Dataset says at once what does not fit together."""

import numpy as np
import pytest

from pupila.data import Dataset, Splits, split
from pupila.errors import DataError

IMAGES = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
LABELS = np.array([0, 1, 1, 0], dtype=np.int64)


def test_dataset_knows_its_length_size_and_counts() -> None:
    dataset = Dataset(IMAGES, LABELS, ("cat", "dog", "eel"))
    assert (len(dataset), dataset.size, dataset.counts().tolist()) == (4, 2, [2, 2, 0])
    assert dataset.counts().dtype == np.int64


def test_take_keeps_the_order_asked_for_and_all_classes() -> None:
    taken = Dataset(IMAGES, LABELS, ("cat", "dog")).take([3, 1])
    assert np.array_equal(taken.images, IMAGES[[3, 1]])
    assert (taken.labels.tolist(), taken.classes) == ([0, 1], ("cat", "dog"))


@pytest.mark.parametrize(
    ("images", "labels", "classes", "problem"),
    [
        (IMAGES.astype(np.float32), LABELS, ("a", "b"), "must be uint8"),
        (IMAGES[..., 0], LABELS, ("a", "b"), r"images are uint8 \[4, 2, 2\]"),
        (IMAGES[:, :1], LABELS, ("a", "b"), r"images are uint8 \[4, 1, 2, 3\]"),
        (IMAGES, LABELS.astype(np.int32), ("a", "b"), "must be int64"),
        (IMAGES, LABELS[:3], ("a", "b"), r"labels are int64 \[3\]"),
        (IMAGES[:0], LABELS[:0], ("a", "b"), "no picture"),
        (IMAGES, LABELS, ("a", "a"), "different from each other"),
        (IMAGES, LABELS, ("a", ""), "not empty"),
        (IMAGES, LABELS, ("a",), "labels go from 0 to 1, and it has 1 class names"),
        (IMAGES, LABELS - 1, ("a", "b"), "labels go from -1"),
    ],
)
def test_dataset_rejects_parts_that_do_not_fit(
    images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        Dataset(images, labels, classes)


SPLITS = Splits(
    "pets", Dataset(IMAGES, LABELS, ("cat", "dog")), None, Dataset(IMAGES[:1], LABELS[:1], ("cat", "dog")), (), ""
)


def test_part_is_test_where_none_is_named() -> None:
    assert SPLITS.part(None) == (SPLITS.test, "test")


def test_part_all_joins_what_there_is() -> None:
    part, name = SPLITS.part("all")
    assert (name, part.labels.tolist()) == ("all", [0, 1, 1, 0, 0])


def test_part_that_is_missing_names_those_there_are() -> None:
    with pytest.raises(DataError, match="pets: has no validation part, only train, test"):
        SPLITS.part("validation")


def test_names_follow_their_pictures_through_a_split():
    images = np.arange(8, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    names = tuple(f"{'ab'[row % 2]}/{row}.png" for row in range(8))
    whole = Dataset(images, np.arange(8, dtype=np.int64) % 2, ("a", "b"), names)
    for part in split(whole, 0.25, seed=1):
        assert [int(name[2]) for name in part.names] == part.images[:, 0, 0, 0].tolist()


def test_a_name_too_few_is_an_error():
    with pytest.raises(DataError, match="1 names for 2 pictures"):
        Dataset(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int64), ("a",), ("x",))
