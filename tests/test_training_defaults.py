"""Values that a recipe leaves open: chosen from the data, each with its reason, the same on every machine."""

import itertools

import pytest

from pupila.errors import RecipeError
from pupila.recipe import OPEN, Recipe, load_recipe
from pupila.training.defaults import SIZES, DatasetStats, resolve

WIDE_OPEN = Recipe(network_size=0, batch_size=0, learning_rate=0.0, epochs=0)
FEW = DatasetStats(pictures=900, classes=10, size=32, pretrained=True)
MANY = DatasetStats(pictures=45_000, classes=10, size=32, pretrained=True)


@pytest.mark.parametrize("stats", [FEW, MANY])
def test_nothing_is_left_open_and_every_choice_has_a_reason(stats):
    resolved = resolve(WIDE_OPEN, stats)
    assert all(getattr(resolved.recipe, key) for key in OPEN)
    assert [reason.partition(" = ")[0] for reason in resolved.chosen] == list(OPEN)


def test_what_the_recipe_says_stands():
    recipe = Recipe(network_size=64, batch_size=17, learning_rate=0.3, epochs=2)
    resolved = resolve(recipe, FEW)
    assert resolved.recipe == recipe
    assert resolved.chosen == ()
    assert len(resolved.given) == len(OPEN)


def test_fewer_pictures_get_smaller_batches_and_more_rounds():
    very_few = DatasetStats(pictures=100, classes=10, size=32, pretrained=True)
    resolved = [resolve(WIDE_OPEN, stats).recipe for stats in (very_few, FEW, MANY)]
    assert [recipe.batch_size for recipe in resolved] == [32, 64, 128]
    assert resolved[0].epochs == resolved[1].epochs > resolved[2].epochs


def test_few_pictures_move_trained_weights_less_a_picture_than_many_do():
    few, many = resolve(WIDE_OPEN, FEW).recipe, resolve(WIDE_OPEN, MANY).recipe
    assert few.learning_rate / few.batch_size < many.learning_rate / many.batch_size


def test_random_weights_get_larger_steps_and_more_rounds():
    trained = resolve(WIDE_OPEN, DatasetStats(20_000, 10, 32, pretrained=True)).recipe
    random = resolve(WIDE_OPEN, DatasetStats(20_000, 10, 32, pretrained=False)).recipe
    assert random.learning_rate > trained.learning_rate
    assert random.epochs > trained.epochs


def test_a_larger_budget_pays_for_a_larger_network_size():
    sizes = [resolve(load_recipe("standard", [f"minutes={m}"]), MANY).recipe.network_size for m in (1, 15, 60, 600)]
    assert sizes == sorted(sizes)
    assert sizes[0] == SIZES[0]
    assert sizes[-1] > SIZES[0]


def test_pictures_are_not_enlarged_without_end():
    assert resolve(load_recipe("standard", ["minutes=10000"]), MANY).recipe.network_size == 96
    assert resolve(load_recipe("standard", ["minutes=10000"]), FEW).recipe.network_size == 64
    photos = DatasetStats(pictures=900, classes=2, size=160, pretrained=True)
    assert resolve(load_recipe("standard", ["minutes=10000"]), photos).recipe.network_size == 160


def test_network_size_is_past_the_sizes_that_it_begins_with():
    for pictures, size, minutes in itertools.product((900, 45_000), (32, 160), (0, 60)):
        recipe = load_recipe("best", [f"minutes={minutes}"])
        assert resolve(recipe, DatasetStats(pictures, 10, size, pretrained=True)).recipe.network_size > 64


def test_a_value_out_of_range_is_still_refused():
    with pytest.raises(RecipeError, match="network_size must be from 32 to 512"):
        Recipe(network_size=16)
