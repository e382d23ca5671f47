"""The recipe: every number that can change what training yields, in one frozen value.

A recipe is read from TOML (shipped ones in `recipes/`) and overridden by KEY=VALUE; every mistake is named at once.
"""

import dataclasses
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pupila._arguments import LONGEST, MOST_UNKNOWN, PathLike, as_text, did_you_mean, unknown_key
from pupila._files import read_small
from pupila.errors import RecipeError

ALIASES = {"lr": "learning_rate", "wd": "weight_decay", "batch": "batch_size", "px": "network_size"}
"""Short names of keys, taken wherever a value is set."""
GONE = {"cutmix": 0.0, "ema": 0.0, "head_factor": 1.0}
"""Keys of earlier versions, each with the value that changed nothing: with that one it is still read."""
OPEN = ("network_size", "batch_size", "learning_rate", "layer_decay", "epochs", "max_epochs")
"""Keys that may be 0: then training chooses them from the data."""
MAX_BYTES = 2**14
"""Of a recipe's file: fifteen times the largest that comes along."""
MOST_DOTS = 100
"""In a line of TOML: tomllib keeps each beginning of a key of many parts, which takes memory by their square."""


@dataclass(frozen=True)
class Recipe:
    """How to train. Defaults are the `standard` recipe's; raises RecipeError if a value is out of range.

    A key's type names its least and largest value, or the words that it may be.
    """

    name: str = "standard"
    """What the run is called; by default the recipe's file name."""
    weights: str = "auto"
    """What to start from: imagenet, bundled, none, or the path of a run, of its model, or of a .pth or .safetensors
    file; auto: imagenet if it can be had, else bundled."""
    trains: Annotated[str, "all", "head"] = "all"
    """`all`, or `head`: the backbone stays as it is, and only the last layer is fitted on its features."""
    epochs: Annotated[int, 1, 10_000] = 8
    """Times to go through the training pictures; counts only where `minutes` is 0."""
    minutes: Annotated[float, 0, 100_000] = 0.0
    """Wall-clock budget of the whole run, from the first picture read to the report, in place of `epochs`; 0 for none.
    What comes before and after the steps counts, too; they end sooner where validation stays flat."""
    max_epochs: Annotated[int, 1, 10_000] = 0
    """With `minutes`: times to go through the training pictures at most."""
    batch_size: Annotated[int, 2, 65_536] = 128
    """Pictures a step."""
    network_size: Annotated[int, 32, 512] = 64
    """Pixels a side that pictures are enlarged to inside the network."""
    progressive: tuple[tuple[int, float], ...] = ()
    """Smaller sizes to begin with: (pixels a side, share of the run) in turn; the rest runs at network_size."""
    learning_rate: Annotated[float, 1e-8, 100] = 0.05
    """Peak rate of the backbone's last stage."""
    layer_decay: Annotated[float, 0.01, 1] = 0.0
    """Each stage's rate in multiples of that of the next one towards the last layer; 1 for all alike."""
    momentum: Annotated[float, 0, 0.9999] = 0.9
    """Of SGD: the share of the last step that goes on into the next one."""
    nesterov: bool = True
    """Look ahead along the momentum before each step (Nesterov's form of it)."""
    weight_decay: Annotated[float, 0, 1] = 5e-4
    """How strongly all weights are pulled towards zero."""
    schedule: Annotated[str, "one_cycle", "step"] = "one_cycle"
    """one_cycle: the rate climbs once and falls to zero; step: it is multiplied by `lr_decay` every `lr_period`."""
    warmup: Annotated[float, 0, 0.9] = 0.2
    """one_cycle: share of the run in which the rate climbs; then it falls to zero in a straight line."""
    lr_period: Annotated[int, 1, 10_000] = 4
    """step: epochs between two reductions."""
    lr_decay: Annotated[float, 1e-6, 1] = 0.9
    """step: what the rate is multiplied by."""
    label_smoothing: Annotated[float, 0, 0.9] = 0.0
    """Share of the right answer that is spread over all classes, against overconfidence; 0 for none. It costs
    calibration, and accuracy with few pictures (docs/experiments.md)."""
    crop_padding: Annotated[float, 0, 0.5] = 0.125
    """Random shift of up to this share of a side, the edge reflected."""
    crop_area: Annotated[float, 0.01, 1] = 1.0
    """Random resized crop: the smallest share of the area that is kept; 1 for none."""
    color_jitter: Annotated[float, 0, 1] = 0.0
    """How much contrast, brightness and colours of each picture change at random; 0 for none, 0.4 is strong."""
    outliers: Annotated[float, 0.01, 4] = 0.25
    """Pictures of `--outliers` beside each batch, in multiples of its size."""
    outlier_loss: Annotated[float, 0.001, 10] = 0.05
    """What the loss by outliers counts for beside that by pictures with a class: more marks unknown pictures better,
    and makes the confidence in the known ones less exact (docs/experiments.md)."""
    flip: Annotated[str, "alternating", "random", "none"] = "alternating"
    """Horizontal flip; alternating: random in the first epoch, then each picture's turns about every epoch."""
    flip_average: Annotated[str, "auto", "on", "off"] = "off"
    """Answer with the average over the picture and its mirror image: a little better, at twice the computation; auto:
    where it gains in cross-validation, with fewer than 5,000 pictures where it does not clearly lose."""
    pooling: Annotated[str, "auto", "mean", "root"] = "mean"
    """What the last layer sees. mean: the average of each channel of the last feature map; root: the square roots of
    those of the last two stages' maps; auto: root with fewer than 5,000 pictures and trained weights, else mean."""
    batch_norm: Annotated[str, "auto", "train", "frozen"] = "auto"
    """Whose statistics. train: each batch's own; frozen: those that the starting weights brought; auto: frozen for
    fewer than 5,000 pictures and trained weights, which a fitted last layer needs."""
    framing: Annotated[str, "auto", "squash", "letterbox"] = "auto"
    """Of photos that are not square. squash: to a square; letterbox: between two bars; auto: where they clearly are
    not, the one that validates better with the starting weights, else squash. The model file says which."""
    balance: Annotated[str, "auto", "none", "sampling"] = "auto"
    """Of uneven classes. sampling: each class is drawn equally often; none: it is not; auto: sampling where the largest
    class has over three times the pictures of the smallest."""
    precision: Annotated[str, "auto", "float32", "bfloat16"] = "auto"
    """Of the convolutions; auto: bfloat16 where the processor computes in it, else float32."""
    validation_fraction: Annotated[float, 0.001, 0.9] = 0.1
    """Share of the training pictures held out to choose the best epoch, where the data has no validation split."""
    sample: Annotated[int, 0, 10**9] = 0
    """Use a stratified sample of at most so many pictures, validation among them; 0 for all."""
    seed: Annotated[int, 0, 2**31] = 0
    """Decides the split, the starting values of what is not pre-trained, the order and the augmentation."""
    export: Annotated[str, "int8", "float32"] = "int8"
    """Precision of the model file: int8 or float32, which is taken too if int8 loses over 0.3 points."""

    def __post_init__(self) -> None:
        mistakes = [*_bad_values(self), *_bad_progressive(self)]
        if mistakes:
            raise RecipeError(f"Recipe {self.name}: " + " ".join(mistakes))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as the manifest stores them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> "Recipe":
        """Check keys and types; `where` begins the error message."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        values = {key: value for key, value in values.items() if key not in GONE or value != GONE[key]}
        unknown = [key for key in values if key not in fields]
        if len(unknown) > MOST_UNKNOWN:
            raise RecipeError(f"{where}: has {len(unknown):,} unknown keys. Give a recipe: see pupila recipes")
        mistakes = [unknown_key(key, fields.keys() | ALIASES.keys()) for key in unknown]
        typed: dict[str, Any] = {}
        for key in values.keys() & fields.keys():
            try:
                typed[key] = _typed(key, values[key], type(fields[key].default))
            except (TypeError, ValueError, OverflowError):
                mistakes.append(f"{key} must be {_described(key)}, not {_shown(values[key])}.")
        if mistakes:
            raise RecipeError(f"{where}: " + " ".join(sorted(mistakes)))
        return cls(**typed)

    def override(self, pairs: Iterable[str]) -> "Recipe":
        """Return a recipe with KEY=VALUE pairs applied; every mistake is named in one RecipeError."""
        return self.with_values(values_of(pairs))

    def with_values(self, values: Mapping[str, Any]) -> "Recipe":
        """Return a recipe with these values; who sets epochs and no minutes wants no budget in minutes."""
        given = full_names(values)
        if "epochs" in given and "minutes" not in given:
            given["minutes"] = 0.0
        return Recipe.from_dict({**self.to_dict(), **given}, self.name)

    def with_budget(self, values: Mapping[str, Any]) -> "Recipe":
        """Return a recipe with these values, of which epochs and minutes must be above zero."""
        for key in ("epochs", "minutes"):
            if isinstance(values.get(key), int | float) and not values[key] > 0:
                raise RecipeError(f"{key} must be above 0, not {values[key]:g}.")
        return self.with_values(values)


ALLOWED = {f.name: get_args(f.type)[1:] for f in dataclasses.fields(Recipe) if get_origin(f.type) is Annotated}
"""By key: the least and largest value, or the words that it may be."""


def shipped(kind: str = "recipes") -> list[str]:
    """Names of the recipes, or of the sweeps, that come with Pupila."""
    folder = resources.files("pupila") / kind
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_shipped(name: str) -> str:
    """Return the TOML text of a shipped recipe; raises RecipeError with the nearest name."""
    if name not in shipped():
        sentences = [f"There is no recipe {name!r}.", did_you_mean(name, shipped()), "See them with: pupila recipes"]
        raise RecipeError(" ".join(filter(None, sentences)))
    return (resources.files("pupila") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")


def load_recipe(name: PathLike, overrides: Iterable[str] = ()) -> Recipe:
    """Load a shipped recipe by name, or one's own by the path of a .toml file, and apply KEY=VALUE overrides.

    Raises RecipeError, which names every mistake and the nearest right name.
    """
    name = as_text(name, "A recipe")
    path = Path(name)
    try:
        text = read_small(path, MAX_BYTES) if path.suffix == ".toml" else read_shipped(name)
        values = _parsed(text)
    except OSError as error:
        raise RecipeError(f"{name}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise RecipeError(f"{name}: is not valid TOML ({error}).") from error
    return Recipe.from_dict({"name": path.stem, **values}, path.name).override(overrides)


def full_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values under the keys' full names."""
    return {ALIASES.get(key, key): value for key, value in values.items()}


