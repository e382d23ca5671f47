"""The unknown score and its threshold, against slow, obvious versions; what it marks of pictures made for it."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pupila.evaluation.unknown import (
    LEAST,
    UnknownScore,
    distance,
    energy,
    find_prototypes,
    fit_unknown,
    made_pictures,
    threshold,
    unit,
)
from pupila.training.export import graph

DRAW = np.random.default_rng(0)


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
    np.testing.assert_allclose(energy(logits, 2.0), expected)


@pytest.mark.parametrize("nearest", [1, 2, 3])
def test_distance_is_that_to_the_nearest_prototypes(nearest):
    features, prototypes = DRAW.normal(size=(7, 5)), unit(DRAW.normal(size=(4, 5)))
    slow = [sorted(np.linalg.norm(row / np.linalg.norm(row) - p) for p in prototypes)[nearest - 1] for row in features]
    np.testing.assert_allclose(distance(features, prototypes, nearest), slow)


def clouds(count=90, dimensions=8, seed=0):
    """Three tight clouds of features in three directions, and logits that name them."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    features = 5 * np.eye(3, dimensions)[labels] + draw.normal(0, 0.3, (count, dimensions))
    return features.astype(np.float32), (4 * np.eye(3)[labels]).astype(np.float32), labels


def fitted(temperature=1.5):
    features, _, labels = clouds()
    known, logits, _ = clouds(seed=1)
    return fit_unknown(find_prototypes(features, labels, 3), logits, known, temperature)


def test_prototypes_lie_among_their_class_and_are_few_however_many_classes_there_are():
    features, _, labels = clouds()
    prototypes = find_prototypes(features, labels, 3)
    np.testing.assert_allclose(np.linalg.norm(prototypes, axis=1), 1, rtol=1e-6)
    assert np.bincount(prototypes.argmax(axis=1)).tolist() == [20, 20, 20]
    many = find_prototypes(np.eye(500, 600), np.arange(500), 500)
    assert len(many) == 500
    assert len(find_prototypes(features[:1], labels[:1], 3)) == 1


def test_score_adds_both_signals_scaled_to_the_known_pictures():
    score = fitted()
    features, logits, _ = clouds(seed=2)
    far = distance(features, score.prototypes, score.nearest)
    one = np.maximum((energy(logits, 1.5) - score.energy.middle) / score.energy.spread, LEAST)
    other = np.maximum((far - score.distance.middle) / score.distance.spread, LEAST)
    np.testing.assert_allclose(score(logits, features), one + other)


def test_strange_features_are_unknown_however_sure_the_logits_are():
    score = fitted()
    known, logits, _ = clouds(seed=1)
    limit = threshold(score(logits, known))
    strange = np.tile(np.eye(1, 8, 6), (5, 1))
    sure = np.tile([1e4, 0.0, 0.0], (5, 1))
    assert (score(sure, strange) > limit).all()


def test_unsure_answers_are_unknown_however_near_the_features_are():
    score = fitted()
    known, logits, _ = clouds(seed=1)
    assert (score(np.zeros((90, 3)), known) > threshold(score(logits, known))).all()


def test_the_graph_computes_the_same_score():
    score = fitted()
    sides = {"logits": 3, "features": 8}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", k]) for name, k in sides.items()]
    inputs = [helper.make_tensor_value_info(f"{name}.in", TensorProto.FLOAT, ["N", k]) for name, k in sides.items()]
    nodes = [helper.make_node("Identity", [f"{name}.in"], [name]) for name in ("logits", "features")]
    plain = helper.make_model(
        helper.make_graph(nodes, "plain", inputs, outputs), opset_imports=[helper.make_opsetid("", 17)], ir_version=10
    )
    model = graph.with_unknown(plain, score)
    assert len(plain.graph.output) == 2
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits, features = DRAW.normal(0, 5, (50, 3)), DRAW.normal(0, 3, (50, 8))
    features[0], logits[1] = 0, 1e4
    given = {"logits.in": logits.astype(np.float32), "features.in": features.astype(np.float32)}
    np.testing.assert_allclose(session.run(["unknown"], given)[0], score(logits, features), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [8, 32, 50])
def test_made_pictures_are_what_they_are_called_and_the_same_each_time(size):
    known = DRAW.integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    made = made_pictures(known, size, 12)
    assert list(made) == ["noise", "flat colours", "shuffled patches", "small crops"]
    assert all(pictures.shape == (12, size, size, 3) and pictures.dtype == np.uint8 for pictures in made.values())
    assert (made["flat colours"] == made["flat colours"][:, :1, :1]).all()
    again = made_pictures(known, size, 12)
    assert all((made[kind] == again[kind]).all() for kind in made)


def test_shuffled_patches_keep_every_pixel():
    known = DRAW.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    shuffled = made_pictures(known, 32, 3)["shuffled patches"]
    for picture in shuffled:
        assert not (picture == known[0]).all()
        assert sorted(picture.reshape(-1, 3).tolist()) == sorted(known[0].reshape(-1, 3).tolist())


def test_scale_of_signals_that_never_vary_is_finite():
    score = UnknownScore(np.eye(1, 4), 1.0, *[fitted().energy] * 2)
    constant = fit_unknown(score.prototypes, np.zeros((4, 2)), np.ones((4, 4)), 1.0)
    assert np.isfinite(constant(np.zeros((3, 2)), np.ones((3, 4)))).all()
