"""Uneven classes: noticed, told in one line, and made up for, so that the small class is found too."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_kit import TINY, colours

from pupila.data import Dataset
from pupila.data.quality.class_balance import class_weights, describe_balance, imbalance, remedy
from pupila.training.loop.batches import generator
from pupila.training.loop.class_weights import balance_for, balanced_accuracy
from pupila.training.loop.fit import fit, validate
from pupila.training.loop.probe import fit_linear, mean_loss
from pupila.training.loop.resnet import ResNet18

TWENTY_TO_ONE = np.asarray([200, 10])


def hints(counts, seed):
    """Two classes that differ by little: with few of the second, saying always the first is nearly always right."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(2), counts)
    level = draw.normal(128, 12, (len(labels), 1, 1, 1)) + np.where(labels, 20, 0)[:, None, None, None]
    pictures = level + draw.normal(0, 8, (len(labels), 32, 32, 3))
    return Dataset(np.clip(pictures, 0, 255).astype(np.uint8), labels, ("dark", "light"))


def recalls(balance, folder):
    """Train a whole network on 20:1 and return the recall of each class, of as many of each."""
    torch.manual_seed(0)
    recipe = replace(TINY, balance=balance, epochs=4, learning_rate=0.02, flip="none", crop_padding=0.0)
    train, validation, test = hints([100, 5], 0), hints([40, 2], 1), hints([40, 40], 2)
    network = fit(recipe, ResNet18(2), train, validation, folder / "checkpoint.safetensors", identity={}).network
    right = validate(network, test, 32, recipe).argmax(1).numpy() == test.labels
    return right[:40].mean(), right[40:].mean()


def test_planted_twenty_to_one_is_made_up_for(tmp_path):
    alone, helped = recalls("none", tmp_path), recalls("auto", tmp_path)
    assert helped[1] > alone[1] + 0.2
    assert sum(helped) > sum(alone) + 0.1


def test_last_layer_alone_is_balanced_too():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(420) % 21 // 20
    x = torch.randn(420, 4, generator=draw) + labels.unsqueeze(1)

    def recall_of_small_class(balance):
        loss = mean_loss(balance_for(replace(TINY, balance=balance), dataset))
        layer = fit_linear(x, labels, 2, loss, decay=1e-3)
        return float(layer(x[labels == 1]).argmax(1).double().mean())

    dataset = Dataset(np.zeros((420, 32, 32, 3), np.uint8), labels.numpy(), ("a", "b"))
    assert recall_of_small_class("auto") > recall_of_small_class("none") + 0.2


def test_beyond_three_to_one_auto_does_something():
    assert [remedy(np.asarray(counts), "auto") for counts in ([30, 10], [31, 10])] == ["none", "sampling"]
    assert remedy(np.asarray([31, 10]), "none") == "none"


def test_line_says_ratio_remedy_and_switch():
    line = describe_balance(TWENTY_TO_ONE)
    assert "20.0 times" in line and "equally often" in line and "--set balance=none" in line
    assert "nothing is done" in describe_balance(TWENTY_TO_ONE, "none")
    assert "balanced enough" in describe_balance(np.asarray([30, 10]))


def test_class_that_is_missing_counts_as_one_picture_and_weighs_nothing_away():
    assert imbalance(np.asarray([5, 0])) == 5.0
    weights = class_weights(np.asarray([30, 10, 0]))
    assert (weights[:2] * [30, 10]).tolist() == [20, 20]


def test_draws_come_equally_from_each_class_and_are_the_same_for_a_seed():
    data = hints(TWENTY_TO_ONE, 0)
    balance, labels = balance_for(replace(TINY, balance="sampling"), data), torch.from_numpy(data.labels)
    first, again = (balance.order(labels, generator(3, 1)) for _ in range(2))
    assert torch.equal(first, again) and len(first) == len(labels)
    assert 0.35 < float(labels[first].double().mean()) < 0.65


def test_without_balance_every_picture_comes_once():
    data = colours(30)
    order = balance_for(TINY, data).order(torch.from_numpy(data.labels), generator(0))
    assert sorted(order.tolist()) == list(range(30))


def test_epochs_are_judged_by_balanced_accuracy_where_classes_are_uneven():
    labels = torch.tensor([0] * 9 + [1])
    always_first = torch.tensor([[1.0, 0.0]] * 10)
    right = (always_first.argmax(1) == labels).double()
    assert balanced_accuracy(right, labels) == 0.5
    uneven = Dataset(np.zeros((10, 32, 32, 3), np.uint8), labels.numpy(), ("a", "b"))
    assert balance_for(TINY, uneven).accuracy(always_first, labels) == 0.5
    assert balance_for(replace(TINY, balance="none"), uneven).accuracy(always_first, labels) == pytest.approx(0.9)
