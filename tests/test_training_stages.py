"""What moves and how far: each stage by its factor of the rate, frozen batch norm, and the last layer alone."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from loop_kit import begun
from torch import nn
from torch.nn import functional
from training_kit import TINY, colours

from pupila.training.loop.batches import batches
from pupila.training.loop.fit import _step, _train_epoch, set_training_mode, validate
from pupila.training.loop.head import fit_head
from pupila.training.loop.optim import set_learning_rate
from pupila.training.loop.resnet import ResNet18, enlarged

pytestmark = pytest.mark.usefixtures("narrow")

DATA = colours(16)
TENSORS = torch.from_numpy(DATA.images), torch.from_numpy(DATA.labels)
RATE = 0.003


@pytest.fixture(scope="module")
def original():
    """A network whose batch norm holds statistics and weights that are not those of birth."""
    torch.manual_seed(1)
    network = ResNet18(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.weight, 0.3, 0.6)
    return network


def factor_by_hand(recipe, name):
    """Of a parameter, by its name: written out."""
    decay = recipe.layer_decay or 1.0
    if name.startswith("fc."):
        return 1.0
    if name.startswith("layer4."):
        return 1.0
    if name.startswith("layer3."):
        return decay
    if name.startswith("layer2."):
        return decay * decay
    assert name.startswith(("layer1.", "conv1.", "bn1."))
    return decay * decay * decay


def stepped_by_hand(network, recipe, chosen):
    """SGD with momentum, one parameter at a time, as its formula is printed."""
    network, buffers = copy.deepcopy(network).to(memory_format=torch.channels_last), {}
    set_training_mode(network, recipe)
    for batch in chosen:
        network.zero_grad()
        functional.cross_entropy(network(batch.pictures), batch.labels).backward()
        with torch.no_grad():
            for name, weight in network.named_parameters():
                gradient = weight.grad + recipe.weight_decay * weight
                before = buffers.get(name)
                buffers[name] = gradient if before is None else recipe.momentum * before + gradient
                change = gradient + recipe.momentum * buffers[name] if recipe.nesterov else buffers[name]
                weight -= RATE * factor_by_hand(recipe, name) * change
    return network


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_decay": 0.3, "nesterov": True},
        {"layer_decay": 0.5, "nesterov": False, "batch_norm": "frozen"},
        {"layer_decay": 0.0, "momentum": 0.0},  # with Nesterov's form, as is the default
    ],
)
def test_two_steps_move_every_weight_as_the_formula_says(original, changes):
    recipe = replace(TINY, batch_size=8, weight_decay=0.01, **changes)
    chosen = list(batches(*TENSORS, recipe, size=32, epoch=0))
    network = copy.deepcopy(original)
    run = begun(network, recipe)
    set_training_mode(network, recipe)
    set_learning_rate(run.optimizer, RATE)
    for batch in chosen:
        _step(run, batch)
    expected = stepped_by_hand(original, recipe, chosen).state_dict()
    before = original.state_dict()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=2e-6, msg=name)
        if name.endswith("weight"):
            assert not torch.equal(value, before[name]), name


def test_frozen_batch_norm_is_in_evaluation_mode_and_nothing_else_is(original):
    network = copy.deepcopy(original)
    for way, modes in (("frozen", {True: False, False: True}), ("train", {True: True, False: True})):
        set_training_mode(network, replace(TINY, batch_norm=way))
        for name, module in network.named_modules():
            assert module.training == modes[isinstance(module, nn.BatchNorm2d)], name


def test_frozen_network_answers_in_training_as_it_does_in_use(original):
    network, x = copy.deepcopy(original), enlarged(TENSORS[0], 32)
    with torch.no_grad():
        set_training_mode(network, replace(TINY, batch_norm="frozen"))
        frozen = network(x)
        assert torch.equal(frozen, network.eval()(x))
        set_training_mode(network, replace(TINY, batch_norm="train"))
        assert not torch.allclose(frozen, network(x), atol=1e-2)


def test_epochs_with_frozen_batch_norm_move_every_weight_and_no_statistic(original):
    network, recipe = copy.deepcopy(original), replace(TINY, batch_norm="frozen", learning_rate=RATE, batch_size=16)
    run = begun(network, recipe)
    for epoch in range(2):  # validation in between leaves evaluation mode behind
        _train_epoch(run, *TENSORS, 32, 1)
        validate(network, DATA, 32, recipe)
        run.position.epoch, run.position.batch = epoch + 1, 0
    before = original.state_dict()
    parameters = {name for name, _ in network.named_parameters()}
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in parameters), name


def test_last_layer_alone_leaves_everything_below_bit_for_bit(original):
    network = copy.deepcopy(original)
    row = fit_head(replace(TINY, trains="head", flip_average="on"), network, colours(30), colours(12, seed=1))
    before = original.state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("fc."), name
    assert all(weight.grad is None for weight in network.parameters())
    assert row["pictures"] == 30 and np.isfinite(row["validation_loss"])
