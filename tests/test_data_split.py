"""split and sample: stratified, seeded, and the same for ever."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pupila.data import Dataset, sample, split
from pupila.errors import DataError


def numbered(counts: list[int], order: int = 0) -> Dataset:
    """Return a data set whose pictures hold their own position, so that each can be told from all others."""
    labels = np.random.default_rng(order).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    positions = np.arange(len(labels))
    images = np.stack([positions // 256, positions % 256, labels], axis=1).astype(np.uint8).reshape(-1, 1, 1, 3)
    return Dataset(images, labels, tuple(f"class{k}" for k in range(len(counts))))


def positions(dataset: Dataset) -> list[int]:
    return [int(high) * 256 + int(low) for high, low, _ in dataset.images[:, 0, 0]]


COUNTS = st.lists(st.integers(2, 60), min_size=1, max_size=8)
SEEDS = st.integers(0, 2**40)


@given(counts=COUNTS, fraction=st.floats(0.001, 0.999), seed=SEEDS)
@settings(deadline=None)
def test_split_loses_nothing_and_is_proportional_in_every_class(counts: list[int], fraction: float, seed: int) -> None:
    dataset = numbered(counts)
    train, validation = split(dataset, fraction, seed)
    assert sorted(positions(train) + positions(validation)) == list(range(len(dataset)))
    assert (train.counts() + validation.counts()).tolist() == counts
    for count, kept in zip(counts, validation.counts().tolist(), strict=True):
        assert 1 <= kept <= count - 1
        assert abs(kept - count * fraction) <= 0.5 + 1e-9 or kept in (1, count - 1)


@given(counts=COUNTS, seed=SEEDS, data=st.data())
@settings(deadline=None)
def test_sample_has_the_count_asked_for_and_every_class(counts: list[int], seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(len(counts), sum(counts)))
    taken = sample(numbered(counts), count, seed)
    assert len(set(positions(taken))) == len(taken) == count
    shares = np.array(counts) * count / sum(counts)
    for got, share in zip(taken.counts().tolist(), shares, strict=True):
        assert got >= 1
        assert got <= share + 1 or got == 1


def test_sample_is_proportional_to_the_classes() -> None:
    assert sample(numbered([500, 300, 200]), 100, seed=0).counts().tolist() == [50, 30, 20]


def test_sample_of_all_is_all() -> None:
    assert positions(sample(numbered([3, 4]), 7, seed=1)) == list(range(7))


def test_split_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    dataset = numbered([50, 50])
    once, again, other = (positions(split(dataset, 0.2, seed)[1]) for seed in (1, 1, 2))
    assert once == again
    assert once != other


def test_split_of_seed_7_never_changes_between_machines_and_versions() -> None:
    _, validation = split(numbered([10, 10]), 0.3, seed=7)
    assert positions(validation) == [3, 4, 6, 11, 12, 14]


def test_split_keeps_the_order_of_the_pictures() -> None:
    train, validation = split(numbered([20, 20]), 0.5, seed=3)
    assert positions(train) == sorted(positions(train))
    assert positions(validation) == sorted(positions(validation))


def test_class_with_one_picture_cannot_be_split() -> None:
    with pytest.raises(DataError, match="'class1' has 1 picture; two are needed"):
        split(numbered([5, 1]), 0.1, seed=0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_split_rejects_a_fraction_that_leaves_a_side_empty(fraction: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        split(numbered([5, 5]), fraction, seed=0)


@pytest.mark.parametrize("count", [0, 1, 11])
def test_sample_rejects_a_count_that_cannot_be_had(count: int) -> None:
    with pytest.raises(DataError, match="Ask for 2 to 10"):
        sample(numbered([5, 5]), count, seed=0)


def test_negative_seed_is_named() -> None:
    with pytest.raises(DataError, match="seed of -1"):
        split(numbered([5, 5]), 0.2, seed=-1)
