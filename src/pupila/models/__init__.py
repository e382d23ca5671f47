"""The files that come with Pupila: a CIFAR-10 model to serve and a trunk to start training from."""

from importlib import resources
from pathlib import Path


def bundled_model() -> Path:
    """Where the CIFAR-10 model file lies."""
    return _path("cifar10.onnx")


def bundled_trunk() -> Path:
    """Where the weights lie that `--weights bundled` starts from."""
    return _path("backbone.safetensors")


def _path(name: str) -> Path:
    return Path(str(resources.files("pupila.models") / name))
