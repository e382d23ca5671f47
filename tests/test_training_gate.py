"""What is not published as it was asked for: int8 that loses too much, and a file that answers unlike the network."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_kit import TINY, colours

from pupila.data import Dataset, Splits
from pupila.errors import PupilaError, TrainingError
from pupila.manifest import METADATA_KEY, Manifest
from pupila.predictor import Predictor
from pupila.training.export import export as exporting
from pupila.training.export import graph
from pupila.training.export.export import GATE, Candidate, export
from pupila.training.loop.fit import Fitted
from pupila.training.loop.head import fit_head
from pupila.training.loop.resnet import ResNet18, enlarged

CLASSES = ("red", "green", "blue")


def fit_to(network, size=32):
    return Fitted(network.eval(), size, 0, [], 0.0)


def published(network, training, validation, path, **changes):
    splits = Splits("made", training, validation, None, (), "0" * 64)
    recipe = replace(TINY, **changes)
    return export(fit_to(network), recipe, training, validation, path, splits=splits, origin="none")


@pytest.fixture(scope="module", autouse=True)
def untimed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "TIMED_CALLS", 1)
        yield


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = ResNet18(3)
    fit_head(TINY, network, colours(60), colours(30, seed=1))
    return network.eval()


@pytest.fixture(scope="module")
def on_a_knife_edge():
    """A network of two classes, and pictures that differ by a grey level here and there: half are just over the edge.

    Their classes are the network's own answers, so that float32 is right of all, and any rounding costs.
    """
    torch.manual_seed(0)
    network, draw = ResNet18(2).eval(), np.random.default_rng(0)
    base = draw.integers(60, 190, (1, 32, 32, 3))
    pictures = (base + draw.integers(-1, 2, (80, 32, 32, 3))).astype(np.uint8)
    with torch.no_grad():
        x = enlarged(torch.from_numpy(pictures), 32)
        margin = network(x) @ torch.tensor([-1.0, 1.0])
        network.fc.bias[1] -= margin.median()
        labels = network(x).argmax(1).numpy()
    assert 30 <= labels.sum() <= 50
    dataset = Dataset(pictures, labels, ("under", "over"))
    return network, dataset.take(range(40)), dataset.take(range(40, 80))


def test_int8_that_loses_more_than_the_gate_allows_is_published_as_float32(on_a_knife_edge, tmp_path, caplog):
    network, training, validation = on_a_knife_edge
    done = published(network, training, validation, tmp_path / "model.onnx", export="int8")
    exact, rounded = done.candidates
    assert (exact.precision, rounded.precision) == ("float32", "int8")
    assert exact.judged > 0.97 and rounded.judged < exact.judged - GATE
    assert done.predictor.manifest.precision == "float32" and done.path.stat().st_size > 40e6
    lost = 100 * (exact.judged - rounded.judged)
    assert f"int8 loses {lost:.2f} points on 40 validation and 40 training pictures, over the limit" in caplog.text
    with torch.no_grad():
        answers = network(enlarged(torch.from_numpy(validation.images), 32)).numpy()
    np.testing.assert_allclose(done.predictor.logits(validation.images), answers, atol=1e-4)
    assert done.predictor.manifest.metrics["accuracy"] == pytest.approx(exact.accuracy)


@pytest.mark.parametrize("pictures", [30, 1000, 3000])
def test_gate_allows_three_of_a_thousand_and_no_more(pictures):
    for right in range(pictures // 2, pictures, max(pictures // 97, 1)):
        for lost in range(min(right, 13)):
            exact, other = (Candidate("", *[None] * 4, 0.0, n / pictures, 0, 0.0) for n in (right, right - lost))
            chosen = exporting._choose([exact, other], pictures, 0)
            assert chosen is (other if 1000 * lost <= 3 * pictures else exact), (right, lost)


def test_a_better_file_and_the_only_file_pass():
    worse, better = (Candidate("", *[None] * 4, 0.0, judged, 0, 0.0) for judged in (0.8, 0.9))
    assert exporting._choose([worse, better], 10, 0) is better
    assert exporting._choose([worse], 10, 0) is worse


def predictor_of(network, size=32, **options):
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    manifest = Manifest("x", CLASSES, 32, size, "float32", "none", {}, {})
    model = graph.with_metadata(graph.build(state, 32, size, **options), {METADATA_KEY: manifest.to_json()})
    return Predictor.from_bytes(model.SerializeToString())


def changed(network, change):
    other = ResNet18(3)
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        change(other)
    return other.eval()


def swap_classes(network):
    network.fc.weight.copy_(network.fc.weight[[1, 0, 2]])


def shift_bias(network):
    network.fc.bias[2] += 0.5


def forget_statistics(network):
    network.layer3[1].bn2.running_mean.add_(0.3)


def parity(fitted, predictor, **changes):
    return exporting._check_parity(fitted, replace(TINY, **changes), predictor, colours(30, seed=1))


@pytest.mark.parametrize("change", [swap_classes, shift_bias, forget_statistics])
def test_file_of_other_weights_is_found_out(network, change):
    with pytest.raises(TrainingError, match=r"differs from the trained network by [0-9.]+ in probability, over"):
        parity(fit_to(network), predictor_of(changed(network, change)))


@pytest.mark.parametrize(("built", "asked"), [(True, "off"), (False, "on")])
def test_file_that_averages_otherwise_than_the_recipe_says_is_found_out(built, asked):
    torch.manual_seed(3)
    fitted = fit_to(ResNet18(3))
    predictor = predictor_of(fitted.network, flip_average=built)
    with pytest.raises(TrainingError, match="differs from the trained network"):
        parity(fitted, predictor, flip_average=asked)
    assert parity(fitted, predictor, flip_average="on" if built else "off") < exporting.PARITY_TOLERANCE


def test_file_of_another_network_size_is_found_out(network):
    with pytest.raises(TrainingError, match="differs from the trained network"):
        parity(fit_to(network, 64), predictor_of(network, 32))


def test_answers_that_are_no_numbers_are_never_published(network, tmp_path):
    broken = changed(network, lambda other: other.fc.bias.fill_(float("nan")))
    with pytest.raises(PupilaError):
        published(broken, colours(30), colours(15, seed=1), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
