"""Checkpoints: bit for bit, whole or refused; a run that was stopped at an odd place goes on as if it had not been."""

import itertools
import json
import os
import signal
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from loop_kit import VALIDATION, scripted_run
from safetensors.torch import save_file
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from training_kit import TINY, colours, noise

from pupila.errors import TrainingError
from pupila.training.loop.checkpoint import (
    FIGURES,
    Position,
    check_identity,
    load_checkpoint,
    momentum_of,
    restore_momentum,
    save_checkpoint,
)
from pupila.training.loop.fit import fit
from pupila.training.loop.optim import set_learning_rate, sgd
from pupila.training.loop.resnet import ResNet18

pytestmark = pytest.mark.usefixtures("narrow")

ODD = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -1e-45, 3.4e38])
GROUPS = {
    "network": {"a.weight": ODD, "a.num": torch.tensor(7), "b": torch.arange(6.0).reshape(2, 3).t()},
    "momentum": {"0": ODD.half(), "12": ODD.bfloat16()},
    "average": {},
    "best": {"name/with/slashes": torch.zeros(0, 3), "x": torch.tensor([True, False])},
}
ROW = {**dict.fromkeys(FIGURES, 0.5), "network_size": 48, "epoch": 1, "loss": 2 / 3}
POSITION = Position(
    3, 2, 11, 0.1 + 0.2, 1e-17, 5.0, 60, 75, best=0.7, best_epoch=0, best_size=48, head=0.3, rate=1e-3, rows=[ROW]
)  # fmt: skip
IDENTITY = {"recipe": {"seed": 1, "progressive": ((32, 0.5),)}, "data": "abc", "weights": "none"}


def bits(tensor):
    plain = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor.contiguous()
    return tensor.dtype, tuple(tensor.shape), plain.numpy().tobytes()


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, POSITION, GROUPS, IDENTITY)
    return path


def test_everything_comes_back_bit_for_bit(written):
    position, groups = load_checkpoint(written, IDENTITY)
    assert position == POSITION
    for group, named in GROUPS.items():
        back = groups.get(group, {})
        assert back.keys() == named.keys()
        assert all(bits(back[name]) == bits(tensor) for name, tensor in named.items())


def test_later_checkpoint_replaces_the_earlier_one_and_leaves_nothing_beside(written):
    save_checkpoint(written, replace(POSITION, steps=12), GROUPS, IDENTITY)
    assert load_checkpoint(written, IDENTITY)[0].steps == 12
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_checkpoint_that_cannot_be_put_in_its_place_says_so_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    path.mkdir()
    (path / "file").touch()
    with pytest.raises(TrainingError, match=r"cannot be written \(.*Make room on the disk; resume with --resume"):
        save_checkpoint(path, POSITION, GROUPS, IDENTITY)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.99])
def test_cut_checkpoint_is_refused_whatever_is_left_of_it(written, share):
    data = written.read_bytes()
    written.write_bytes(data[: int(share * len(data))])
    with pytest.raises(TrainingError, match=r"is not a whole checkpoint \(.*Delete it and train again"):
        load_checkpoint(written, IDENTITY)


@pytest.mark.parametrize("place", [0, 7, 8, 30])
def test_checkpoint_with_a_spoilt_header_is_refused(written, place):
    data = bytearray(written.read_bytes())
    data[place] ^= 0xFF
    written.write_bytes(data)
    with pytest.raises(TrainingError, match="is not a whole checkpoint"):
        load_checkpoint(written, IDENTITY)


@pytest.mark.parametrize(
    "header",
    [
        None,
        {"position": "{}"},
        {"identity": "{}"},
        {"position": "{", "identity": "{}"},
        {"position": '{"a_key_of_a_later_version": 1}', "identity": "{}"},
        {"position": "[]", "identity": "{}"},
        {"position": "{}", "identity": "[]"},
        {"position": "[" * 100_000, "identity": "{}"},
        {"position": '{"seconds": "1"}', "identity": "{}"},
        {"position": '{"seconds": 1e999}', "identity": "{}"},
        {"position": '{"rows": [1]}', "identity": "{}"},
        {"position": '{"rows": [{"network_size": "32"}]}', "identity": "{}"},
        {"position": json.dumps({"rows": [{**ROW, "train_loss": 1e308}]}), "identity": "{}"},
        {"position": '{"best_epoch": 3}', "identity": "{}"},
        {"position": '{"steps": -1000000000000}', "identity": "{}"},
        {"position": '{"seconds": -1.0}', "identity": "{}"},
    ],
)
def test_foreign_file_of_tensors_is_no_checkpoint(tmp_path, header):
    save_file({"network/a": torch.zeros(2)}, tmp_path / "c", header)
    with pytest.raises(TrainingError, match="is not a whole checkpoint"):
        load_checkpoint(tmp_path / "c", {})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": "other"}, "the pictures are others"),
        ({"weights": "imagenet"}, "weights was none and is imagenet"),
        ({"recipe": {"seed": 2, "progressive": ((32, 0.5),)}}, "seed was 1 and is 2"),
        ({"recipe": {"seed": 1, "progressive": ()}}, r"progressive was \[\[32, 0.5\]\] and is \[\]"),
        ({"recipe": {**IDENTITY["recipe"], "new": 3}}, "new was None and is 3"),
        ({"data": "other", "weights": "x"}, "the pictures are others, weights was none and is x"),
    ],
)
def test_checkpoint_of_another_run_names_each_difference(written, changes, said):
    with pytest.raises(TrainingError, match=rf"is of another run \({said}\)\. Use the same settings, or another"):
        load_checkpoint(written, {**IDENTITY, **changes})


