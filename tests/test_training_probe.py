"""Last layers on frozen features: against scikit-learn, and what they choose."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional
from training_kit import TINY, colours, noise, whitening

from pupila.data import Dataset
from pupila.training.loop import head as heads
from pupila.training.loop.head import choose_input, fit_head
from pupila.training.loop.probe import Features, cross_validated, features_of, fit_linear, folds_of
from pupila.training.loop.resnet import ResNet18, enlarged

pytestmark = pytest.mark.usefixtures("narrow")


def clouds(count=120, dimensions=6, seed=0):
    """Three clouds that overlap, of features on very different scales."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    x = (1.5 * np.eye(3, dimensions)[labels] + draw.normal(size=(count, dimensions))) * 10.0 ** np.arange(dimensions)
    return torch.from_numpy(x + 5).float(), torch.from_numpy(labels)


def known(dimensions=6):
    """How features of clouds() vary within other classes: the first three alike."""
    scale = 10.0 ** np.arange(dimensions)
    alike = np.eye(dimensions)
    alike[:3, :3] += 2
    return torch.from_numpy(alike * scale * scale[:, None]).float()


@pytest.mark.parametrize(("whitened", "within"), [(False, None), (True, None), (True, known())])
@pytest.mark.parametrize("decay", [0.01, 0.1, 1.0])
def test_fitted_layer_is_scikit_learns(decay, whitened, within):
    x, labels = clouds()
    ways = {"whitened": whitened, "within": within}
    ours = fit_linear(x, labels, 3, functional.cross_entropy, decay, iterations=200, **ways)(x).softmax(1)
    by = whitening(x, labels, within) if whitened else np.diag(1 / x.double().numpy().std(0))
    white = (x.double() - x.double().mean(0)).numpy() @ by
    theirs = LogisticRegression(C=1 / (decay * len(x)), tol=1e-10, max_iter=10_000).fit(white, labels)
    np.testing.assert_allclose(ours, theirs.predict_proba(white), atol=2e-3)


@pytest.mark.parametrize("count", [3, 4, 6])
def test_so_few_pictures_that_none_varies_within_its_class_do_no_harm(count):
    x, labels = clouds(count)
    layer = fit_linear(x, labels, 3, functional.cross_entropy, 1600 / (512 + count), whitened=True)
    assert torch.isfinite(layer(x)).all() and layer.weight.abs().max() < 10
    if count == 3:
        assert (layer(x).argmax(1) == labels).all()


def test_what_varies_within_classes_counts_less_than_what_tells_them_apart():
    """Features that tell the classes apart and are all moved by the light, which a plain one takes for a class."""
    draw = np.random.default_rng(1)

    def rows(count):
        labels = np.arange(count) % 2
        light = 6 * draw.normal(size=(count, 1)) * np.ones((1, 20))
        signal = np.where(labels[:, None] == np.arange(20) % 2, 0.5, 0.0)
        return torch.from_numpy(light + signal + draw.normal(size=(count, 20)) * 0.7).float(), torch.from_numpy(labels)

    x, labels = rows(24)
    other, truth = rows(4000)
    right = []
    for way, decay in ((False, 3.75), (True, 0.5)):
        answers = fit_linear(x, labels, 2, functional.cross_entropy, decay, whitened=way)(other).argmax(1)
        right.append((answers == truth).double().mean())
    assert right[1] > right[0] + 0.1


def test_what_varies_within_other_classes_is_known_of_few_pictures():
    """Two pictures of each class, and a light that moves all features: what it does is known from elsewhere."""
    draw = np.random.default_rng(2)
    right = {True: 0.0, False: 0.0}
    for _ in range(20):
        labels = np.arange(4) % 2
        truth = np.arange(400) % 2
        signal = draw.choice((-0.6, 0.6), 20)

        def rows(labels, signal=signal):
            light = 3 * draw.normal(size=(len(labels), 1))
            x = light + np.outer(2 * labels - 1, signal) + 0.5 * draw.normal(size=(len(labels), 20))
            return torch.from_numpy(x).float(), torch.from_numpy(labels)

        x, known_labels = rows(labels)
        other, asked = rows(truth)
        for is_known in right:
            within = torch.from_numpy(9.0 + 0.25 * np.eye(20)).float() if is_known else None
            layer = fit_linear(x, known_labels, 2, functional.cross_entropy, 0.1, whitened=True, within=within)
            right[is_known] += float((layer(other).argmax(1) == asked).double().mean()) / 20
    assert right[True] > right[False] + 0.1, right


@pytest.mark.parametrize("within", [None, known(8)])
def test_features_that_never_vary_do_no_harm(within):
    x, labels = clouds()
    constant = torch.cat([x, torch.zeros(len(x), 2)], 1)
    for whitened in (False, True):
        layer = fit_linear(constant, labels, 3, functional.cross_entropy, 0.1, whitened=whitened, within=within)
        assert (layer(constant).argmax(1) == labels).double().mean() > 0.6


