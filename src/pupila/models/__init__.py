"""What comes trained with Pupila: a model to serve, and a backbone to start training from."""

import importlib.util
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from pupila.errors import ModelError, installed_from, pip_install

IN_CHECKOUT = "packages/pupila-backbone/src/pupila_backbone"


def bundled_model() -> Path:
    """Return the path of the CIFAR-10 model file."""
    return Path(str(resources.files("pupila.models") / "cifar10.onnx"))


def bundled_backbone() -> Path:
    """Return the path of the backbone that training starts from: float16 safetensors, torchvision's names, no head.

    It is a package of its own, pupila-backbone, as serving does not need its 22 MB. Raises ModelError if neither that
    nor the checkout that Pupila was installed from has it.
    """
    for folder in _folders():
        if (folder / "backbone.safetensors").is_file():
            return folder / "backbone.safetensors"
    raise ModelError(
        "The bundled backbone is not installed. Take other weights (imagenet, none, or a file), or install it with: "
        f"{pip_install(_backbone_wheel())}"
    )


def _backbone_wheel() -> str:
    """Return what pip installs: the wheel beside the one that Pupila was installed from, else the package's name."""
    origin = installed_from()
    found = sorted(origin.parent.glob("pupila_backbone-*.whl")) if origin is not None else []
    return str(found[-1]) if found else "pupila-backbone"


def _folders() -> Iterator[Path]:
    spec = importlib.util.find_spec("pupila_backbone")
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent
    yield Path(__file__).parents[3] / IN_CHECKOUT  # an editable install
    origin = installed_from()
    if origin is not None:
        yield origin / IN_CHECKOUT