def values_of(pairs: Iterable[str]) -> dict[str, Any]:
    """Return what KEY=VALUE pairs say, by full name: each value as TOML reads it, and as a text where it is none."""
    given: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise RecipeError(f"{pair!r} is not KEY=VALUE. Write for instance epochs=20.")
        try:
            given[key] = read_value(value)
        except ValueError:
            given[key] = value
    return full_names(given)


def read_value(text: str) -> Any:
    """Return what TOML reads in a value; raises ValueError where it is none."""
    return _parsed(f"value = {text}")["value"]


def _parsed(text: str) -> dict[str, Any]:
    """Read TOML; raises ValueError, also for what lies deep within each other or has thousands of digits or dots."""
    if any(line.count(".") > MOST_DOTS for line in text.split("\n")):
        raise ValueError(f"over {MOST_DOTS} dots in a line")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("too many brackets") from error


def _whole(value: int) -> int:
    """Return a number of up to 63 bits; raises OverflowError for another, which cannot even be shown."""
    if abs(value) > sys.maxsize:
        raise OverflowError
    return value


def _shown(value: Any) -> str:
    """Return a value for a message; Python writes no numbers of over 4,300 digits, and no lists without end."""
    try:
        return repr(value)[:LONGEST]
    except ValueError:
        return "a number of thousands of digits"
    except RecursionError:
        return "lists or tables within each other"


