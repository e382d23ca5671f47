"""Values that a recipe leaves open (0), chosen from the data. Each choice comes with its reason, for `--explain`.

The rules follow what single trainings have shown (docs/experiments.md, docs/benchmarks/accuracy-per-minute.md). They
look at nothing but the data and the recipe, never at the machine, so that a run taken up elsewhere is the same run.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pupila.recipe import Recipe

SIZES = (64, 96, 128, 160)
"""Network sizes to choose from, in pixels a side."""
SPEED_AT_64 = 250.0
"""Pictures a second that two cores with bfloat16 train on at 64 px; it falls with the square of the size."""
ENOUGH_EPOCHS = 5
"""A larger size pays only if the budget still goes through the pictures so often."""
FEW = 5_000
"""Pictures below which steps are scarcer than pictures: smaller batches then."""
VERY_FEW = 640
"""Pictures below which even ten such smaller batches are not to be had."""
EXAMPLES = 400_000
"""Pictures shown in all, without a budget in minutes, when starting from trained weights; thrice that from scratch."""


@dataclass(frozen=True)
class DatasetStats:
    """What the rules look at: pictures to train on, their classes, pixels a side, and whether weights are trained."""

    pictures: int
    classes: int
    size: int
    pretrained: bool


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe with every value chosen, and a line for each value that says why."""

    recipe: Recipe
    chosen: tuple[str, ...]
    """Why each value that was open is what it is."""
    given: tuple[str, ...]
    """The values that the recipe had decided."""


def resolve(recipe: Recipe, stats: DatasetStats) -> ResolvedRecipe:
    """Choose what the recipe leaves open: network_size, batch_size, learning_rate, epochs."""
    chosen, given = [], []
    for key, choose in CHOOSERS.items():
        if getattr(recipe, key):
            given.append(f"{key} = {getattr(recipe, key):g}: the recipe says so.")
            continue
        value, reason = choose(recipe, stats)
        changed: dict[str, Any] = {key: value}
        recipe = replace(recipe, **changed)
        chosen.append(f"{key} = {value:g}: {reason}")
    if recipe.minutes:
        given[-1:] = [f"minutes = {recipe.minutes:g}: the schedule is fitted to them, whatever epochs says."]
    return ResolvedRecipe(recipe, tuple(chosen), tuple(given))


def _network_size(recipe: Recipe, stats: DatasetStats) -> tuple[int, str]:
    """The largest size that the pictures can fill and the budget can pay for.

    Small pictures are enlarged past what they fill only where they are many: with few it does not pay.
    """
    least = SIZES[0] if stats.pictures < FEW else SIZES[1]
    fills = max(least, min(stats.size, SIZES[-1]))
    beyond = [size for size in SIZES if all(size > small for small, _ in recipe.progressive)] or SIZES[-1:]
    sensible = [size for size in beyond if size <= fills] or beyond[:1]
    if not recipe.minutes:
        chosen = sensible[0] if stats.size <= SIZES[0] else max(fills, sensible[0])
        return chosen, f"pictures of {stats.size} px, and no budget in minutes to choose a larger one by."
    shown = {size: 60 * recipe.minutes * SPEED_AT_64 * (SIZES[0] / size) ** 2 / stats.pictures for size in sensible}
    chosen = max([size for size in sensible if shown[size] >= ENOUGH_EPOCHS], default=sensible[0])
    return chosen, (
        f"{recipe.minutes:g} minutes go about {shown[chosen]:.1f} times through {stats.pictures:,} pictures "
        f"at this size; {ENOUGH_EPOCHS} times are enough."
    )


def _batch_size(_: Recipe, stats: DatasetStats) -> tuple[int, str]:
    for most, batch_size in ((VERY_FEW, 32), (FEW, 64)):
        if stats.pictures < most:
            return batch_size, f"fewer than {most:,} pictures: more and smaller steps."
    return 128, f"{stats.pictures:,} pictures give steps enough at the size that two cores compute fastest."


def _learning_rate(recipe: Recipe, stats: DatasetStats) -> tuple[float, str]:
    per_128, start = 0.1, "from random weights"
    if stats.pretrained:
        per_128, start = 0.05, "trained weights want smaller steps than random ones"
    if stats.pretrained and VERY_FEW <= stats.pictures < FEW:
        per_128, start = 0.02, f"fewer than {FEW:,} pictures shall move trained weights but a little"
    rate = per_128 * recipe.batch_size / 128
    return rate, f"{start}; in proportion to the batch of {recipe.batch_size}."


def _epochs(_: Recipe, stats: DatasetStats) -> tuple[int, str]:
    shown = EXAMPLES if stats.pretrained else 3 * EXAMPLES
    epochs = round(min(max(shown / stats.pictures, 8), 40))
    return epochs, f"about {shown:,} pictures shown in all, in 8 to 40 rounds."


CHOOSERS: dict[str, Callable[[Recipe, DatasetStats], tuple[float, str]]] = {
    "network_size": _network_size,
    "batch_size": _batch_size,
    "learning_rate": _learning_rate,
    "epochs": _epochs,
}
"""In this order: the rate looks at the batch that was chosen before it."""
