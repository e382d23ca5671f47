"""The loss of a step in NumPy, one picture at a time; when it has diverged; and what that leaves."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_kit import VALIDATION, Small, begun, scripted_run
from safetensors.torch import save_file
from training_kit import TINY, write_photos

from pupila.cli import main
from pupila.errors import TrainingError
from pupila.predictor import Predictor
from pupila.training.loop.batches import Batch
from pupila.training.loop.class_weights import EVEN, Balance
from pupila.training.loop.fit import _Diverged, _step, _validate_epoch
from pupila.training.loop.resnet import ResNet18

pytestmark = pytest.mark.usefixtures("narrow")

DRAW = np.random.default_rng(0)
LOGITS = DRAW.normal(0, 3, (9, 4)).astype(np.float32)
LABELS = np.array([0, 0, 0, 0, 1, 2, 3, 3, 1])


def log_probabilities(row):
    exponents = [math.exp(value - max(row)) for value in row.astype(float)]
    return [math.log(one / sum(exponents)) for one in exponents]


def slow_cross_entropy(logits, labels, smoothing, weights):
    """The mean over pictures of what each loses, its class's weight times; smoothing spreads a part over all."""
    lost, mass = 0.0, 0.0
    for row, label in zip(logits, labels, strict=True):
        logs = log_probabilities(row)
        evenly = sum(-weight * one for weight, one in zip(weights, logs, strict=True)) / len(row)
        lost += (1 - smoothing) * -weights[label] * logs[label] + smoothing * evenly
        mass += weights[label]
    return lost / mass


def step(logits, labels, weight=1.0, balance=EVEN, outlier_weight=0.0, recipe=TINY):
    """What one real step says of these logits; the last ones, beyond the labels, are of outliers."""
    network = Small(classes=logits.shape[1], logits=torch.from_numpy(logits))
    pictures = torch.zeros(len(logits), 3, 8, 8)
    batch = Batch(pictures, torch.from_numpy(labels), torch.arange(len(labels)), weight, len(labels), outlier_weight)
    return _step(begun(network, recipe, balance), batch)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("way", ["none", "sampling"])
def test_loss_of_a_batch_is_the_slow_one(way, smoothing):
    weights = np.array([0.5, 1.0, 2.0, 1.5], dtype=np.float32)
    balance = Balance(way, torch.from_numpy(weights))
    value, right = step(LOGITS, LABELS, balance=balance, recipe=replace(TINY, label_smoothing=smoothing))
    expected = slow_cross_entropy(LOGITS, LABELS, smoothing, [1.0] * 4)  # drawn by weight already
    assert value == pytest.approx(expected, rel=1e-5)
    assert right == sum(int(row.argmax() == label) for row, label in zip(LOGITS, LABELS, strict=True))


def test_share_of_a_batch_loses_by_its_weight():
    value, right = step(LOGITS, LABELS, weight=0.3)
    assert value == pytest.approx(0.3 * slow_cross_entropy(LOGITS, LABELS, 0.0, [1.0] * 4), rel=1e-5)
    assert right == int((LOGITS.argmax(1) == LABELS).sum())


@pytest.mark.parametrize(("outlier_loss", "share"), [(0.05, 1.0), (10.0, 1.0), (0.5, 0.25)])
@pytest.mark.parametrize("outliers", [1, 4])
def test_outliers_lose_what_parts_them_from_all_classes_alike(outlier_loss, share, outliers):
    known, strange = LOGITS[:-outliers], LOGITS[-outliers:]
    recipe = replace(TINY, outlier_loss=outlier_loss, label_smoothing=0.1)
    value, right = step(LOGITS, LABELS[:-outliers], outlier_weight=share, recipe=recipe)
    doubt = sum(-log / 4 for row in strange for log in log_probabilities(row)) / outliers
    expected = slow_cross_entropy(known, LABELS[:-outliers], 0.1, [1.0] * 4) + outlier_loss * share * doubt
    assert value == pytest.approx(expected, rel=1e-5)
    assert right == int((known.argmax(1) == LABELS[:-outliers]).sum())


def losing(amount, classes=2):
    """Logits of one picture of class 0 that lose just so much."""
    odds = math.log(math.expm1(amount)) if amount < 30 else amount
    return torch.tensor([[0.0, odds, *[-1e4] * (classes - 2)]])