def test_lists_and_tuples_of_one_recipe_are_one_identity(tmp_path):
    check_identity(tmp_path, IDENTITY, json.loads(json.dumps(IDENTITY)))


def test_momentum_goes_on_bit_for_bit_in_a_new_optimiser():
    recipe = replace(TINY, layer_decay=0.5)

    def stepped(network, optimizer, times):
        for _ in range(times):
            optimizer.zero_grad()
            network(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()

    networks = [nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)) for _ in range(2)]
    one, other = networks
    straight = sgd(one, recipe)
    assert momentum_of(straight) == {}
    stepped(one, straight, 2)
    other.load_state_dict(one.state_dict())
    again = sgd(other, recipe)
    restore_momentum(again, {name: tensor.clone() for name, tensor in momentum_of(straight).items()})
    for optimizer, network in ((straight, one), (again, other)):
        set_learning_rate(optimizer, 0.003)
        stepped(network, optimizer, 2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert [group["factor"] for group in again.param_groups] == [group["factor"] for group in straight.param_groups]


RECIPE = replace(TINY, epochs=2, batch_size=12, layer_decay=0.5, color_jitter=0.2)
"""Two epochs of two batches."""


def real_run(folder, **options):
    torch.manual_seed(0)
    data, strange = colours(24), noise(8).images
    path = folder / "checkpoint.safetensors"
    return fit(RECIPE, ResNet18(3), data, VALIDATION, path, identity=IDENTITY, outliers=strange, **options)


@contextmanager
def interrupting(count):
    """Ask a run to stop, as Ctrl-C does, in its step number `count`: it saves behind that step."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
    left = itertools.count(1 - count)

    def note(*_):
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGINT)

    handle = register_optimizer_step_post_hook(note)
    try:
        yield
    finally:
        handle.remove()


def timeless(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return real_run(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize(("step", "batch"), [(2, 2), (3, 1)])
def test_run_stopped_within_an_epoch_or_before_its_validation_ends_bit_for_bit_alike(
    tmp_path, undisturbed, step, batch
):
    with interrupting(step):
        try:
            assert real_run(tmp_path).stopped and step > 2
        except TrainingError as error:
            assert "Stopped before the first epoch was over" in str(error) and step <= 2
    position, groups = load_checkpoint(tmp_path / "checkpoint.safetensors", IDENTITY)
    assert (position.steps, position.batch, position.epoch) == (step, batch, int(step > 2))
    assert set(groups) == {"network", "momentum"} | ({"best"} if step > 2 else set())
    resumed = real_run(tmp_path, resume=True)
    assert timeless(resumed.rows) == timeless(undisturbed.rows) and resumed.best_epoch == undisturbed.best_epoch
    ours, theirs = resumed.network.state_dict(), undisturbed.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    if step == 3:  # and once more, after its end
        seen = []
        again = real_run(tmp_path, resume=True, on_epoch=seen.append)
        assert seen == [] and timeless(again.rows) == timeless(undisturbed.rows)


def test_run_stopped_while_the_rate_falls_to_zero_goes_on_with_the_fall(tmp_path):
    recipe = replace(TINY, minutes=1000.0, max_epochs=32, learning_rate=0.01, warmup=0.1, batch_size=16)
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
    straight = scripted_run(recipe, [20] * 20, tmp_path / "straight", count=32)
    with interrupting(2 * 8 + 1):  # one step into the ninth epoch; flat after the seventh
        stopped = scripted_run(recipe, [20] * 20, tmp_path / "stopped", count=32)
    position, _ = load_checkpoint(tmp_path / "stopped" / "checkpoint.safetensors", {})
    assert stopped.stopped and (position.epoch, position.batch) == (8, 1) and position.cooldown == 7 / 32
    resumed = scripted_run(recipe, [20] * 20, tmp_path / "stopped", count=32, resume=True)
    assert len(straight.rows) == 11 and timeless(resumed.rows) == timeless(straight.rows)
    rates = np.diff([row["learning_rate"] for row in resumed.rows[7:]])
    assert (rates < 0).all() and "validation had been flat" in resumed.ended
    ours, theirs = resumed.network.state_dict(), straight.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
