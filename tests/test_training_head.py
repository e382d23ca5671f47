"""The last layer that training begins with against scikit-learn, and the size and mirror image that features choose."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import nn
from training_kit import TINY, colours, noise, whitening

from pupila.data import Dataset
from pupila.training.loop import head as heads
from pupila.training.loop.class_weights import balance_for
from pupila.training.loop.head import CLEARLY, GAIN, WAYS, choose_input, fit_head
from pupila.training.loop.probe import Features, cross_validated, features_of, fit_linear, folds_of, mean_loss
from pupila.training.loop.probe import weight_decay as prior
from pupila.training.loop.resnet import ResNet18

pytestmark = pytest.mark.usefixtures("narrow")


def by_scikit_learn(x, labels, decay, other, whitened=False, **options):
    """Probabilities for `other` by a regression on standardised or whitened x; decay as ours, beside a mean loss."""
    mean, by = x.mean(0), whitening(x, labels) if whitened else np.diag(1 / (x.astype(float).std(0) + 1e-6))
    fitted = LogisticRegression(C=1 / (decay * len(x)), tol=1e-8, max_iter=5000, **options)
    return fitted.fit((x - mean) @ by, labels).predict_proba((other - mean) @ by)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return ResNet18(3)


def hard(count, seed):
    """Three classes that random features tell apart in part."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    pictures = draw.normal(120, 40, (count, 32, 32, 3)) + 6 * draw.normal(size=(count, 1, 1, 3))
    pictures[np.arange(count), :, :, labels] += 9
    return Dataset(np.clip(pictures, 0, 255).astype(np.uint8), labels, ("red", "green", "blue"))


def loss_at_best_temperature(labels, answers):
    def loss(log_temperature):
        powers = answers ** np.exp(-log_temperature)
        return log_loss(labels, powers / powers.sum(1, keepdims=True))

    return minimize_scalar(loss, bounds=(-5, 5), method="bounded").fun


@pytest.mark.parametrize("flip", ["off", "on"])
def test_fitted_last_layer_is_the_regression_of_the_way_that_loses_least(network, flip):
    training, held_out, recipe = hard(60, 0), hard(30, 1), replace(TINY, flip_average=flip)
    plain, mirrored = (features_of(network, training, recipe, mirrored=way).numpy() for way in (False, True))
    fold, losses = folds_of(training.labels, heads.FOLDS), {}
    both, twice = np.concatenate([plain, mirrored]), np.tile(training.labels, 2)
    for whitened, strength in WAYS:
        answers = np.zeros((60, 3))
        for number in range(heads.FOLDS):
            out = fold == number
            kept = np.concatenate([plain[~out], mirrored[~out]]), np.tile(training.labels[~out], 2)
            decay = strength * prior(60, whitened=whitened)
            answers[out] = by_scikit_learn(*kept, decay, plain[out], whitened)
        losses[whitened, strength] = loss_at_best_temperature(training.labels, answers)
    whitened, strength = min(WAYS, key=losses.get)
    shown = [features_of(network, held_out, recipe, mirrored=way).numpy() for way in (False, True)]
    seen = shown[0] if flip == "off" else (shown[0] + shown[1]) / 2
    expected = by_scikit_learn(both, twice, strength * prior(60, whitened=whitened), seen, whitened)
    row = fit_head(recipe, network, training, held_out)
    with torch.no_grad():
        ours = network.fc(torch.from_numpy(seen)).double().softmax(1).numpy()
    np.testing.assert_allclose(ours, expected, atol=0.02)
    assert row["validation_accuracy"] == pytest.approx((ours.argmax(1) == held_out.labels).mean())
    assert row["validation_loss"] == pytest.approx(log_loss(held_out.labels, ours), rel=1e-3)


def test_weighted_regression_of_uneven_classes_is_scikit_learns_balanced_one():
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [40, 12, 5])
    x = (np.eye(3, 8)[labels] + draw.normal(size=(57, 8))).astype(np.float32)
    data = Dataset(np.zeros((57, 4, 4, 3), np.uint8), labels, ("a", "b", "c"))
    loss = mean_loss(balance_for(replace(TINY, balance="sampling"), data))
    layer = fit_linear(torch.from_numpy(x), torch.from_numpy(labels), 3, loss, 0.05, iterations=200)
    ours = layer(torch.from_numpy(x)).softmax(1).numpy()
    np.testing.assert_allclose(ours, by_scikit_learn(x, labels, 0.05, x, class_weight="balanced"), atol=3e-3)


@pytest.mark.parametrize("labels", [[0, 1], [0, 0, 0, 1], [0, 1, 2], [0, 1, 1, 2, 2, 2]])
def test_classes_of_one_two_and_three_pictures_are_cross_validated_without_harm(labels):
    x = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(0))
    data = Dataset(np.zeros((len(labels), 4, 4, 3), np.uint8), np.array(labels), ("a", "b", "c"))
    for way in ("none", "sampling"):
        loss = mean_loss(balance_for(replace(TINY, balance=way), data))
        found = cross_validated(Features(torch.tensor(labels), x, -x), 3, loss, prior(len(labels)), 3)
        assert all(logits.shape == (len(labels), 3) and bool(torch.isfinite(logits).all()) for logits in found)


