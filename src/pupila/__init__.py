"""Photos in, answers out: train a ResNet-18 on any folder of photos, and serve it.

Light to import: neither torch nor flask is loaded here.
"""

from pupila.data import Dataset, load_dataset
from pupila.errors import PupilaError
from pupila.manifest import Manifest
from pupila.predictor import Prediction, Predictor
from pupila.recipe import Recipe

__version__ = "0.1.0"
__all__ = ["Dataset", "Manifest", "Prediction", "Predictor", "PupilaError", "Recipe", "__version__", "load_dataset"]