def test_folds_are_stratified_and_the_same_everywhere():
    labels = np.repeat([0, 1, 2], [30, 9, 4])
    fold = folds_of(labels, 3)
    for label in range(3):
        assert np.ptp(np.bincount(fold[labels == label], minlength=3)) <= 1
    assert (fold == folds_of(labels, 3)).all()


def test_cross_validated_answers_are_by_layers_that_never_saw_the_picture():
    draw = torch.Generator().manual_seed(0)
    x, labels = torch.randn(90, 400, generator=draw), torch.arange(90) % 2  # learned by heart at once, and no pattern
    layer = fit_linear(x, labels, 2, functional.cross_entropy, 0.01)
    assert (layer(x).argmax(1) == labels).all()
    plain, averaged = cross_validated(Features(labels, x), 2, functional.cross_entropy, 0.01, 3)
    assert 0.25 < (plain.argmax(1) == labels).double().mean() < 0.75
    assert torch.equal(plain, averaged)


def test_mirror_images_of_a_held_out_picture_are_held_out_too():
    draw = torch.Generator().manual_seed(0)
    x, labels = torch.randn(90, 400, generator=draw), torch.arange(90) % 2
    plain, averaged = cross_validated(Features(labels, x, x + 1e-3), 2, functional.cross_entropy, 0.01, 3)
    assert (plain.argmax(1) == labels).double().mean() < 0.75
    assert torch.allclose(plain, averaged, atol=0.1)


def random_network(classes=3):
    torch.manual_seed(0)
    return ResNet18(classes)


def test_head_is_put_into_the_network_and_its_metrics_are_the_networks():
    network, held_out = random_network(), colours(30, seed=1)
    row = fit_head(TINY, network, colours(60), held_out)
    logits = network.eval()(enlarged(torch.from_numpy(held_out.images), 32))
    right = (logits.argmax(1) == torch.from_numpy(held_out.labels)).double().mean()
    assert row["validation_accuracy"] == pytest.approx(float(right)) and right > 0.9
    assert row["epoch"] == 0 and row["network_size"] == 32 and row["pictures"] == 60


def test_head_of_many_pictures_is_fitted_to_a_sample(monkeypatch):
    monkeypatch.setattr(heads, "HEAD_COST", 10)  # pictures of 64 px: 40 of 32
    assert fit_head(TINY, random_network(), colours(60), colours(30, seed=1))["pictures"] == 40


def test_mirrored_features_are_those_of_mirrored_pictures():
    network, data = random_network(), colours(12)
    flipped = Dataset(np.ascontiguousarray(data.images[:, :, ::-1]), data.labels, data.classes)
    ours, theirs = features_of(network, data, TINY, mirrored=True), features_of(network, flipped, TINY)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_smallest_size_that_is_about_as_good_as_the_best_is_chosen(monkeypatch):
    scores = {32: 0.70, 64: 0.896, 96: 0.90, 128: 0.87, 160: 0.99}
    tried = []

    def scored(*_):
        tried.append(sizes[len(tried)])
        return scores[tried[-1]], 0.0

    sizes = tuple(scores)
    monkeypatch.setattr(heads, "_scores", scored)
    choice = choose_input(random_network(), colours(30), TINY, sizes)
    assert choice.network_size == 64
    assert tried == [32, 64, 96, 128]  # 128 px is clearly worse, so that nobody waits for 160
    assert "0.896 at 64 px" in choice.reason


@pytest.mark.parametrize(
    ("few", "alone", "averaged", "taken"),
    [
        (False, 0.80, 0.801, True),
        (False, 0.80, 0.80, False),
        (True, 0.80, 0.795, True),
        (True, 0.80, 0.74, True),  # of 40 pictures the standard error is 0.063
        (True, 0.80, 0.73, False),
        (True, 0.995, 0.991, False),
        (True, 0.995, 0.996, True),
    ],
)
def test_mirror_image_is_averaged_where_it_gains_and_with_few_pictures_where_it_does_not_clearly_lose(
    monkeypatch, few, alone, averaged, taken
):
    monkeypatch.setattr(heads, "_scores", lambda *_: (alone, averaged))
    monkeypatch.setattr(heads, "FEW", 41 if few else 40)
    choice = choose_input(random_network(), noise(40), replace(TINY, flip_average="auto"), (32,))
    assert choice.flip_average == taken
    assert f"mirror image {averaged:.3f}, alone {alone:.3f}" in choice.reason


def test_what_the_recipe_says_of_the_mirror_image_stands():
    for said in ("on", "off"):
        choice = choose_input(random_network(), colours(30), replace(TINY, flip_average=said), (32,))
        assert choice.flip_average == (said == "on") and "mirror" not in choice.reason
