"""Values that a recipe leaves open (0), chosen from the data. Each choice comes with its reason, for `--explain`.

The rules follow what single trainings have shown (docs/experiments.md, docs/benchmarks/accuracy-per-minute.md). They
look at nothing but the data and the recipe, never at the machine, so that a run taken up elsewhere is the same run.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pupila._arguments import counted
from pupila.recipe import Recipe
from pupila.training.loop.head import FEW, InputChoice

SIZES = (64, 96, 128, 160, 224)
"""Network sizes to choose from, in pixels a side."""
ENLARGED = 128
"""Small pictures are tried up to this size; larger ones up to their own."""
SPEED_AT_64 = 250.0
"""Pictures a second that two cores with bfloat16 train on at 64 px; it falls with the square of the size."""
ENOUGH_EPOCHS = 5
"""A larger size pays from random weights, and smaller pictures to begin with from trained ones, only if the budget goes
through the pictures so often."""
ENOUGH_FOR_TRAINED = 0.25
"""A larger size pays so soon from trained weights, as their last layer is fitted to it before the first step."""
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


def resolve(recipe: Recipe, stats: DatasetStats, found: InputChoice | None = None) -> ResolvedRecipe:
    """Choose what the recipe leaves open; `found`: what features chose, if they were asked."""
    chosen, given, open_keys = [], [], dict(CHOOSERS)
    if found is not None:
        del open_keys["network_size"], open_keys["flip_average"]
        flip, smaller = "on" if found.flip_average else "off", _smaller(recipe, stats, found.network_size)
        recipe = replace(recipe, network_size=found.network_size, flip_average=flip, progressive=smaller)
        chosen.append(f"network_size = {found.network_size}, flip_average = {flip}: {found.reason}")
    for key, choose in open_keys.items():
        if getattr(recipe, key) not in (0, "auto"):
            given.append(f"{key} = {_shown(getattr(recipe, key))}: the recipe says so.")
            continue
        value, reason = choose(recipe, stats)
        changed: dict[str, Any] = {key: value}
        recipe = replace(recipe, **changed)
        chosen.append(f"{key} = {_shown(value)}: {reason}")
    if recipe.minutes:
        given = [line for line in given if not line.startswith("epochs")]
        given.append(f"minutes = {recipe.minutes:g}: the schedule is fitted to them, whatever epochs says.")
    return ResolvedRecipe(recipe, tuple(chosen), tuple(given))


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _smaller(recipe: Recipe, stats: DatasetStats, network_size: int) -> tuple[tuple[int, float], ...]:
    """Return the sizes to begin with: none where they spoil the fitted last layer and leave no time to mend it."""
    if stats.pictures < FEW or (recipe.minutes and _rounds(recipe, stats, network_size) < ENOUGH_EPOCHS):
        return ()
    return tuple((size, share) for size, share in recipe.progressive if size < network_size)


def sizes_to_try(recipe: Recipe, stats: DatasetStats) -> tuple[int, ...]:
    """Return the network sizes to ask features about: those the pictures can fill and the budget can pay for."""
    if recipe.network_size:
        return (recipe.network_size,)
    useful = [size for size in SIZES if size <= max(stats.size, ENLARGED)]
    if not recipe.minutes:
        return tuple(useful)
    enough = [size for size in useful if _rounds(recipe, stats, size) >= ENOUGH_FOR_TRAINED]
    return tuple(enough) or tuple(useful[:1])


def _rounds(recipe: Recipe, stats: DatasetStats, size: int) -> float:
    """Return how often the budget goes through the pictures at this size."""
    return 60 * recipe.minutes * SPEED_AT_64 * (SIZES[0] / size) ** 2 / stats.pictures


def _network_size(recipe: Recipe, stats: DatasetStats) -> tuple[int, str]:
    """The largest size that the pictures can fill and the budget can pay for: without features to ask."""
    beyond = [size for size in SIZES if all(size > small for small, _ in recipe.progressive)] or SIZES[-1:]
    fills = max(SIZES[1], min(stats.size, SIZES[-1]))
    sensible = [size for size in beyond if size <= fills] or list(beyond[:1])
    if not recipe.minutes:
        chosen = sensible[0] if stats.size <= SIZES[0] else max(fills, sensible[0])
        return chosen, f"pictures of {stats.size} px, and no budget in minutes to choose a larger one by."
    chosen = max((s for s in sensible if _rounds(recipe, stats, s) >= ENOUGH_EPOCHS), default=sensible[0])
    return chosen, (
        f"{counted(recipe.minutes, 'minute')}: about {_rounds(recipe, stats, chosen):.1f} times through "
        f"{stats.pictures:,} pictures at this size; {ENOUGH_EPOCHS} times are enough."
    )


def pooling_for(recipe: Recipe, stats: DatasetStats) -> tuple[str, str]:
    """Return what the last layer sees, and why; it is settled before features choose all else."""
    if recipe.pooling != "auto":
        return recipe.pooling, ""
    if stats.pretrained and stats.pictures < FEW:
        reason = f"fewer than {FEW:,} pictures: the last two stages of trained weights know more than the last."
        return "root", reason
    return "mean", "the last stage learns what it needs, as there are pictures enough or no trained weights."


def _batch_size(_: Recipe, stats: DatasetStats) -> tuple[int, str]:
    for most, batch_size in ((VERY_FEW, 32), (FEW, 64)):
        if stats.pictures < most:
            return batch_size, f"fewer than {most:,} pictures: more and smaller steps."
    return 128, f"{stats.pictures:,} pictures give steps enough at the size that two cores compute fastest."


def _learning_rate(recipe: Recipe, stats: DatasetStats) -> tuple[float, str]:
    per_128, start = 0.1, "from random weights"
    if stats.pretrained:
        short = recipe.minutes and _rounds(recipe, stats, recipe.network_size) < ENOUGH_EPOCHS
        per_128, start = 0.01 if short else 0.02, "trained weights want smaller steps than random ones"
    if recipe.batch_norm == "frozen":
        per_128, start = 0.016, "trained weights and frozen batch norm want small steps"
    rate = per_128 * recipe.batch_size / 128
    return rate, f"{start}; in proportion to the batch of {recipe.batch_size}."


def _layer_decay(recipe: Recipe, stats: DatasetStats) -> tuple[float, str]:
    if recipe.batch_norm == "frozen":
        return 0.3, "with few pictures the lower stages know better, and move less."
    if stats.pretrained:
        return 0.5, "the lower stages of trained weights know better, and move less."
    return 1.0, "all stages learn alike."


def _epochs(_: Recipe, stats: DatasetStats) -> tuple[int, str]:
    shown = EXAMPLES if stats.pretrained else 3 * EXAMPLES
    epochs = round(min(max(shown / stats.pictures, 8), 40))
    return epochs, f"about {shown:,} pictures shown in all, in 8 to 40 rounds."


def _max_epochs(_: Recipe, stats: DatasetStats) -> tuple[int, str]:
    if stats.pretrained and stats.pictures < FEW:
        return 30, f"fewer than {FEW:,} pictures and trained weights: more rounds learn by heart."
    return 200, "more rounds hardly gain."


def _batch_norm(_: Recipe, stats: DatasetStats) -> tuple[str, str]:
    if stats.pretrained and stats.pictures < FEW:
        return "frozen", "few pictures, and a last layer that was fitted to the statistics of the starting weights."
    return "train", "each batch's own statistics, as there are pictures enough or no trained weights."


CHOOSERS: dict[str, Callable[[Recipe, DatasetStats], tuple[float | str, str]]] = {
    "network_size": _network_size,
    "flip_average": lambda *_: ("off", "there are no trained weights to measure its gain with."),
    "pooling": pooling_for,
    "batch_norm": _batch_norm,
    "batch_size": _batch_size,
    "learning_rate": _learning_rate,
    "layer_decay": _layer_decay,
    "epochs": _epochs,
    "max_epochs": _max_epochs,
}
"""In this order: the rate looks at the batch and the batch norm that were chosen before it."""
