"""The loop: it learns, keeps the best, survives being killed, keeps to its budget, and stops when there is no sense."""

import functools
import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from process_kit import ended, running, wait_for
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_kit import TINY, colours

from pupila.errors import TrainingError
from pupila.recipe import load_recipe
from pupila.training.loop.checkpoint import Position
from pupila.training.loop.fit import Fitted, fit, is_flat, size_at, validate
from pupila.training.loop.head import fit_head
from pupila.training.loop.optim import learning_rate
from pupila.training.loop.resnet import ResNet18
from pupila.training.run_folder import TrainingData
from pupila.training.train import TrainJob, describe_guessing, train

pytestmark = pytest.mark.usefixtures("narrow")


def run(recipe, folder, train=None, **options):
    torch.manual_seed(recipe.seed)
    train = train or colours(60)
    network = ResNet18(len(train.classes))
    return fit(recipe, network, train, colours(30, seed=1), folder / "checkpoint.safetensors", identity={}, **options)


@pytest.mark.parametrize(("score", "told"), [(0.25, True), (0.29, True), (0.4, False)])
def test_model_that_has_learned_nothing_is_told(score, told):
    row = {"validation_accuracy": score, "validation_balanced_accuracy": score}
    said = describe_guessing(Fitted(ResNet18(4), 32, 0, [row], 0.0), 4)
    assert said.startswith(f"The model answers no better than guessing (valid acc {score:.3f}, 4 classes)") == told


def test_it_learns_what_can_be_learned(tmp_path):
    assert run(replace(TINY, epochs=15, learning_rate=0.01), tmp_path).rows[-1]["validation_accuracy"] > 0.9


@pytest.mark.parametrize("seed", range(2))
def test_latest_epoch_within_a_standard_error_of_the_best_is_kept(tmp_path, seed):
    recipe = replace(TINY, epochs=8, learning_rate=0.01, schedule="step", seed=seed)  # too fast: it goes up and down
    fitted = run(recipe, tmp_path)
    accuracies = [row["validation_accuracy"] for row in fitted.rows]
    best = max(accuracies)
    as_good = best - (best * (1 - best) / 30) ** 0.5
    assert fitted.best_epoch == max(epoch for epoch, accuracy in enumerate(accuracies) if accuracy >= as_good)
    validated = ResNet18(3)
    validated.load_state_dict(fitted.network.state_dict())
    held_out = colours(30, seed=1)
    right = validate(validated, held_out, 32, recipe).argmax(1) == torch.from_numpy(held_out.labels)
    assert right.float().mean().item() == pytest.approx(accuracies[fitted.best_epoch])


