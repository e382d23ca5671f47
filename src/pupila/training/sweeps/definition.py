"""What a sweep trains: a grid from the command line or a definition in TOML, laid out as trials. Trains nothing.

A definition is a list of entries (a name, a recipe, values of its own), a grid whose every combination is tried with
each entry, and a number of seeds. The shipped ones are in `pupila/sweeps/`.
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

from pupila._names import did_you_mean, unknown_key
from pupila.errors import RecipeError
from pupila.recipe import ALIASES, Recipe, load_recipe

Values = Mapping[str, Any]
Grid = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Entry:
    """One line of a definition: what is trained with every combination of the grid."""

    name: str = ""
    recipe: str | None = None
    """None: the recipe that the sweep is called with."""
    values: Values = field(default_factory=dict)
    reference: Mapping[str, float] = field(default_factory=dict)
    """Figures of somebody else's to stand beside ours: validation_accuracy, examples_per_second."""


@dataclass(frozen=True)
class Definition:
    """A sweep before it is laid out."""

    name: str = "sweep"
    entries: tuple[Entry, ...] = (Entry(),)
    grid: Grid = field(default_factory=dict)
    seeds: int = 1
    reference: str = ""
    """Whose figures the references are."""


@dataclass(frozen=True)
class Trial:
    """One training: a recipe with everything decided, its seed too."""

    group: str
    """Names the settings; trials of one group differ in nothing but the seed."""
    recipe: Recipe
    varied: Values
    """The keys of the grid with this trial's values, for the table."""
    reference: Mapping[str, float]

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
    """Lay out a definition with what a person adds to it, KEY=VALUE,VALUE for the grid and KEY=VALUE to set.

    Raises RecipeError.
    """
    values: dict[str, Any] = {}
    for pair in overrides:
        for key, found in parse_grid([pair]).items():
            if len(found) != 1:
                raise RecipeError(f"--set {pair} has {len(found)} values. Use --grid {pair} to try each.")
            values[key] = found[0]
    shipped = {key: tried for key, tried in definition.grid.items() if key not in values}
    whole = dataclasses.replace(definition, grid={**shipped, **parse_grid(grid)})
    return lay_out(whole, recipe, values, seeds)


def parse_grid(pairs: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """Turn KEY=VALUE,VALUE... into values by the recipe's own key; every wrong key is named in one RecipeError."""
    grid: dict[str, tuple[Any, ...]] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not text.strip():
            raise RecipeError(f"{pair!r} is not KEY=VALUE,VALUE. Write for instance lr=0.001,0.0001.")
        grid[ALIASES.get(key.strip(), key.strip())] = tuple(_values(text))
    return grid


def lay_out(definition: Definition, recipe: str, overrides: Values, seeds: int | None = None) -> list[Trial]:
    """Return every trial: entries x combinations of the grid x seeds, in that order.

    recipe: for entries that name none. overrides: the user's own values, which win over an entry's.
    Raises RecipeError for unknown keys, with the nearest name, and for values that are out of range.
    """
    overrides = {ALIASES.get(key, key): value for key, value in overrides.items()}
    _check_keys(definition, overrides)
    trials = []
    for entry in definition.entries:
        for combination in itertools.product(*definition.grid.values()):
            varied = dict(zip(definition.grid, combination, strict=True))
            base = load_recipe(entry.recipe or recipe).with_values({**entry.values, **overrides, **varied})
            group = ", ".join([*filter(None, [entry.name]), *(f"{key}={value}" for key, value in varied.items())])
            for seed in range(base.seed, base.seed + (seeds or definition.seeds)):
                chosen = dataclasses.replace(base, seed=seed)
                trials.append(Trial(group or chosen.name, chosen, varied, entry.reference))
    if len({trial.name for trial in trials}) < len(trials):
        raise RecipeError("Two trials of the sweep are the same. Name each value and each entry once.")
    return trials


def _check_keys(definition: Definition, overrides: Values) -> None:
    known = {f.name for f in dataclasses.fields(Recipe)} - {"name"}
    given = [*definition.grid, *overrides, *(key for entry in definition.entries for key in entry.values)]
    wrong = [unknown_key(key, known | ALIASES.keys()) for key in given if key not in known]
    if "seed" in definition.grid:
        wrong.append("seed is not for the grid. Use --seeds N, and --set seed=S for the first one.")
    wrong += [f"{key} is in the grid and set too. Leave one out." for key in definition.grid if key in overrides]
    if wrong:
        raise RecipeError(f"Sweep {definition.name}: " + " ".join(dict.fromkeys(wrong)))


def _values(text: str) -> Sequence[Any]:
    """Read a list as TOML would, and as plain words where it is none."""
    try:
        found: list[Any] = tomllib.loads(f"values = [{text}]")["values"]
    except tomllib.TOMLDecodeError:
        return [word.strip() for word in text.split(",")]
    return found


def _definition(name: str, table: Mapping[str, Any]) -> Definition:
    """Check the form of a definition; what is wrong with its recipes' keys is found by lay_out."""
    try:
        entries = tuple(_entry(values) for values in table.get("trials", [{}]))
        grid = {ALIASES.get(key, key): tuple(values) for key, values in table.get("grid", {}).items()}
        seeds, reference = int(table.get("seeds", 1)), str(table.get("reference", ""))
        unknown = sorted(table.keys() - {"trials", "grid", "seeds", "reference"})
    except (TypeError, ValueError, AttributeError) as error:
        raise RecipeError(f"{name}: is not a sweep ({error}). See the shipped ones in pupila/sweeps.") from error
    if unknown:
        raise RecipeError(f"{name}: unknown key {unknown[0]!r}. A sweep has trials, grid, seeds and reference.")
    return Definition(name, entries, grid, seeds, reference)


def _entry(table: Mapping[str, Any]) -> Entry:
    unknown = sorted(table.keys() - {"name", "recipe", "set", "reference"})
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r} in trials; they have name, recipe, set and reference")
    values = {ALIASES.get(key, key): value for key, value in table.get("set", {}).items()}
    return Entry(str(table.get("name", "")), table.get("recipe"), values, table.get("reference", {}))
