"""Unknown scores, against scikit-learn and slow, obvious versions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from pupila.evaluation import unknown
from pupila.evaluation.unknown import Answers, Mahalanobis, NearestNeighbours, auroc, threshold

few_values = st.lists(st.integers(-3, 3), min_size=1, max_size=30)


@given(few_values, few_values)
def test_auroc_matches_scikit_learn_with_ties(known, other):
    truth = [0] * len(known) + [1] * len(other)
    ours = auroc(np.asarray(known, dtype=float), np.asarray(other, dtype=float))
    assert ours == pytest.approx(roc_auc_score(truth, known + other))


def test_auroc_is_one_when_every_unknown_scores_higher():
    assert auroc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1.0


def test_auroc_of_no_pictures_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        auroc(np.zeros(0), np.zeros(3))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.floats(0, 1))
def test_threshold_keeps_at_least_the_share_asked_for_and_is_the_smallest_that_does(scores, keep):
    values = np.asarray(scores)
    limit = threshold(values, keep)
    assert (values <= limit).mean() >= keep - 1e-12
    assert limit == values.min() or (values < limit).mean() < keep


def test_threshold_keeps_95_of_100_by_default():
    assert threshold(np.arange(100.0)) == 94.0


def test_threshold_of_no_pictures_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        threshold(np.zeros(0))


def test_energy_matches_its_definition():
    logits = np.random.default_rng(0).normal(size=(9, 4))
    expected = -2.0 * np.log(np.exp(logits / 2.0).sum(axis=1))
    np.testing.assert_allclose(unknown.energy(logits, 2.0), expected)


def test_doubt_is_what_confidence_leaves():
    np.testing.assert_allclose(unknown.doubt(np.zeros((2, 4))), 0.75)


def features_of_three_classes(n=120, seed=0):
    """Three stretched clouds in five dimensions."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    spread = random.normal(size=(n, 5)) * (3.0, 1.0, 0.3, 0.1, 1.0)
    return (spread + 4 * np.eye(3, 5)[labels]).astype(np.float32), labels


def test_mahalanobis_matches_the_slow_version():
    features, labels = features_of_three_classes()
    means = np.stack([features[labels == c].mean(axis=0, dtype=float) for c in range(3)])
    deviations = features - means[labels]
    covariance, weight = deviations.T @ deviations / 120, 5 / 125
    shrunk = (1 - weight) * covariance + weight * np.eye(5) * np.trace(covariance) / 5
    inverse = np.linalg.inv(shrunk)
    expected = [min((x - m) @ inverse @ (x - m) for m in means) for x in features]
    np.testing.assert_allclose(Mahalanobis(features, labels).score(features), expected, rtol=1e-6)


def test_mahalanobis_needs_no_more_pictures_than_dimensions_and_not_every_class():
    features = np.random.default_rng(0).normal(size=(8, 64))
    assert np.isfinite(Mahalanobis(features, np.array([0, 4] * 4)).score(features)).all()


def test_mahalanobis_of_features_that_never_vary_is_finite():
    constant = np.ones((6, 4))
    np.testing.assert_allclose(Mahalanobis(constant, np.zeros(6, dtype=np.int64)).score(constant), 0.0)


def test_neighbour_distance_matches_scikit_learn():
    features, _ = features_of_three_classes(600)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = NearestNeighbors(n_neighbors=7).fit(unit).kneighbors(unit)[0][:, -1]
    np.testing.assert_allclose(NearestNeighbours(features, k=7).score(features), expected, atol=1e-6)


def test_neighbours_fewer_than_k_use_the_farthest():
    one = NearestNeighbours(np.array([[1.0, 0.0]]), k=50)
    np.testing.assert_allclose(one.score(np.array([[0.0, 5.0]])), np.sqrt(2))


def test_candidates_are_compared_best_first():
    features, labels = features_of_three_classes(300)
    far = features_of_three_classes(300, seed=1)[0] + (0, 0, 0, 6, 0)
    indifferent = np.zeros((300, 3))
    figures = unknown.compare_candidates(
        Answers(indifferent, features), labels, Answers(indifferent, features), Answers(indifferent, far)
    )
    assert figures["mahalanobis"] > 0.99 > figures["neighbours"] > figures["energy"] == figures["doubt"] == 0.5
    assert list(figures.values()) == sorted(figures.values(), reverse=True)
