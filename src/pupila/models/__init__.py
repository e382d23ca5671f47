"""The model that comes with Pupila."""

from importlib import resources
from pathlib import Path


def bundled_model() -> Path:
    """Where the CIFAR-10 model file lies."""
    return Path(str(resources.files("pupila.models") / "cifar10.onnx"))
