"""What a sweep trains: a grid from the command line, or a shipped definition, laid out as trials. Trains nothing.

A definition, a TOML file in `pupila/sweeps/`, has `trials` (each with a name and values to set, perhaps a recipe), a
`grid` whose every combination is tried with each of them, and a number of `seeds`.
"""

import dataclasses
import hashlib
import itertools
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from pupila._arguments import did_you_mean
from pupila.errors import RecipeError
from pupila.recipe import Recipe, full_names, load_recipe, read_value, shipped, values_of

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Definition:
    """A sweep before it is laid out."""

    name: str = "sweep"
    trials: Sequence[Values] = ({},)
    """Without a recipe of its own one takes the recipe that the sweep is called with."""
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    seeds: int = 1


@dataclass(frozen=True)
class Trial:
    """One training: a recipe with everything decided, its seed too."""

    group: str
    """Names the settings; trials of one group differ in nothing but the seed."""
    recipe: Recipe
    varied: Values
    """The keys of the grid with this trial's values, for the table."""

    @property
    def name(self) -> str:
        """A folder's name, of the group and the seed."""
        words = re.sub(r"[^A-Za-z0-9._=]+", "-", self.group).strip("-.")
        if len(words) > 100:
            words = f"{words[:80]}-{hashlib.sha256(self.group.encode()).hexdigest()[:8]}"
        return f"{words}-seed{self.recipe.seed}"


def load_definition(name: str | None) -> Definition:
    """Read a shipped sweep; None: an empty one for a grid. Raises RecipeError with the nearest name."""
    if name is None:
        return Definition()
    known = shipped("sweeps")
    if name not in known:
        raise RecipeError(f"There is no sweep {name!r}. {did_you_mean(name, known)} There are: {', '.join(known)}.")
    file = resources.files("pupila") / "sweeps" / f"{name}.toml"
    return Definition(name, **tomllib.loads(file.read_text(encoding="utf-8")))


def plan(
    definition: Definition, grid: Iterable[str], recipe: str, overrides: Iterable[str], seeds: int | None = None
) -> list[Trial]:
    """Return every trial: the definition's x combinations of the grid x seeds, in that order.

    grid: KEY=VALUE,VALUE to try besides. recipe: for trials that name none. overrides: KEY=VALUE to set, which win
    over a trial's. Raises RecipeError for unknown keys, with the nearest name, and for values that are out of range.
    """
    fixed, asked = values_of(overrides), parse_grid(grid)
    if both := fixed.keys() & asked.keys():
        raise RecipeError(f"{min(both)} is in the grid and set too. Leave one out.")
    tried = {key: values for key, values in full_names(definition.grid).items() if key not in fixed} | asked
    if "seed" in tried:
        raise RecipeError("seed is not for the grid. Use --seeds N, and --set seed=S for the first one.")
    trials = []
    for entry, values in itertools.product(definition.trials, itertools.product(*tried.values())):
        varied = dict(zip(tried, values, strict=True))
        own = full_names(entry.get("set", {}))
        base = load_recipe(entry.get("recipe", recipe)).with_values({**own, **fixed, **varied})
        group = ", ".join([*filter(None, [entry.get("name")]), *(f"{key}={value}" for key, value in varied.items())])
        for seed in range(base.seed, base.seed + (seeds or definition.seeds)):
            trials.append(Trial(group or base.name, dataclasses.replace(base, seed=seed), varied))
    if len({trial.name for trial in trials}) < len(trials):
        raise RecipeError("Two trials of the sweep are the same. Name each value and each entry once.")
    return trials


def parse_grid(pairs: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """Turn KEY=VALUE,VALUE... into values by the recipe's own key: as TOML would, or as plain words."""
    grid: dict[str, tuple[Any, ...]] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not text.strip():
            raise RecipeError(f"{pair!r} is not KEY=VALUE,VALUE. Write for instance lr=0.001,0.0001.")
        try:
            values = read_value(f"[{text}]")
        except ValueError:
            values = [word.strip() for word in text.split(",")]
        grid[key.strip()] = tuple(values)
    return full_names(grid)
