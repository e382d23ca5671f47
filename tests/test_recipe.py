"""Recipes: every mistake is named, with the right name beside it."""

import pytest

from pupila.errors import RecipeError
from pupila.recipe import Recipe, load_recipe, shipped


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_loads_and_bears_its_file_name(name):
    assert load_recipe(name).name == name


def test_unknown_key_is_answered_with_the_right_one():
    with pytest.raises(RecipeError, match=r"unknown key 'epoch'\. Did you mean 'epochs'\?"):
        load_recipe("standard", ["epoch=3"])
    with pytest.raises(RecipeError, match=r"unknown key 'LR'\. Did you mean 'lr'\?"):
        load_recipe("standard", ["LR=0.1"])


def test_unknown_recipe_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match=r"There is no recipe 'quik'\. Did you mean 'quick'\?"):
        load_recipe("quik")


def test_all_mistakes_are_named_at_once():
    with pytest.raises(RecipeError) as error:
        Recipe(epochs=-1, momentum=2.0, schedule="cosine")
    assert all(
        word in str(error.value) for word in ("epochs must be from 1", "momentum must be from 0", "schedule must")
    )


def test_wrong_type_names_the_right_one():
    with pytest.raises(RecipeError, match="epochs must be a whole number, not 'many'"):
        load_recipe("standard", ["epochs=many"])


def test_pair_without_equals_sign_says_how_to_write_it():
    with pytest.raises(RecipeError, match="Write for instance epochs=20"):
        load_recipe("standard", ["epochs"])


def test_whole_number_is_taken_for_a_decimal_one():
    assert load_recipe("standard", ["learning_rate=1"]).learning_rate == 1.0


def test_text_needs_no_quotes():
    assert load_recipe("standard", ["weights=none"]).weights == "none"


def test_own_recipe_is_read_from_a_file(tmp_path):
    (tmp_path / "mine.toml").write_text("epochs = 3\nprogressive = [[32, 0.5]]\n")
    recipe = load_recipe(str(tmp_path / "mine.toml"))
    assert (recipe.name, recipe.epochs, recipe.progressive) == ("mine", 3, ((32, 0.5),))


def test_file_that_is_no_toml_is_named(tmp_path):
    (tmp_path / "mine.toml").write_text("epochs =")
    with pytest.raises(RecipeError, match=r"mine\.toml: is not valid TOML"):
        load_recipe(str(tmp_path / "mine.toml"))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(str(tmp_path / "none.toml"))


@pytest.mark.parametrize("stages", ["[[32, 1.0]]", "[[48, 0.2], [32, 0.2]]", "[[64, 0.5]]", "[[32, -0.1]]"])
def test_progressive_sizes_must_climb_and_leave_time_for_the_last(stages):
    with pytest.raises(RecipeError, match="progressive"):
        load_recipe("standard", ["network_size=64", f"progressive={stages}"])


def test_key_of_before_is_read_where_it_changed_nothing_and_refused_elsewhere():
    assert load_recipe("standard", ["cutmix=0", "ema=0", "head_factor=1"]) == load_recipe("standard")
    with pytest.raises(RecipeError, match="unknown key 'ema'"):
        load_recipe("standard", ["ema=0.9"])


def test_recipe_survives_the_way_through_plain_values():
    recipe = load_recipe("cifar10")
    assert Recipe.from_dict(recipe.to_dict(), "again") == recipe


@pytest.mark.parametrize(
    "text",
    [
        f"epochs = {'9' * 5000}", f"epochs = 0x{'f' * 5000}", f"learning_rate = {'9' * 400}", f"seed = {'9' * 400}",
        f"learning_rate = 0x{'f' * 5000}", "progressive = [[inf, 0.5]]", "progressive = [[32, nan]]",
        f"progressive = [[32, {'9' * 400}]]", f"progressive = [[0x{'f' * 5000}, 0.5]]", f"epochs = {'[' * 5000}",
    ],
)  # fmt: skip
def test_numbers_that_are_none_are_named_in_few_words(text, tmp_path):
    (tmp_path / "own.toml").write_text(text)
    for load in (lambda: load_recipe(tmp_path / "own.toml"), lambda: load_recipe("quick", [text])):
        with pytest.raises(RecipeError) as error:
            load()
        assert len(str(error.value)) < 400
