"""When a run ends by itself and which epoch it keeps: made-up histories against brute force."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_kit import VALIDATION, Small, begun, scripted_run, slow_is_flat
from training_kit import TINY

from pupila.training.loop.checkpoint import Position
from pupila.training.loop.class_weights import Balance
from pupila.training.loop.fit import COOLDOWN, _count_head, _validate_epoch, is_flat

pytestmark = pytest.mark.usefixtures("narrow")

WIDE = replace(TINY, network_size=48, warmup=0.2)


def row(right, size=48):
    return {"network_size": size, "validation_balanced_accuracy": right / 30}


@given(
    small=st.lists(st.integers(0, 30), max_size=12),
    large=st.lists(st.integers(0, 30), max_size=30),
    tail=st.integers(0, 14),
    progress=st.sampled_from([0.1, 0.2, 0.21, 0.9]),
)
def test_flat_is_what_going_through_the_epochs_one_by_one_finds(small, large, tail, progress):
    rows = [row(right, 32) for right in small] + [row(right) for right in large]
    rows += [{**rows[-1], "validation_balanced_accuracy": 0.0}] * tail if rows else [row(5)]
    assert is_flat(WIDE, Position(rows=rows), progress) == slow_is_flat(WIDE, rows, progress)


def test_longer_runs_wait_longer():
    for rising in range(1, 45):
        for tail in range(20):
            rows = [row(0.5 * right) for right in range(rising)] + [row(0)] * tail
            assert is_flat(WIDE, Position(rows=rows), 0.9) == slow_is_flat(WIDE, rows, 0.9), (rising, tail)


def test_the_fitted_last_layer_counts_as_an_epoch_that_has_to_be_beaten():
    head = {**row(25), "epoch": 0}
    assert is_flat(WIDE, Position(rows=[head, *[row(24)] * 6]), 0.9)
    assert not is_flat(WIDE, Position(rows=[head, row(26), *[row(24)] * 5]), 0.9)


def kept_by_brute_force(rows, head):
    """The latest epoch at the largest size that is one standard error below the best at most, and not below `head`."""
    size = max(row["network_size"] for row in rows)
    at_size = {n: row["validation_accuracy"] for n, row in enumerate(rows) if row["network_size"] == size}
    best = max(at_size.values())
    least = max(best - math.sqrt(best * (1 - best) / 30), head)
    return max(n for n, accuracy in at_size.items() if accuracy >= least)


def validated(history, head=None, recipe=WIDE):
    """Validate a network that is right for so many of 30 pictures, size by size."""
    network = Small([right for right, _ in history])
    run = begun(network, recipe)
    if head is not None:
        accuracy = {"validation_accuracy": head / 30, "validation_balanced_accuracy": head / 30}
        _count_head(run, {"epoch": 0, "network_size": 48, "seconds": 1.5, "pictures": 60, **accuracy})
    for _, size in history:
        _validate_epoch(run, VALIDATION, size)
    return run


NEAR = st.integers(-4, 4)
"""Pictures more or fewer than about as many in every epoch."""


@settings(deadline=None, max_examples=60)
@given(level=st.integers(4, 26), small=st.lists(NEAR, max_size=3), large=st.lists(NEAR, min_size=1, max_size=10),
       head=st.none() | NEAR)  # fmt: skip
def test_kept_epoch_is_the_latest_within_one_standard_error_and_never_below_the_last_layer(level, small, large, head):
    small, large = [level + more for more in small], [level + more for more in large]
    head = None if head is None else level + head
    history = [(right, 32) for right in small] + [(right, 48) for right in large]
    run = validated(history, head)
    position = run.position
    assert position.best_epoch == kept_by_brute_force(position.rows, -1 if head is None else head / 30)
    assert position.rows[position.best_epoch]["validation_accuracy"] >= position.head
    before = position.best_epoch + (head is None)  # validations until the weights were taken
    assert run.best["validated"] == before
    assert [row["validation_accuracy"] for row in position.rows[head is not None :]] == pytest.approx(
        [right / 30 for right, _ in history]
    )


def test_uneven_classes_are_kept_by_balanced_accuracy():
    few = VALIDATION.take([0, 3, 6, 9, 12, 15, 18, 1, 2])  # seven of the first class, one of each other

    class Always(Small):
        """Says the first class in one epoch, and in the next each class where that is right but for one."""

        def forward(self, x):
            self.validated += 1
            labels = torch.from_numpy(few.labels) if self.validated > 1 else torch.zeros(len(x), dtype=torch.int64)
            labels = torch.where((torch.arange(len(x)) < 3) & (self.validated > 1), 1, labels)
            return torch.nn.functional.one_hot(labels, 3).float()

    for way, kept in (("none", 0), ("sampling", 1)):
        run = begun(Always(), WIDE, Balance(way, torch.ones(3)))
        for _ in range(2):
            _validate_epoch(run, few, 48)
        assert [row["validation_accuracy"] for row in run.position.rows] == pytest.approx([7 / 9, 6 / 9])
        best = run.position.best
        assert best == pytest.approx([7 / 9, (4 / 7 + 1 + 1) / 3][kept])


def test_validation_begins_the_next_epoch_with_empty_sums():
    run = begun(Small([20]), TINY)
    run.position = Position(epoch=4, batch=3, loss_sum=30.0, correct=45, seen=60, steps=19)
    _validate_epoch(run, VALIDATION, 32)
    found, position = run.position.rows[0], run.position
    assert (found["epoch"], found["train_loss"], found["train_accuracy"], found["pictures"]) == (5, 0.5, 0.75, 60)
    assert (position.epoch, position.batch, position.seen, position.correct, position.steps) == (5, 0, 0, 0, 19)
    assert position.loss_sum == 0.0


def test_a_run_that_rises_and_then_stays_flat_ends_when_the_epochs_say_so(tmp_path):
    rights = [*range(10, 20), *[12] * 20]
    recipe = replace(TINY, minutes=1000.0, max_epochs=32, warmup=0.05, learning_rate=0.001)
    rows, end = [], 1.0
    for epoch in range(32):
        if epoch / 32 >= end:
            break
        rows.append(row(rights[epoch], 32))
        if end == 1.0 and slow_is_flat(recipe, rows, epoch / 32):
            end = (epoch + 1) / 32 + COOLDOWN
    fitted = scripted_run(recipe, rights, tmp_path, count=16)
    accuracies = [found["validation_accuracy"] for found in fitted.rows]
    np.testing.assert_allclose(accuracies, [found["validation_balanced_accuracy"] for found in rows])
    assert fitted.best_epoch == 9 and "validation had been flat" in fitted.ended
