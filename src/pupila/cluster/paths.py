"""Paths that mean the same on every node, whatever folder a process there works in. Opens nothing."""

from pathlib import Path

from pupila.errors import TrainingError
from pupila.recipe import Recipe


def full(source: str) -> str:
    """Return a path with all its folders; what is no path here, like `digits`, stays as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def check_weights(recipe: Recipe) -> None:
    """Raise TrainingError if the weights are a file by a path that holds only here: the recipe is kept as it is."""
    path = Path(recipe.weights)
    if path.exists() and not path.is_absolute():
        raise TrainingError(f"{path}: nodes work in folders of their own. Give --weights with the full path.")
