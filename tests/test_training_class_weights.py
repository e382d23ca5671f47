"""Uneven classes: how often each is drawn, what each counts for, and how answers are judged."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from training_kit import TINY

from pupila.data import Dataset
from pupila.training.distributed.process_group import Team
from pupila.training.loop.batches import batches, generator
from pupila.training.loop.class_weights import EVEN, Balance, balance_for, balanced_accuracy, validation_scores

COUNTS = np.array([40, 12, 3])


def uneven(counts=COUNTS, seed=0):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    pictures = np.random.default_rng(seed).integers(0, 256, (len(labels), 8, 8, 3), dtype=np.uint8)
    return Dataset(pictures, labels.astype(np.int64), tuple("abcdefgh"[: len(counts)]))


def test_classes_are_drawn_equally_often_and_the_pictures_of_a_class_too():
    data, epochs = uneven(), 400
    balance, labels = balance_for(replace(TINY, balance="sampling"), data), torch.from_numpy(data.labels)
    drawn = np.zeros(len(data))
    for epoch in range(epochs):
        order = balance.order(labels, generator(0, epoch)).numpy()
        assert len(order) == len(data)
        drawn += np.bincount(order, minlength=len(data))
    total = epochs * len(data)
    for label, count in enumerate(COUNTS):
        own = drawn[data.labels == label]
        spread = np.sqrt(total * (1 / 3) * (2 / 3))
        assert abs(own.sum() - total / 3) < 5 * spread
        assert np.abs(own - total / 3 / count).max() < 5 * np.sqrt(total / 3 / count)


@settings(deadline=None)
@given(st.lists(st.integers(1, 200), min_size=2, max_size=6))
def test_weights_make_the_classes_count_alike_and_the_mean_picture_one(counts):
    balance = balance_for(replace(TINY, balance="sampling"), uneven(counts))
    weights = balance.weights.double().numpy()
    np.testing.assert_allclose(weights * counts, sum(counts) / len(counts), rtol=1e-5)
    assert (weights * counts).sum() / sum(counts) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("way", "sampled", "weighs"),
    [("none", True, False), ("none", False, False), ("sampling", True, False), ("sampling", False, True)],
)  # fmt: skip
def test_pictures_weigh_once_either_by_being_drawn_or_in_the_loss(way, sampled, weighs):
    data = uneven()
    balance, labels = balance_for(replace(TINY, balance=way), data), torch.from_numpy(data.labels)
    logits = torch.randn(len(data), 3, generator=generator(1))
    lost = torch.logsumexp(logits, 1) - logits[torch.arange(len(data)), labels]
    by_class = [float(lost[labels == label].mean()) for label in range(3)]
    expected = np.mean(by_class) if weighs else float(lost.mean())
    assert float(balance.loss(logits, labels, sampled=sampled)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("way", ["none", "sampling"])
def test_losses_of_the_workers_add_up_to_the_loss_of_one(way):
    data = uneven()
    balance, recipe = balance_for(replace(TINY, balance=way), data), replace(TINY, batch_size=20)
    tensors = torch.from_numpy(data.images), torch.from_numpy(data.labels)

    def loss(team):
        found = batches(*tensors, recipe, size=8, epoch=2, balance=balance, team=team)
        return [float(balance.loss(each.pictures.mean((2, 3)), each.labels, 0.1)) * each.weight for each in found]

    shared = [loss(Team(rank, 3)) for rank in range(3)]
    np.testing.assert_allclose(np.sum(shared, axis=0), loss(Team(0, 1)), rtol=1e-4)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_validation_scores_are_scikit_learns(pairs):
    labels, said = (torch.tensor(column) for column in zip(*pairs, strict=True))
    logits = torch.nn.functional.one_hot(said, 4) * 2.0 + torch.randn(len(labels), 4, generator=generator(2)) / 8
    scores = validation_scores(logits, labels)
    present = [label for label in range(4) if label in labels]
    recalls = [float((said[labels == label] == label).double().mean()) for label in present]
    assert scores["validation_accuracy"] == pytest.approx(metrics.accuracy_score(labels.numpy(), said.numpy()))
    assert scores["validation_balanced_accuracy"] == pytest.approx(np.mean(recalls))
    theirs = metrics.log_loss(labels.numpy(), logits.double().softmax(1).numpy(), labels=[0, 1, 2, 3])
    assert scores["validation_loss"] == pytest.approx(theirs, rel=1e-4)
    right = (logits.argmax(1) == labels).double()
    assert balanced_accuracy(right, labels) == pytest.approx(scores["validation_balanced_accuracy"])
    assert EVEN.accuracy(logits, labels) == pytest.approx(scores["validation_accuracy"])
    assert Balance("sampling", torch.ones(4)).accuracy(logits, labels) == pytest.approx(np.mean(recalls))
