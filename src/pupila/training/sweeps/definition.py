"""What a sweep trains: a grid from the command line or a definition in TOML, laid out as trials. Trains nothing.

A definition has `trials` (each with a name, a recipe, and values to set), a `grid` whose every combination is tried
with each of them, and a number of `seeds`. The shipped ones are in `pupila/sweeps/`.
"""

import dataclasses
import hashlib
import itertools
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from pupila._arguments import did_you_mean, unknown_key
from pupila.errors import RecipeError
from pupila.recipe import ALIASES, Recipe, load_recipe

Values = Mapping[str, Any]
ENTRY_KEYS = ("name", "recipe", "set")


@dataclass(frozen=True)
class Definition:
    """A sweep before it is laid out."""

    name: str = "sweep"
    entries: Sequence[Values] = ({},)
    """The tables of `trials`; without a recipe of its own one takes the recipe that the sweep is called with."""
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


def shipped_sweeps() -> list[str]:
    """Names of the sweeps that come with Pupila."""
    folder = resources.files("pupila") / "sweeps"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_definition(name: str | None) -> Definition:
    """Read a shipped sweep by name, or one's own by the path of a .toml file; None: an empty one for a grid.

    Raises RecipeError.
    """
    if name is None:
        return Definition()
    path = Path(name)
    if path.suffix != ".toml" and name not in shipped_sweeps():
        raise RecipeError(
            f"There is no sweep {name!r}. {did_you_mean(name, shipped_sweeps())} "
            f"There are: {', '.join(shipped_sweeps())}; or give the path of a .toml file."
        )
    try:
        file = path if path.suffix == ".toml" else resources.files("pupila") / "sweeps" / f"{name}.toml"
        return _definition(path.stem, tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise RecipeError(f"{name}: cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{name}: is not valid TOML ({error}).") from error


def plan(
    definition: Definition, grid: Iterable[str], recipe: str, overrides: Iterable[str], seeds: int | None = None
) -> list[Trial]:
    """Return every trial: entries x combinations of the grid x seeds, in that order.

    grid: KEY=VALUE,VALUE to try besides. recipe: for entries that name none. overrides: KEY=VALUE to set, which win
    over an entry's. Raises RecipeError for unknown keys, with the nearest name, and for values that are out of range.
    """
    chosen = {}
    for key, found in parse_grid(overrides).items():
        if len(found) != 1:
            raise RecipeError(f"--set {key} has {len(found)} values. Use --grid {key} to try each.")
        chosen[key] = found[0]
    tried = {key: values for key, values in definition.grid.items() if key not in chosen} | parse_grid(grid)
    _check_keys(definition, tried, chosen)
    trials = []
    for entry, values in itertools.product(definition.entries, itertools.product(*tried.values())):
        varied = dict(zip(tried, values, strict=True))
        base = load_recipe(entry.get("recipe") or recipe).with_values({**_set_by(entry), **chosen, **varied})
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
            values = tomllib.loads(f"values = [{text}]")["values"]
        except tomllib.TOMLDecodeError:
            values = [word.strip() for word in text.split(",")]
        grid[_key(key.strip())] = tuple(values)
    return grid


def _key(name: str) -> str:
    return ALIASES.get(name, name)


def _set_by(entry: Values) -> dict[str, Any]:
    return {_key(key): value for key, value in entry.get("set", {}).items()}


def _check_keys(definition: Definition, grid: Values, overrides: Values) -> None:
    known = {f.name for f in dataclasses.fields(Recipe)} - {"name"}
    given = [*grid, *overrides, *(key for entry in definition.entries for key in _set_by(entry))]
    wrong = [unknown_key(key, known | ALIASES.keys()) for key in given if key not in known]
    if "seed" in grid:
        wrong.append("seed is not for the grid. Use --seeds N, and --set seed=S for the first one.")
    wrong += [f"{key} is in the grid and set too. Leave one out." for key in grid if key in overrides]
    if wrong:
        raise RecipeError(f"Sweep {definition.name}: " + " ".join(dict.fromkeys(wrong)))


def _definition(name: str, table: Values) -> Definition:
    """Check the form of a definition; what is wrong with its recipes' keys is found by plan."""
    try:
        entries = [{**entry, "set": dict(entry.get("set", {}))} for entry in table.get("trials", [{}])]
        grid = {_key(key): tuple(values) for key, values in table.get("grid", {}).items()}
        seeds = int(table.get("seeds", 1))
    except (TypeError, ValueError, AttributeError) as error:
        raise RecipeError(f"{name}: is not a sweep ({error}). See the shipped ones in pupila/sweeps.") from error
    unknown = [key for key in table if key not in ("trials", "grid", "seeds")]
    if unknown:
        raise RecipeError(f"{name}: unknown key {unknown[0]!r}. A sweep has trials, grid and seeds.")
    unknown = [key for entry in entries for key in entry if key not in ENTRY_KEYS]
    if unknown:
        raise RecipeError(f"{name}: unknown key {unknown[0]!r} in trials. They have {', '.join(ENTRY_KEYS)}.")
    return Definition(name, entries, grid, seeds)