def _typed(key: str, value: Any, kind: type) -> Any:
    if key == "flip_average" and isinstance(value, bool):
        return "on" if value else "off"  # it was true or false before it could be auto
    if key == "progressive":
        return tuple((_whole(int(size)), float(share)) for size, share in value)
    if isinstance(value, int):
        _whole(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise TypeError(key)
    return value


def _described(key: str) -> str:
    kind = type(getattr(Recipe(), key))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind, "a list of [size, share]")


def _bad_values(recipe: Recipe) -> Iterator[str]:
    for key, allowed in ALLOWED.items():
        value = getattr(recipe, key)
        if isinstance(value, str):
            if value not in allowed:
                yield f"{key} must be one of {', '.join(allowed)}, not {value!r}."
        elif not allowed[0] <= value <= allowed[1] and not (key in OPEN and not value):
            yield f"{key} must be from {allowed[0]:g} to {allowed[1]:g}, not {value:g}."


def _bad_progressive(recipe: Recipe) -> list[str]:
    total = sum(share for _, share in recipe.progressive)
    sizes = [size for size, _ in recipe.progressive]
    if total >= 1 or not all(share > 0 for _, share in recipe.progressive):
        return [f"the shares of progressive must be above 0 and add up to less than 1, not {total:g}."]
    if sizes != sorted(sizes) or any(not 32 <= size < (recipe.network_size or 512) for size in sizes):
        return [
            f"the sizes of progressive must climb from 32 to below network_size ({recipe.network_size}), not {sizes}."
        ]
    return []