def first_diverged(losses):
    """Each average written out anew, from the logarithm of the classes on, the newest loss a tenth of it."""
    for count in range(1, len(losses) + 1):
        average = 0.9**count * math.log(2)
        average += sum(0.1 * 0.9 ** (count - 1 - place) * losses[place] for place in range(count))
        if not math.isfinite(average) or average > 10 * math.log(2) + 10:
            return count - 1
    return None


LOSS = st.one_of(st.floats(0.1, 3), st.floats(10, 60), st.sampled_from([300.0, 1e6, math.inf, math.nan]))


@settings(deadline=None)
@given(st.lists(LOSS, min_size=1, max_size=25))
def test_diverged_is_a_loss_that_is_not_finite_or_far_above_for_long(losses):
    network = Small(classes=2)
    run = begun(network, replace(TINY, learning_rate=0.0001))
    batch = Batch(torch.zeros(1, 3, 8, 8), torch.tensor([0]), torch.tensor([0]), 1.0, 1)
    diverged = None
    for number, loss in enumerate(losses):
        network.logits, before = losing(loss), network.fc.weight.detach().clone()
        try:
            _step(run, batch)
        except _Diverged:
            diverged = number
            assert torch.equal(network.fc.weight, before)  # no step was taken with it
            break
    assert diverged == first_diverged(losses)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_answers_that_are_not_finite_are_no_epoch(value):
    class Broken(Small):
        def forward(self, x):
            return torch.full((len(x), 3), value)

    run = begun(Broken(), TINY)
    with pytest.raises(_Diverged):
        _validate_epoch(run, VALIDATION, 32)
    assert run.position.rows == [] and run.best == {}


@pytest.mark.parametrize(("rate", "advised"), [(0.1, "0.01"), (0.02, "0.002")])
def test_epochs_before_a_divergence_are_kept_with_their_metrics(tmp_path, rate, advised):
    recipe = replace(TINY, epochs=9, learning_rate=rate)
    seen = []
    watch = {"on_epoch": lambda rows: seen.append(len(rows))}
    fitted = scripted_run(recipe, [18, 22], tmp_path, breaks_at=10, **watch)  # four steps an epoch: in the third
    assert [row["epoch"] for row in fitted.rows] == [1, 2] and seen == [1, 2]
    assert fitted.best_epoch == 1
    assert fitted.ended == (
        f"The loss diverged in epoch 3, far above that of untrained weights: a learning rate of {rate:g} is too high. "
        f"Try --set learning_rate={advised}. The best model so far is kept: valid acc 0.733."
    )


@pytest.mark.parametrize("rights", [[], [10, 11]])
def test_divergence_after_epochs_that_only_guessed_leaves_no_model(tmp_path, rights):
    with pytest.raises(TrainingError, match=r"^The loss diverged in epoch \d.*; there is no model\.$"):
        scripted_run(replace(TINY, epochs=9, learning_rate=0.02), rights, tmp_path, breaks_at=4 * len(rights) + 1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("diverging")
    write_photos(root / "photos", 36)
    torch.manual_seed(0)
    state = {name: value for name, value in ResNet18(3).state_dict().items() if not name.startswith("fc.")}
    save_file(state, root / "trained.safetensors")
    return root


def trained(photos, runs, rate, weights):
    values = [f"learning_rate={rate}", "network_size=32", "progressive=[]", "batch_size=8", "export=float32"]
    values += ["precision=float32", "flip_average=off", "schedule=step"]
    words = ["train", photos / "photos", "--weights", weights, "--epochs", "20", "--runs", runs, "--name", "run"]
    return CliRunner().invoke(main, [*map(str, words), *(f"--set={value}" for value in values)])


def test_command_with_a_wild_rate_and_random_weights_ends_in_one_sentence_and_no_model(photos, tmp_path):
    done = trained(photos, tmp_path, 100, "none")
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
    (said,) = [line for line in done.output.splitlines() if "diverged" in line]
    assert "a learning rate of 100 is too high. Try --set learning_rate=0.05; there is no model." in said
    assert done.output.splitlines()[-1] == said
    assert not (tmp_path / "run" / "model.onnx").exists()


def test_command_with_a_wild_rate_keeps_the_last_layer_that_was_fitted(photos, tmp_path):
    done = trained(photos, tmp_path, 30, photos / "trained.safetensors")
    assert done.exit_code == 0, done.output
    assert done.output.count("is too high") == 1 and "The best model so far is kept" in done.output
    metrics = Predictor.load(tmp_path / "run" / "model.onnx").manifest.metrics
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert metrics["accuracy"] >= 2 / 3 and len(lines) >= 1
