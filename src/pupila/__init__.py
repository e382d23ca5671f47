"""Photos in, answers out: train a ResNet-18 on any folder of photos, and serve it.

Public names are loaded when they are first used (PEP 562): importing the package loads neither NumPy nor PyTorch.
"""

import dataclasses
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pupila._arguments import PathLike, as_path, as_text, did_you_mean

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
"""ONNX Runtime 1.32 has telemetry built in, and writes an identifier into ~/.cache, unless this is set."""

if TYPE_CHECKING:
    from flask import Flask

    from pupila.client import Client
    from pupila.data import Dataset, load_dataset
    from pupila.errors import (
        DataError,
        DownloadError,
        ImageError,
        MissingExtraError,
        ModelError,
        PupilaError,
        RecipeError,
        ServerError,
        SettingsError,
        TrainingError,
    )
    from pupila.evaluation.evaluate import evaluate
    from pupila.manifest import Manifest
    from pupila.prediction import Prediction
    from pupila.predictor import Predictor
    from pupila.recipe import Recipe, load_recipe
    from pupila.server.settings import Settings
    from pupila.training.train import TrainResult

__version__ = "0.2.0"
HOMES = {
    "Client": "pupila.client",
    "Dataset": "pupila.data",
    "Manifest": "pupila.manifest",
    "Prediction": "pupila.prediction",
    "Predictor": "pupila.predictor",
    "Recipe": "pupila.recipe",
    "Settings": "pupila.server.settings",
    "evaluate": "pupila.evaluation.evaluate",
    "load_dataset": "pupila.data",
    "load_recipe": "pupila.recipe",
}
"""The module of each name that is loaded when it is first used; errors are in pupila.errors."""
__all__ = [
    "Client",
    "DataError",
    "Dataset",
    "DownloadError",
    "ImageError",
    "Manifest",
    "MissingExtraError",
    "ModelError",
    "Prediction",
    "Predictor",
    "PupilaError",
    "Recipe",
    "RecipeError",
    "ServerError",
    "Settings",
    "SettingsError",
    "TrainingError",
    "__version__",
    "create_app",
    "evaluate",
    "load",
    "load_dataset",
    "load_recipe",
    "serve",
    "train",
]


def load(path: PathLike | None = None, threads: int = 1) -> "Predictor":
    """Load a model file and verify it; without a path, the CIFAR-10 model that comes with Pupila.

    threads: how many one computation may use. The Predictor may be called from several threads.
    Raises ModelError if the file is missing, damaged, or no model file of Pupila's.
    """
    from pupila.models import bundled_model
    from pupila.predictor import Predictor

    return Predictor.load(bundled_model() if path is None else path, threads)


def train(
    data: PathLike,
    recipe: "PathLike | Recipe" = "standard",
    minutes: float | None = None,
    out: PathLike | None = None,
    weights: PathLike | None = None,
    on_epoch: Callable[[Sequence[dict[str, Any]]], None] | None = None,
    resume: bool = False,
    **overrides: Any,
) -> "TrainResult":
    """Train on a folder or archive of photos, `digits` or `cifar10`, and leave a model file and a report in a folder.

    recipe: a shipped recipe's name, the path of a .toml file, or a Recipe. minutes: wall-clock budget. out: the run's
    folder, by default a new one in `runs`. weights: what to start from: auto, imagenet, bundled, none, or a file.
    on_epoch: called after each epoch with the metrics of all epochs so far. resume: go on with the run in `out`, or
    with the last unfinished one of this data. Other keywords override keys of the recipe, such as epochs=5 or seed=1.
    Raises DataError, RecipeError, TrainingError, MissingExtraError.
    """
    from pupila.recipe import Recipe, load_recipe
    from pupila.training.run_folder import TrainingData, default_name, new_folder, source_of, unfinished
    from pupila.training.train import TrainJob
    from pupila.training.train import train as run

    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    given = {"minutes": minutes, "weights": None if weights is None else as_text(weights, "weights")}
    chosen = chosen.with_budget({**overrides, **{key: value for key, value in given.items() if value is not None}})
    if on_epoch is not None and not callable(on_epoch):
        raise TypeError(f"on_epoch must be a function, not {type(on_epoch).__name__}.")
    source = as_text(data, "data")
    if out is not None or resume:
        folder = unfinished(Path("runs"), source_of(source)) if out is None else as_path(out, "out")
        return run(TrainJob(TrainingData(source), chosen, folder, resume), watch=on_epoch)
    with new_folder(Path("runs"), default_name(source, chosen.name)) as folder:
        return run(TrainJob(TrainingData(source), chosen, folder), watch=on_epoch)


def create_app(model: "PathLike | Predictor | None" = None, settings: "Settings | None" = None) -> "Flask":
    """Return the HTTP API of a model, or of the bundled one, as a WSGI application for any WSGI server.

    Raises ModelError, SettingsError.
    """
    from pupila.predictor import Predictor
    from pupila.server import create_app as create

    _check_settings(settings)
    return create(model if isinstance(model, Predictor) else load(model), settings)


def serve(model: PathLike | None = None, settings: "Settings | None" = None, **options: Any) -> None:
    """Serve a model file, or the bundled one, until SIGTERM or Ctrl-C. Call it in the main thread.

    Options are those of Settings, such as port=3000.
    Raises ModelError, SettingsError.
    """
    from pupila.errors import ModelError
    from pupila.models import bundled_model
    from pupila.server import serve as run
    from pupila.server.settings import Settings

    _check_settings(settings)
    path = bundled_model() if model is None else as_path(model, "A model file")
    if not path.exists():
        raise ModelError(f"{path}: there is no such file. Give the path of a .onnx model file.")
    run(path, _with_options(settings or Settings(), options))


def _check_settings(settings: object) -> None:
    from pupila.server.settings import Settings

    if not isinstance(settings, Settings | None):
        raise TypeError(f"settings must be pupila.Settings, not {type(settings).__name__}.")


def _with_options(settings: "Settings", options: Mapping[str, Any]) -> "Settings":
    """Return the settings with single options changed; raises SettingsError for an unknown one, with the nearest."""
    from pupila.errors import SettingsError

    known = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    for name, value in options.items():
        if name not in known:
            raise SettingsError(f"There is no option {name!r}. {did_you_mean(name, known)}".rstrip())
        if isinstance(known[name], int | float) and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise TypeError(f"{name} must be a number, not {type(value).__name__}.")
    paths = {name: Path(options[name]) for name in ("access_log", "feedback_dir") if isinstance(options.get(name), str)}
    return dataclasses.replace(settings, **{**options, **paths})


def __getattr__(name: str) -> object:
    """Load a public name from the module that it lives in."""
    if name not in __all__:
        raise AttributeError(f"module 'pupila' has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES.get(name, "pupila.errors")), name)


def __dir__() -> list[str]:
    """Return the public names and no more."""
    return sorted(__all__)
