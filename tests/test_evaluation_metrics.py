"""Scores and calibration, against scikit-learn and slow, obvious versions."""

import json
import math
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as sklearn_metrics

from pupila.errors import DataError, ModelError
from pupila.evaluation.comparison import binomial_p_value
from pupila.evaluation.metrics import (
    expected_calibration_error,
    fit_temperature,
    log_softmax,
    negative_log_likelihood,
    reliability,
    score,
    wilson,
)

CLASSES = tuple("abcdefg")


def make_logits(n=500, seed=0, scale=1.5):
    """Logits that favour the label, and by too much: about two thirds right."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(CLASSES), n)
    logits = random.normal(size=(n, len(CLASSES)))
    logits[np.arange(n), labels] += 1.5
    return (scale * logits).astype(np.float32), labels


@pytest.fixture(scope="module")
def scored():
    logits, labels = make_logits()
    return score(logits, labels, CLASSES), logits, labels


def test_accuracy_and_balanced_accuracy_match_scikit_learn(scored):
    scores, logits, labels = scored
    answers = logits.argmax(axis=1)
    assert scores.accuracy == pytest.approx(sklearn_metrics.accuracy_score(labels, answers))
    assert scores.balanced_accuracy == pytest.approx(sklearn_metrics.balanced_accuracy_score(labels, answers))


def test_class_scores_match_scikit_learn(scored):
    scores, logits, labels = scored
    expected = sklearn_metrics.precision_recall_fscore_support(labels, logits.argmax(axis=1))
    ours = [(c.precision, c.recall, c.f1, c.support) for c in scores.classes]
    np.testing.assert_allclose(ours, np.transpose(expected))


def test_confusion_matrix_has_the_truth_in_its_rows(scored):
    scores, logits, labels = scored
    assert scores.confusion.dtype == np.int64
    np.testing.assert_array_equal(scores.confusion, sklearn_metrics.confusion_matrix(labels, logits.argmax(axis=1)))


@pytest.mark.parametrize("k", [3, 5])
def test_top_k_matches_scikit_learn(scored, k):
    scores, logits, labels = scored
    assert scores.top_k[k] == pytest.approx(sklearn_metrics.top_k_accuracy_score(labels, logits, k=k))


def test_top_k_is_left_out_where_it_would_be_always_right():
    scores = score(np.eye(4), np.arange(4), "abcd")
    assert list(scores.top_k) == [3]


def test_top_k_counts_equal_logits_in_the_order_of_the_classes():
    scores = score(np.zeros((4, 4)), np.arange(4), "abcd")
    assert (scores.accuracy, scores.top_k[3]) == (0.25, 0.75)


def test_negative_log_likelihood_matches_scikit_learn(scored):
    scores, logits, labels = scored
    probabilities = np.exp(log_softmax(logits))
    assert scores.nll == pytest.approx(sklearn_metrics.log_loss(labels, probabilities), rel=1e-6)


def test_class_without_answers_or_pictures_counts_as_zero_and_not_in_the_balanced_accuracy():
    scores = score(np.array([[9.0, 0, 0], [9.0, 0, 0]]), np.array([0, 1]), "abc")
    assert (scores.classes[1].recall, scores.classes[1].precision, scores.classes[2].support) == (0, 0, 0)
    assert scores.balanced_accuracy == 0.5


def test_scores_turn_into_json_with_the_accuracy_first(scored):
    fields = json.loads(json.dumps(scored[0].to_json(), allow_nan=False))
    assert list(fields)[:3] == ["accuracy", "n", "interval"]
    assert fields["n"] == np.sum(fields["confusion"]) == 500
    assert fields["classes"][0]["category"] == "a"


def test_summary_leaves_out_what_grows_with_the_classes(scored):
    assert not {"classes", "confusion"} & set(scored[0].summary())


def test_score_of_no_pictures_is_a_data_error():
    with pytest.raises(DataError, match="no pictures"):
        score(np.zeros((0, 3)), np.zeros(0, dtype=np.int64), "abc")


def test_score_of_logits_that_are_not_finite_is_a_model_error():
    with pytest.raises(ModelError, match="not finite"):
        score(np.full((2, 3), np.nan), np.zeros(2, dtype=np.int64), "abc")


def test_score_of_a_label_beyond_the_classes_is_refused():
    with pytest.raises(ValueError, match="0 to 2"):
        score(np.zeros((1, 3)), np.array([3]), "abc")


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_matches_scipy(right_and_n):
    right, n = right_and_n
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def slow_calibration_error(logits, labels, temperature, bins=15):
    """Equation 3 of Guo et al., one picture at a time."""
    members = [[] for _ in range(bins)]
    for row, label in zip(logits.astype(float), labels, strict=True):
        exponents = [math.exp(value / temperature) for value in row]
        confidence = max(exponents) / sum(exponents)
        members[math.ceil(confidence * bins) - 1].append((confidence, row.argmax() == label))
    gaps = [abs(sum(right - confidence for confidence, right in held)) for held in members]
    return sum(gaps) / len(labels)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_calibration_error_matches_the_slow_version(temperature):
    logits, labels = make_logits(scale=3.0)
    ece = expected_calibration_error(reliability(logits, labels, temperature))
    assert ece == pytest.approx(slow_calibration_error(logits, labels, temperature), abs=1e-9)


def test_reliability_bins_hold_every_picture_once_and_touch_each_other():
    bins = reliability(*make_logits())
    assert sum(b.count for b in bins) == 500
    assert all(left.high == right.low for left, right in pairwise(bins))


def test_certain_and_right_is_perfectly_calibrated():
    bins = reliability(1000 * np.eye(3), np.arange(3))
    assert (bins[-1].count, bins[-1].accuracy, expected_calibration_error(bins)) == (3, 1.0, 0.0)


@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0, 30.0])
def test_fitted_temperature_matches_a_slow_grid(scale):
    logits, labels = make_logits(scale=scale)
    grid = np.geomspace(0.05, 50, 3000)
    best = min(grid, key=lambda t: negative_log_likelihood(logits, labels, t))
    assert fit_temperature(logits, labels) == pytest.approx(best, rel=0.003)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10))
def test_fitted_temperature_is_never_worse_than_none(seed, scale):
    logits, labels = make_logits(20, seed, scale)
    fitted = fit_temperature(logits, labels)
    assert negative_log_likelihood(logits, labels, fitted) <= negative_log_likelihood(logits, labels) + 1e-9


def test_fitted_temperature_undoes_a_scale():
    logits, labels = make_logits(scale=1.0)
    assert fit_temperature(7 * logits, labels) == pytest.approx(7 * fit_temperature(logits, labels), rel=1e-5)


def test_temperature_stays_one_where_every_picture_is_right():
    assert fit_temperature(np.eye(4), np.arange(4)) == 1.0


def test_temperature_of_useless_logits_stays_within_bounds():
    assert fit_temperature(-np.eye(4), np.arange(4)) == pytest.approx(100.0)


def test_temperature_brings_the_calibration_error_down():
    logits, labels = make_logits(2000, scale=5.0)
    scores = score(logits, labels, CLASSES, fit_temperature(logits, labels))
    assert scores.ece < 0.03 < 0.2 < scores.uncalibrated_ece


def test_huge_logits_neither_overflow_nor_warn():
    assert score(np.array([[1e30, -1e30]], dtype=np.float32), np.array([0]), "ab").nll == 0.0


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_p_value_matches_scipy(one, other):
    expected = binomtest(one, one + other).pvalue if one + other else 1.0
    assert binomial_p_value(one, other) == pytest.approx(expected)


def test_mcnemar_of_many_differences_stays_finite():
    assert 0.0 <= binomial_p_value(4000, 6000) < 1e-80


def test_mcnemar_of_a_million_differences_takes_no_time():
    begun = time.process_time()
    assert binomial_p_value(499_000, 501_000) == pytest.approx(binomtest(499_000, 1_000_000).pvalue)
    assert binomial_p_value(500_000, 500_000) == 1.0
    assert time.process_time() - begun < 1
