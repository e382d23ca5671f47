"""Photos in, answers out: train a ResNet-18 on any folder of photos, and serve it.

The public names are loaded when they are first used (PEP 562), so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pupila.data import Dataset, load_dataset
    from pupila.errors import PupilaError
    from pupila.manifest import Manifest
    from pupila.predictor import Prediction, Predictor
    from pupila.recipe import Recipe

__version__ = "0.1.0"
__all__ = ["Dataset", "Manifest", "Prediction", "Predictor", "PupilaError", "Recipe", "__version__", "load_dataset"]

HOMES = {
    "Dataset": "pupila.data",
    "Manifest": "pupila.manifest",
    "Prediction": "pupila.predictor",
    "Predictor": "pupila.predictor",
    "PupilaError": "pupila.errors",
    "Recipe": "pupila.recipe",
    "load_dataset": "pupila.data",
}


def __getattr__(name: str) -> object:
    """Load a public name from the module that it lives in."""
    if name not in HOMES:
        raise AttributeError(f"module 'pupila' has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name]), name)
