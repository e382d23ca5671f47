"""Learning rates, sizes and the end of a run, step by step, against slow and obvious versions."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loop_kit import recorded_rates, scripted_run, slow_one_cycle
from training_kit import TINY

from pupila.training.loop import fit as fits
from pupila.training.loop.checkpoint import Position, load_checkpoint
from pupila.training.loop.fit import COOLDOWN, end_of
from pupila.training.loop.optim import learning_rate
from pupila.training.train import closing_line, pace

pytestmark = pytest.mark.usefixtures("narrow")

WARMUPS = st.one_of(st.just(0.0), st.floats(0.001, 0.9))
PEAK = replace(TINY, learning_rate=0.4)


@given(warmup=WARMUPS, progress=st.floats(0, 1.5))
def test_one_cycle_is_two_straight_lines_and_never_below_zero(warmup, progress):
    rate = learning_rate(replace(PEAK, warmup=warmup), progress, 0)
    assert rate == pytest.approx(slow_one_cycle(0.4, warmup, progress), abs=1e-12)
    assert 0 <= rate <= 0.4 + 1e-12


def test_without_warm_up_the_first_step_is_the_largest():
    assert learning_rate(replace(PEAK, warmup=0.0), 0.0, 0) == 0.4


@given(period=st.integers(1, 12), decay=st.floats(0.01, 1), epoch=st.integers(0, 60))
def test_step_schedule_is_a_product_over_the_epochs_whatever_the_progress(period, decay, epoch):
    recipe = replace(PEAK, schedule="step", lr_period=period, lr_decay=decay)
    expected = 0.4
    for number in range(1, epoch + 1):
        if number % period == 0:
            expected *= decay
    assert learning_rate(recipe, 0.0, epoch) == pytest.approx(expected)
    assert learning_rate(recipe, 0.9, epoch) == learning_rate(recipe, 0.0, epoch)


@given(warmup=WARMUPS, cooldown=st.floats(0.01, 0.99))
def test_cool_down_goes_on_from_the_rate_that_it_found_and_falls_to_zero(warmup, cooldown):
    recipe = replace(PEAK, warmup=warmup)
    position = Position(cooldown=cooldown)
    end = end_of(position)
    assert end == min(1.0, cooldown + COOLDOWN)
    found = slow_one_cycle(0.4, warmup, cooldown)
    for share in (0.0, 0.25, 0.5, 0.99, 1.0, 1.5):
        rate = fits._rate(recipe, position, cooldown + share * (end - cooldown))
        assert rate == pytest.approx(max(found * (1 - share), 0.0), abs=1e-9)


def test_a_run_that_was_never_flat_ends_at_its_end():
    assert end_of(Position()) == 1.0


def test_every_step_of_a_run_takes_the_rate_of_its_place(tmp_path):
    recipe = replace(PEAK, epochs=3, learning_rate=0.01, warmup=0.3, layer_decay=0.5)
    with recorded_rates() as rates:
        fitted = scripted_run(recipe, [20] * 3, tmp_path)
    assert len(rates) == 3 * 4  # 60 pictures in batches of 16
    factors = np.array([0.125, 0.125, 0.125, 0.25, 0.5, 1, 1])  # conv1, bn1, layer1 to layer4, fc
    expected = [slow_one_cycle(0.01, 0.3, step / 12) * factors for step in range(12)]
    np.testing.assert_allclose(rates, expected, rtol=1e-9)
    assert [row["learning_rate"] for row in fitted.rows] == [rates[step][5] for step in (3, 7, 11)]  # of layer4


def test_every_step_of_a_step_schedule_takes_the_rate_of_its_epoch(tmp_path):
    recipe = replace(PEAK, epochs=4, learning_rate=0.01, schedule="step", lr_period=2, lr_decay=0.1)
    with recorded_rates() as rates:
        scripted_run(recipe, [20] * 4, tmp_path)
    np.testing.assert_allclose([step[0] for step in rates], [0.01] * 8 + [0.001] * 8)


def test_flat_validation_lets_the_rate_fall_in_a_tenth_of_the_run_and_ends_it(tmp_path):
    recipe = replace(PEAK, minutes=1000.0, max_epochs=32, learning_rate=0.01, warmup=0.1)
    with recorded_rates() as rates:
        fitted = scripted_run(recipe, [20] * 20, tmp_path)
    steps, flat = 32 * 4, 7 / 32  # the first epoch was the best, and six more that are not better are flat
    places = [step / steps for step in range(steps) if step / steps < flat + COOLDOWN]
    before = [slow_one_cycle(0.01, 0.1, place) for place in places if place < flat]
    found = slow_one_cycle(0.01, 0.1, flat)
    after = [found * (1 - (place - flat) / COOLDOWN) for place in places if place >= flat]
    np.testing.assert_allclose([step[0] for step in rates], before + after, rtol=1e-6)
    assert [row["pictures"] for row in fitted.rows] == [60] * 10 + [15]
    assert fitted.ended.startswith("Ended after 0.") and "of 1000 minutes" in fitted.ended


def test_epochs_that_are_asked_for_are_all_trained_however_flat_they_are(tmp_path):
    fitted = scripted_run(replace(TINY, epochs=15), [20] * 15, tmp_path, count=16)
    assert [row["epoch"] for row in fitted.rows] == list(range(1, 16)) and fitted.ended == ""


@given(
    epochs=st.integers(1, 50), most=st.integers(0, 50), minutes=st.sampled_from([0.0, 0.5, 10.0]),
    steps=st.integers(0, 400), seconds=st.floats(0, 1000), reserve=st.floats(0, 7), begun=st.floats(0, 50),
)  # fmt: skip
def test_progress_is_by_epochs_alone_or_by_minutes_and_most_epochs(
    epochs, most, minutes, steps, seconds, reserve, begun
):
    recipe = replace(TINY, epochs=epochs, max_epochs=most, minutes=minutes)
    left = 60 * minutes - reserve - begun
    shares = [seconds / left if left > 0 else 1.0] if minutes else [steps / 8 / epochs]
    if minutes and most:
        shares.append(steps / 8 / most)
    position = Position(steps=steps, seconds=begun + seconds, reserve=reserve, begun=begun)
    assert fits._progress(recipe, position, 8) == pytest.approx(max(shares))


@pytest.mark.parametrize(
    ("changes", "epochs"),
    [
        ({"epochs": 3, "max_epochs": 1}, 3),
        ({"epochs": 1, "max_epochs": 3, "minutes": 1000.0}, 3),
        ({"epochs": 9, "max_epochs": 9, "minutes": 1e-7}, 1),
    ],
)
def test_what_ends_a_run(tmp_path, changes, epochs):
    fitted = scripted_run(replace(TINY, **changes), [20] * 9, tmp_path)
    assert len(fitted.rows) == epochs and fitted.ended == ""
    cut = 15 if changes.get("minutes") == 1e-7 else 60  # one batch of the first epoch, and that is validated
    assert [row["pictures"] for row in fitted.rows] == [cut] * epochs


def test_a_budget_that_the_last_layer_has_used_up_leaves_no_epoch(tmp_path):
    head = {"epoch": 0, "network_size": 32, "train_loss": 0.5, "train_accuracy": 0.8, "validation_accuracy": 0.7}
    head |= {"validation_balanced_accuracy": 0.7, "validation_loss": 0.6, "seconds": 61.0, "pictures": 60}
    fitted = scripted_run(replace(TINY, minutes=1.0, max_epochs=9), [], tmp_path, head=head)
    assert fitted.rows == [head] and fitted.best_epoch == 0
    assert closing_line(fitted).startswith("loss 0.500, train acc 0.800, valid acc 0.700\n")


@pytest.mark.parametrize(
    ("spent", "reserve", "counted"),
    [(0.0, 0.0, (0, 0)), (90.0, 30.0, (90, 30)), (400.0, 200.0, (400, 140)), (9999.0, 9999.0, (540, 0))],
)
def test_what_comes_before_and_after_counts_and_a_tenth_of_the_minutes_is_left_to_train(
    tmp_path, spent, reserve, counted
):
    recipe = replace(TINY, minutes=10.0, max_epochs=1)
    scripted_run(recipe, [20], tmp_path, spent=spent, reserve=reserve)
    position, _ = load_checkpoint(tmp_path / "checkpoint.safetensors", {})
    assert position.reserve == counted[1] and counted[0] < position.seconds < counted[0] + 20
    assert position.begun == counted[0]


@pytest.mark.parametrize(("spent", "reserve", "epochs"), [(90.0, 30.0, 1), (400.0, 141.0, 0), (9999.0, 9999.0, 0)])
def test_behind_a_fitted_last_layer_less_than_a_tenth_of_the_minutes_is_not_trained(tmp_path, spent, reserve, epochs):
    recipe = replace(TINY, minutes=10.0, max_epochs=1)
    head = {"epoch": 0, "network_size": 32, "train_loss": 0.5, "train_accuracy": 0.8, "validation_accuracy": 0.7}
    head |= {"validation_balanced_accuracy": 0.7, "validation_loss": 0.6, "seconds": 1.0, "pictures": 60}
    fitted = scripted_run(recipe, [20] * epochs, tmp_path, spent=spent, reserve=reserve, head=head)
    assert len(fitted.rows) == 1 + epochs
    assert fitted.ended.startswith("Only the last layer was fitted") == (not epochs)
    again = scripted_run(recipe, [], tmp_path, resume=True)
    assert len(again.rows) == 1 + epochs and again.ended == fitted.ended


def test_pace_is_that_of_the_newest_epoch_and_what_is_left_of_epochs_or_minutes():
    rows = [{"epoch": 0, "seconds": 20.0}, {"epoch": 1, "seconds": 32.5}]
    assert pace(replace(TINY, epochs=9), rows[:1]) == "20.0 s"
    assert pace(replace(TINY, epochs=9), rows) == "12.5 s an epoch, 1:40 left"
    assert pace(replace(TINY, minutes=2.0), rows) == "12.5 s an epoch, 1:28 left"
    assert pace(replace(TINY, minutes=0.5), rows) == "12.5 s an epoch, 0:00 left"