def test_same_seed_gives_the_same_weights(tmp_path):
    first, second = (run(TINY, tmp_path).network.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_progressive_run_ends_at_the_network_size(tmp_path):
    recipe = replace(TINY, epochs=3, network_size=48, progressive=((32, 0.5),))
    fitted = run(recipe, tmp_path)
    assert [row["network_size"] for row in fitted.rows] == [32, 32, 48]
    assert fitted.network_size == 48


def test_size_at_follows_the_shares():
    recipe = replace(TINY, network_size=64, progressive=((32, 0.25), (48, 0.25)))
    assert [size_at(recipe, p) for p in (0, 0.24, 0.25, 0.49, 0.5, 0.99)] == [32, 32, 48, 48, 64, 64]


@pytest.mark.parametrize("rate", [100.0, 30.0])
def test_divergence_without_a_model_ends_with_advice(tmp_path, rate):
    advice = (
        rf"The loss diverged in epoch 1.* learning rate of {rate:g} is too high. Try --set learning_rate=0.05; there"
    )
    with pytest.raises(TrainingError, match=advice):
        run(replace(TINY, learning_rate=rate, schedule="step", epochs=30), tmp_path)


@pytest.mark.parametrize("rate", [100.0, 30.0])
def test_divergence_keeps_the_last_layer_that_was_fitted_and_says_so(tmp_path, rate):
    torch.manual_seed(0)
    network, data, held_out = ResNet18(3), colours(60), colours(30, seed=1)
    recipe = replace(TINY, learning_rate=rate, schedule="step", epochs=30)
    head = fit_head(recipe, network, data, held_out)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    checkpoint = tmp_path / "checkpoint.safetensors"
    fitted = fit(recipe, network, data, held_out, checkpoint, identity={}, head=head)
    assert fitted.best_epoch == 0 and fitted.rows[0]["validation_accuracy"] > 0.9
    assert "is too high" in fitted.ended and "The best model so far is kept: valid acc" in fitted.ended
    assert all(torch.equal(value, before[name]) for name, value in fitted.network.state_dict().items())


def rows(*accuracies, size=32):
    return [{"network_size": size, "validation_balanced_accuracy": accuracy} for accuracy in accuracies]


def test_flat_is_no_better_score_for_six_epochs_or_a_third_of_all():
    rising = [0.1 * n for n in range(6)]
    assert not is_flat(TINY, Position(rows=rows(*rising, *[0.5] * 5)), 0.9)
    assert is_flat(TINY, Position(rows=rows(*rising, *[0.5] * 6)), 0.9)
    many = [0.01 * n for n in range(30)]
    assert not is_flat(TINY, Position(rows=rows(*many, *[0.29] * 13)), 0.9)
    assert is_flat(TINY, Position(rows=rows(*many, *[0.29] * 14)), 0.9)


def test_nothing_is_flat_while_the_rate_climbs_or_pictures_are_small():
    flat = Position(rows=rows(*[0.5] * 20))
    assert is_flat(TINY, flat, 0.9)
    assert not is_flat(TINY, flat, TINY.warmup / 2)
    assert not is_flat(replace(TINY, network_size=48), flat, 0.9)


def test_flat_run_ends_by_itself_with_a_rate_that_falls_to_zero_and_says_so(tmp_path):
    recipe = replace(TINY, minutes=1000.0, max_epochs=40, learning_rate=1e-7, warmup=0.01)  # learns next to nothing
    fitted = run(recipe, tmp_path, colours(16))
    assert len(fitted.rows) < 20
    assert fitted.rows[-1]["learning_rate"] < fitted.rows[-4]["learning_rate"] / 3
    assert fitted.ended.startswith("Ended after 0.") and "of 1000 minutes: validation had been flat" in fitted.ended


def test_most_epochs_end_a_run_that_has_minutes_left(tmp_path):
    fitted = run(replace(TINY, minutes=1000.0, max_epochs=3), tmp_path)
    assert len(fitted.rows) == 3 and fitted.ended == ""
    assert fitted.rows[-1]["learning_rate"] < TINY.learning_rate / 3


def test_frozen_batch_norm_keeps_the_statistics_it_began_with(tmp_path):
    torch.manual_seed(0)
    for way in ("frozen", "train"):
        (tmp_path / way).mkdir()
    before = {name: value.clone() for name, value in ResNet18(3).state_dict().items() if "running" in name}
    frozen = run(replace(TINY, batch_norm="frozen", learning_rate=1e-4), tmp_path / "frozen").network.state_dict()
    assert all(torch.equal(value, frozen[name]) for name, value in before.items())
    trained = run(replace(TINY, batch_norm="train", learning_rate=1e-4), tmp_path / "train").network.state_dict()
    assert not any(torch.equal(value, trained[name]) for name, value in before.items())


@pytest.mark.parametrize("batch_norm", ["train", "frozen"])
def test_epochs_worse_than_the_fitted_last_layer_are_not_kept(tmp_path, batch_norm):
    torch.manual_seed(0)
    network, data, held_out = ResNet18(3), colours(60), colours(30, seed=1)
    held_out = replace(held_out, labels=(held_out.labels + 1) % 3)  # so that no epoch is any good
    recipe = replace(TINY, learning_rate=1e-4, batch_norm=batch_norm)
    head = {**fit_head(recipe, network, data, held_out), "validation_accuracy": 0.5}
    fitted = fit(recipe, network, data, held_out, tmp_path / "checkpoint.safetensors", identity={}, head=head)
    assert fitted.best_epoch == 0 and [row["epoch"] for row in fitted.rows] == [0, 1, 2]


@pytest.mark.parametrize("resumed", [False, True])
def test_of_few_pictures_weights_midway_from_the_fitted_last_layer_are_kept(tmp_path, resumed):
    torch.manual_seed(0)
    network, data, held_out = ResNet18(3), colours(60), colours(30, seed=1)
    recipe = replace(TINY, epochs=4, batch_norm="frozen", learning_rate=1e-3)
    head, checkpoint = fit_head(recipe, network, data, held_out), tmp_path / "checkpoint.safetensors"
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fitted = fit(recipe, network, data, held_out, checkpoint, identity={}, head=head)
    if resumed:  # at its end: all that is kept comes from the checkpoint
        fitted = fit(recipe, ResNet18(3), data, held_out, checkpoint, identity={}, resume=True)
    assert fitted.best_epoch == 4
    for name, kept in fitted.network.state_dict().items():
        trained = load_file(checkpoint)[f"network/{name}"]
        assert torch.allclose(kept.float(), before[name] + 0.5 * (trained - before[name])), name
    right = validate(fitted.network, held_out, 32, recipe).argmax(1) == torch.from_numpy(held_out.labels)
    assert right.float().mean().item() == pytest.approx(fitted.rows[-1]["validation_accuracy"])


@pytest.mark.slow
def test_budget_in_minutes_is_used_and_little_more_on_a_busy_machine(tmp_path):
    pictures = colours(9000)  # so many that validation cannot be flat after so few epochs
    begun = time.monotonic()
    run(replace(TINY, minutes=0.1), tmp_path, pictures)
    assert 0.9 * 6 <= time.monotonic() - begun <= 1.1 * 6 + 10  # building the network takes long on a busy machine


def test_ctrl_c_returns_the_best_so_far(tmp_path):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it

    def stop_after_first(_):
        os.kill(os.getpid(), signal.SIGINT)

    fitted = run(replace(TINY, epochs=50), tmp_path, on_epoch=stop_after_first)
    assert len(fitted.rows) == 1 and fitted.stopped
    assert fitted.ended == "Ended early by Ctrl-C after 1 epoch: the best model so far is kept."


def test_ctrl_c_before_the_first_epoch_says_that_there_is_no_model(tmp_path):
    class Impatient(ResNet18):
        def forward(self, _):
            raise KeyboardInterrupt

    with pytest.raises(TrainingError, match="there is no model yet"):
        fit(TINY, Impatient(3), colours(60), colours(30), tmp_path / "checkpoint.safetensors", identity={})


def test_resume_of_another_run_names_what_differs(tmp_path):
    run(TINY, tmp_path)
    with pytest.raises(TrainingError, match="the pictures are others"):
        fit(
            TINY,
            ResNet18(3),
            colours(60),
            colours(30),
            tmp_path / "checkpoint.safetensors",
            identity={"data": "other"},
            resume=True,
        )


def test_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"{")
    with pytest.raises(TrainingError, match="is not a whole checkpoint"):
        run(TINY, tmp_path, resume=True)


