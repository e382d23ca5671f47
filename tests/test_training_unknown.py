"""The unknown score that is in the model file against NumPy, in odd cases, and from the training pictures on."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from training_kit import TINY, colours

from pupila.data import Splits
from pupila.evaluation.unknown import LEAST, NEAREST, PROTOTYPES, find_prototypes, fit_unknown, unit
from pupila.training.export import export as exporting
from pupila.training.export import graph
from pupila.training.export.export import export
from pupila.training.loop.fit import Fitted
from pupila.training.loop.head import fit_head
from pupila.training.loop.resnet import ResNet18, enlarged


def in_the_graph(score, logits, features):
    """What the nodes compute that with_unknown() adds, for logits and features that are handed to them."""
    sides = {"logits": logits, "features": features}
    kinds = [(name, TensorProto.FLOAT, ["N", value.shape[1]]) for name, value in sides.items()]
    inputs = [helper.make_tensor_value_info(f"{name}.in", *rest) for name, *rest in kinds]
    nodes = [helper.make_node("Identity", [f"{name}.in"], [name]) for name in sides]
    outputs = [helper.make_tensor_value_info(*kind) for kind in kinds]
    plain = helper.make_graph(nodes, "plain", inputs, outputs)
    model = helper.make_model(plain, opset_imports=[helper.make_opsetid("", graph.OPSET)], ir_version=graph.IR_VERSION)
    data = graph.with_unknown(model, score).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(["unknown"], {f"{name}.in": value.astype(np.float32) for name, value in sides.items()})[0]


def slow_score(prototypes, known, temperature, logits, features):
    """From its definition, a picture at a time: known is (logits, features) of validation."""

    def energy(row):
        return -temperature * np.log(np.sum([np.exp((value - max(row)) / temperature) for value in row])) - max(row)

    def distance(row):
        length = max(np.sqrt(sum(value * value for value in row)), 1e-12)
        each = sorted(np.sqrt(max(2 - 2 * np.dot(row / length, p), 0.0)) for p in prototypes.astype(float))
        return each[min(NEAREST, len(each)) - 1]

    total = np.zeros(len(logits))
    for signal, of_known, values in ((energy, known[0], logits), (distance, known[1], features)):
        seen = sorted(signal(row) for row in of_known.astype(float))
        middle, top = float(np.median(seen)), seen[int(np.ceil(0.95 * len(seen))) - 1]
        spread = max(top - middle, 1e-6 * max(abs(middle), 1.0))
        total += [max((signal(row) - middle) / spread, LEAST) for row in values.astype(float)]
    return total


def cloud(count, classes, seed, dimensions=12):
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    features = np.abs(draw.normal(0, 0.4, (count, dimensions))) + 2 * np.eye(classes, dimensions)[labels]
    logits = 4 * np.eye(classes)[labels] + draw.normal(0, 1, (count, classes))
    return logits.astype(np.float32), features.astype(np.float32), labels


CASES = {
    "usual": (90, 3, 1.5),
    "one picture a class": (3, 3, 1.0),
    "two classes of one picture": (2, 2, 0.5),
    "more classes than prototypes": (PROTOTYPES + 7, PROTOTYPES + 7, 1.0),
    "cold": (60, 4, 0.05),
    "hot": (60, 4, 40.0),
}


@pytest.mark.parametrize("case", CASES)
def test_graph_and_numpy_and_the_definition_agree(case):
    count, classes, temperature = CASES[case]
    dimensions = max(12, classes)
    _, features, labels = cloud(count, classes, 0, dimensions)
    known = cloud(max(count // 3, 2), classes, 1, dimensions)[:2]
    prototypes = find_prototypes(features, labels, classes)
    score = fit_unknown(prototypes, *known, temperature)
    draw = np.random.default_rng(2)
    logits = draw.normal(0, 4, (12, classes)).astype(np.float32)
    strange = draw.normal(0, 1, (12, dimensions)).astype(np.float32)
    logits[0], strange[1] = 40.0, 0.0
    expected = slow_score(prototypes, known, temperature, logits, strange)
    np.testing.assert_allclose(score(logits, strange), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(in_the_graph(score, logits, strange), expected, rtol=5e-3, atol=5e-3)


def test_identical_features_have_one_place_for_all_prototypes_and_still_a_finite_score():
    features = np.full((20, 6), 0.5, dtype=np.float32)
    prototypes = find_prototypes(features, np.arange(20) % 2, 2)
    np.testing.assert_allclose(prototypes, unit(features)[: len(prototypes)], atol=1e-6)
    score = fit_unknown(prototypes, np.zeros((20, 2), np.float32), features, 1.0)
    others = np.vstack([features[:2], np.eye(1, 6), np.zeros((1, 6))]).astype(np.float32)
    ours, file = score(np.zeros((4, 2), np.float32), others), in_the_graph(score, np.zeros((4, 2)), others)
    assert np.isfinite(ours).all() and np.isfinite(file).all()
    assert (ours[2:] > ours[0]).all() and (file[2:] > file[0]).all()


def test_prototypes_are_where_k_means_rests():
    draw = np.random.default_rng(0)
    middles = np.eye(20, 30)
    rows = np.repeat(middles, 5, axis=0) + draw.normal(0, 0.01, (100, 30))
    found = find_prototypes(rows, np.zeros(100, dtype=np.int64), 1)
    assert len(found) == 20
    expected = unit(np.stack([unit(rows[5 * k : 5 * k + 5]).mean(axis=0) for k in range(20)]))
    order = found.argmax(axis=1).argsort()
    np.testing.assert_allclose(found[order], expected, atol=1e-5)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A file of a fitted last layer, the network, and the pictures that it was made with."""
    torch.manual_seed(0)
    network, training, validation = ResNet18(3), colours(45), colours(15, seed=1)
    recipe = replace(TINY, flip_average="off")
    row = fit_head(recipe, network, training, validation)
    fitted = Fitted(network.eval(), 32, 0, [row], 0.0)
    splits = Splits("colours", training, validation, None, (), "0" * 64)
    path = tmp_path_factory.mktemp("unknown") / "model.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "TIMED_CALLS", 1)
        done = export(fitted, recipe, training, validation, path, splits=splits, origin="none")
    return done.predictor, network, training, validation


def outputs_of(network, dataset):
    with torch.no_grad():
        x = enlarged(torch.from_numpy(dataset.images), 32)
        features = network.features(x)
        return network.fc(features).numpy(), features.numpy()


def test_file_scores_pictures_as_numpy_does_from_the_network_on(exported):
    predictor, network, training, validation = exported
    known = outputs_of(network, validation)
    prototypes = find_prototypes(outputs_of(network, training)[1], training.labels, 3)
    strange = colours(12, seed=5)
    strange = replace(strange, images=255 - strange.images)
    for data in (validation, strange):
        expected = slow_score(prototypes, known, predictor.manifest.temperature, *outputs_of(network, data))
        np.testing.assert_allclose(predictor.scores(data.images)[:, -1], expected, rtol=0.02, atol=0.02)


def test_threshold_in_the_file_is_that_of_its_own_scores_and_a_little_more(exported):
    predictor, _, _, validation = exported
    scores = np.sort(predictor.scores(validation.images)[:, -1])
    assert predictor.manifest.unknown_threshold == pytest.approx(scores[14] + exporting.ROUNDING, abs=2e-3)
    assert not any(found.unknown for found in predictor.interpret(predictor.scores(validation.images)))