class Colours(nn.Module):
    """In place of a backbone: the mean of each colour in the left half of the picture."""

    pooling = "mean"

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.sizes = []

    def features(self, x):
        self.sizes.append(x.shape[-1])
        return x[:, :, :, : x.shape[3] // 2].mean((2, 3))


def chosen_by_hand(scores):
    """Try the sizes in turn until one is clearly worse than the best so far; the smallest nearly as good is chosen."""
    tried = []
    for score in scores:
        tried.append(score)
        if max(tried) - score > CLEARLY:
            break
    return next(place for place, score in enumerate(tried) if max(tried) - score <= GAIN), len(tried)


def test_chosen_size_is_the_smallest_that_nearly_reaches_the_best_of_those_tried(monkeypatch):
    draw, sizes, data = np.random.default_rng(0), (32, 40, 48, 56, 64), colours(6)
    for _ in range(150):
        scores = (draw.integers(0, 45, len(sizes)) * 0.00101 + 0.8).tolist()
        left = list(scores)
        monkeypatch.setattr(heads, "_scores", lambda *_, left=left: (left.pop(0), 0.0))
        network = Colours()
        choice = choose_input(network, data, TINY, sizes)
        place, count = chosen_by_hand(scores)
        assert choice.network_size == sizes[place] and network.sizes == list(sizes[:count]), scores
        assert choice.reason.count(" px") == count and not choice.flip_average


def test_of_sizes_that_are_alike_the_smallest_is_taken():
    choice = choose_input(Colours(), colours(30), TINY, (32, 48, 64))
    assert choice.network_size == 32 and choice.reason.count("1.000 at") == 3


def half_coloured(count=60):
    """Pictures whose class shows in one half alone, left and right by turns, beside noise."""
    data = noise(count)
    images, labels = data.images // 2, np.arange(count, dtype=np.int64) % 3
    for number, label in enumerate(labels):
        half = slice(0, 16) if number // 3 % 2 else slice(16, 32)
        images[number, :, half, label] += 100
    return Dataset(images, labels, ("red", "green", "blue"))


def test_mirror_image_is_averaged_where_each_half_knows_another_part():
    choice = choose_input(Colours(), half_coloured(), replace(TINY, flip_average="auto"), (32,))
    assert choice.flip_average and "averaged with the mirror image 1.000" in choice.reason


def test_mirror_image_that_shows_nothing_new_is_not_averaged():
    choice = choose_input(Colours(), colours(30), replace(TINY, flip_average="auto"), (32,))
    assert not choice.flip_average and "mirror image 1.000, alone 1.000" in choice.reason


def test_what_the_backbone_knows_of_classes_is_used_for_the_features_it_knows(monkeypatch):
    given = []

    def noted(*arguments, within, **options):
        given.append(within)
        return fit_linear(*arguments, within=within, **options)

    monkeypatch.setattr(heads, "fit_linear", noted)
    monkeypatch.setattr("pupila.training.loop.probe.fit_linear", noted)
    for pooling in ("mean", "root"):
        torch.manual_seed(0)
        network = ResNet18(3, pooling)
        network.within = torch.eye(network.fc.in_features)
        fit_head(TINY, network, hard(60, 0), hard(30, 1))
        assert len(given) == heads.FOLDS * len(WAYS) + 1
        assert all(each is (network.within if pooling == "root" else None) for each in given)
        given.clear()


def test_of_very_many_classes_few_ways_are_tried(monkeypatch):
    tried = []

    def counted(features, classes, *_, whitened, **__):
        tried.append(whitened)
        return torch.zeros(len(features.labels), classes), None

    monkeypatch.setattr(heads, "cross_validated", counted)
    for classes, ways in ((heads.MANY_CLASSES, WAYS), (heads.MANY_CLASSES + 1, heads.SURE_WAYS)):
        data = Dataset(np.zeros((classes, 4, 4, 3), np.uint8), np.arange(classes), tuple(map(str, range(classes))))
        features = Features(torch.arange(classes), torch.zeros(classes, 5))
        tried.clear()
        assert heads._way_to_fit(features, data, TINY) in ways
        assert tried == [whitened for whitened, _ in ways]


def test_short_budgets_try_and_fit_fewer_pictures(network):
    training, held_out = hard(3000, 0), hard(30, 1)
    used = [
        fit_head(replace(TINY, minutes=minutes, network_size=64), network, training, held_out)["pictures"]
        for minutes in (0.0, 0.05, 0.1)
    ]
    assert used == [3000, 1200, 2400]


@pytest.mark.parametrize(
    ("seconds", "used"),
    [(math.inf, 2400), (100, 2400), (20, 1500), (10, 700), (1, 300), (-5, 300)],
)
def test_features_are_those_that_the_seconds_left_allow(network, monkeypatch, seconds, used):
    """100 pictures/s on a clock of the test's own: a second for those of validation, a fifth for the fit."""
    clock, features = [0.0], heads.all_features

    def timed(network, pictures, *rest, **options):
        clock[0] += len(pictures) / 100
        return features(network, pictures, *rest, **options)

    monkeypatch.setattr(heads, "all_features", timed)
    monkeypatch.setattr(heads, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(heads, "LEAST_HEAD_COST", 300)
    recipe = replace(TINY, minutes=0.1, network_size=64)
    assert fit_head(recipe, network, hard(3000, 0), hard(100, 1), seconds)["pictures"] == used