@pytest.mark.parametrize("group", ["network", "best", "momentum"])
def test_checkpoint_of_another_network_is_named(tmp_path, group):
    run(TINY, tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors, header = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    first = next(key for key in sorted(tensors) if key.startswith(f"{group}/"))
    save_file({**tensors, first: torch.zeros(2, 3)}, path, header)
    with pytest.raises(TrainingError, match="is not a whole checkpoint"):
        run(replace(TINY, epochs=TINY.epochs + 1), tmp_path, resume=True)


def test_full_disk_ends_in_one_sentence(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(TrainingError, match="cannot be written"):
        run(TINY, tmp_path / "run")


def test_one_cycle_climbs_and_falls_to_zero():
    recipe = replace(TINY, learning_rate=1.0, warmup=0.2)
    rates = [learning_rate(recipe, p, 0) for p in np.linspace(0, 1, 101)]
    assert rates[20] == pytest.approx(1.0) == max(rates)
    assert rates[0] == pytest.approx(0.05) and rates[100] == 0


def test_step_schedule_falls_every_so_many_epochs():
    recipe = replace(TINY, schedule="step", learning_rate=1.0, lr_period=4, lr_decay=0.9)
    assert [learning_rate(recipe, 0.0, epoch) for epoch in (0, 3, 4, 8)] == pytest.approx([1, 1, 0.9, 0.81])


def train_digits(folder, **options):
    values = ["weights=none", "minutes=0", "epochs=3", "sample=240", "batch_size=32", "network_size=32"]
    recipe = load_recipe("standard", [*values, "progressive=[]", "export=float32"])
    train(TrainJob(TrainingData("digits"), recipe, folder, folder.exists(), **options), keep_open=True)


def steps_done(checkpoint):
    if not checkpoint.exists():
        return 0
    with checkpoint.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return json.loads(header["__metadata__"]["position"])["steps"]


@pytest.mark.slow
def test_killed_run_ends_with_the_same_weights_bit_for_bit(tmp_path):
    train_digits(tmp_path / "undisturbed")
    checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
    for steps in (3, 10):  # in the middle of the first epoch, and of the second
        with running(tmp_path, functools.partial(train_digits, checkpoint_seconds=0.0), checkpoint.parent) as process:
            wait_for(lambda least=steps: steps_done(checkpoint) >= least, process, tmp_path)
    with running(tmp_path, train_digits, checkpoint.parent) as process:
        ended(process, tmp_path)
    ours, theirs = (load_file(tmp_path / run / "checkpoint.safetensors") for run in ("killed", "undisturbed"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


class KilledError(Exception):
    """In place of SIGKILL."""


def test_run_killed_between_its_last_step_and_validation_goes_on_with_that(tmp_path, monkeypatch):
    recipe = replace(TINY, epochs=1)

    def killed(*_):
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr("pupila.training.loop.fit._validate_epoch", killed)
        run(recipe, tmp_path, checkpoint_seconds=0.0)
    resumed = run(recipe, tmp_path, resume=True)
    assert [row["epoch"] for row in resumed.rows] == [1]
    assert resumed.rows[0]["pictures"] == 60
