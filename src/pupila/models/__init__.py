"""What comes trained with Pupila: a model to serve, and a backbone to start training from."""

from importlib import resources
from pathlib import Path


def bundled_model() -> Path:
    """Where the CIFAR-10 model file lies."""
    return Path(str(resources.files("pupila.models") / "cifar10.onnx"))


def bundled_backbone() -> Path:
    """Where the backbone lies that training starts from: float16 safetensors under torchvision's names, no head."""
    return Path(str(resources.files("pupila.models") / "backbone.safetensors"))
