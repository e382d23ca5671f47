"""Values that a recipe leaves open: chosen from the data, each with its reason, the same on every machine."""

import itertools
from dataclasses import replace

import pytest

from pupila.errors import RecipeError
from pupila.recipe import OPEN, Recipe, load_recipe
from pupila.training.defaults import CHOOSERS, SIZES, DatasetStats, resolve, sizes_to_try
from pupila.training.loop.head import InputChoice
from pupila.training.loop.optim import rate_factor

WIDE_OPEN = Recipe(network_size=0, batch_size=0, learning_rate=0.0, epochs=0)
FEW = DatasetStats(pictures=900, classes=10, size=32, pretrained=True)
MANY = DatasetStats(pictures=45_000, classes=10, size=32, pretrained=True)


@pytest.mark.parametrize("stats", [FEW, MANY])
def test_nothing_is_left_open_and_every_choice_has_a_reason(stats):
    resolved = resolve(WIDE_OPEN, stats)
    assert all(getattr(resolved.recipe, key) for key in OPEN)
    assert resolved.recipe.batch_norm != "auto"
    assert sorted(reason.partition(" = ")[0] for reason in resolved.chosen) == sorted([*OPEN, "batch_norm"])


def test_what_the_recipe_says_stands():
    recipe = Recipe(network_size=64, batch_size=17, learning_rate=0.3, epochs=2, max_epochs=9, layer_decay=0.5)
    recipe = replace(recipe, batch_norm="train", flip_average="on")
    resolved = resolve(recipe, FEW)
    assert resolved.recipe == recipe
    assert resolved.chosen == ()
    assert len(resolved.given) == len(CHOOSERS)


def test_fewer_pictures_get_smaller_batches_and_more_rounds():
    very_few = DatasetStats(pictures=100, classes=10, size=32, pretrained=True)
    resolved = [resolve(WIDE_OPEN, stats).recipe for stats in (very_few, FEW, MANY)]
    assert [recipe.batch_size for recipe in resolved] == [32, 64, 128]
    assert resolved[0].epochs == resolved[1].epochs > resolved[2].epochs


def test_few_pictures_move_the_lower_stages_of_trained_weights_less_than_many_do():
    few, many = resolve(WIDE_OPEN, FEW).recipe, resolve(WIDE_OPEN, MANY).recipe
    lowest = [rate_factor(each, "layer1") * each.learning_rate / each.batch_size for each in (few, many)]
    assert lowest[0] < lowest[1]


def test_random_weights_get_larger_steps_and_more_rounds():
    trained = resolve(WIDE_OPEN, DatasetStats(20_000, 10, 32, pretrained=True)).recipe
    random = resolve(WIDE_OPEN, DatasetStats(20_000, 10, 32, pretrained=False)).recipe
    assert random.learning_rate > trained.learning_rate
    assert random.epochs > trained.epochs


def test_a_larger_budget_pays_for_larger_network_sizes():
    tried = [sizes_to_try(load_recipe("standard", [f"minutes={m}"]), MANY) for m in (1, 2, 60)]
    assert tried == [(64,), (64, 96), (64, 96, 128)]


def test_small_pictures_are_not_enlarged_without_end_and_photos_are_tried_as_they_are():
    for stats in (FEW, MANY):
        assert sizes_to_try(load_recipe("standard", ["minutes=10000"]), stats)[-1] == 128
    photos = DatasetStats(pictures=300, classes=5, size=224, pretrained=True)
    assert sizes_to_try(load_recipe("standard", ["minutes=2"]), photos) == SIZES
    assert sizes_to_try(load_recipe("quick"), photos) == SIZES
    assert sizes_to_try(load_recipe("quick", ["network_size=96"]), photos) == (96,)


def test_what_features_chose_is_taken_and_said():
    found = InputChoice(96, True, "they said so.")
    resolved = resolve(load_recipe("standard"), FEW, found)
    assert (resolved.recipe.network_size, resolved.recipe.flip_average) == (96, "on")
    assert resolved.chosen[0] == "network_size = 96, flip_average = on: they said so."
    assert not [line for line in resolved.given if line.startswith(("network_size", "flip_average"))]


def test_few_pictures_are_told_by_the_last_two_stages_of_trained_weights():
    for stats, pooling in ((FEW, "root"), (replace(FEW, pretrained=False), "mean"), (MANY, "mean")):
        assert resolve(load_recipe("standard"), stats).recipe.pooling == pooling
        assert resolve(load_recipe("quick", ["pooling=mean"]), stats).recipe.pooling == "mean"


def test_a_fitted_last_layer_is_not_spoilt_by_smaller_pictures_batch_statistics_or_large_steps():
    few, short, hour = (
        resolve(load_recipe(name), stats, InputChoice(96, False, "")).recipe
        for name, stats in (("standard", FEW), ("standard", MANY), ("best", MANY))
    )
    assert (few.progressive, few.batch_norm) == ((), "frozen")
    assert (short.progressive, short.batch_norm) == ((), "train")
    assert (hour.progressive, hour.batch_norm) == (((64, 0.35),), "train")
    assert few.layer_decay < short.layer_decay < resolve(WIDE_OPEN, replace(MANY, pretrained=False)).recipe.layer_decay


def test_sizes_to_begin_with_are_below_the_one_that_was_chosen():
    assert resolve(load_recipe("best"), MANY, InputChoice(64, False, "")).recipe.progressive == ()


def test_network_size_is_past_the_sizes_that_it_begins_with():
    for pictures, size, minutes in itertools.product((900, 45_000), (32, 160), (0, 60)):
        recipe = load_recipe("best", [f"minutes={minutes}"])
        assert resolve(recipe, DatasetStats(pictures, 10, size, pretrained=True)).recipe.network_size > 64


def test_a_value_out_of_range_is_still_refused():
    with pytest.raises(RecipeError, match="network_size must be from 32 to 512"):
        Recipe(network_size=16)
