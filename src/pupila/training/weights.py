"""What training starts from: the published ImageNet weights, the bundled backbone, a file of one's own, or nothing."""

import hashlib
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pupila._files import replacing
from pupila.data.sources.download import cache_folder, download
from pupila.errors import DownloadError, ModelError
from pupila.models import bundled_backbone
from pupila.training import state_file
from pupila.training.loop.resnet import ResNet18
from pupila.training.state_file import NotPlainError

log = logging.getLogger("pupila.training")

IMAGENET_URL = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
IMAGENET_SHA256_PREFIX = "f37072fd"  # the published file carries the start of its hash in its name
MAX_BYTES, MAX_HEADER = 256 * 2**20, 2**20
"""Of a file of weights, of which a ResNet-18 needs 45 MiB, and of the names and shapes in a .safetensors file."""
MAX_NAME = 1_000
"""Letters of a tensor's name, of which a message may say one."""
WITHIN = "within"
"""What the bundled backbone knows of classes, see ResNet18.within: a file beside it holds the triangle below and with
the diagonal, row by row (benchmarks/training/backbone.py)."""
FRACTIONS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
PLAIN = {*FRACTIONS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
"""Kinds of numbers that are read, in either format: PyTorch does not convert all others to a network's."""


@dataclass(frozen=True)
class Start:
    """A network ready to be trained, and the words for where its weights come from."""

    network: ResNet18
    origin: str


def starting_network(weights: str, classes: int, seed: int, *, url: str = IMAGENET_URL) -> Start:
    """Return a ResNet-18 with a new head of K classes, initialised from `weights`; see Recipe.weights.

    Raises DownloadError without network, ModelError if a file is damaged or not a ResNet-18.
    """
    torch.manual_seed(seed)
    network = ResNet18(classes)
    state, origin = _state(weights, url)
    if state is not None:
        network.within = state.pop(WITHIN, None) if weights in ("bundled", "auto") else None
        _load_backbone(network, state, origin)
    return Start(network, origin)


def save_backbone(network: ResNet18, path: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write all but the head as safetensors; float16 halves the file at no cost in accuracy after training goes on."""
    state = {}
    for name, value in network.state_dict().items():
        if not name.startswith("fc."):
            state[name] = value.to(dtype).contiguous() if value.is_floating_point() else value
    with replacing(path) as temporary:
        save_file(state, temporary)


def _state(weights: str, url: str) -> tuple[dict[str, Tensor] | None, str]:
    if weights == "none":
        return None, "none"
    if weights == "imagenet":
        try:
            file = download(url, cache_folder() / Path(url).name, sha256=IMAGENET_SHA256_PREFIX)
        except DownloadError as error:
            raise DownloadError(f"{error} Or start from other weights: bundled, none, or a .pth file.") from error
        return read_weights(file), "imagenet"
    if weights == "auto":
        return _auto(url)
    path = bundled_backbone() if weights == "bundled" else weights_file(Path(weights))
    state = read_weights(path)
    name = "bundled" if weights == "bundled" else path.name
    if weights == "bundled":
        state[WITHIN] = covariance_from(read_weights(path.with_name("within.safetensors"))[WITHIN])
    return state, f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def covariance_from(triangle: Tensor) -> Tensor:
    """Return the symmetric float32 [D, D] of which so many numbers are the lower triangle."""
    size = (math.isqrt(8 * len(triangle) + 1) - 1) // 2
    lower = torch.zeros(size, size)
    lower[*torch.tril_indices(size, size)] = triangle.float()
    return lower + lower.tril(-1).T


def weights_file(path: Path) -> Path:
    """Return the file of trained weights that belongs to a run's folder or to its model file; other paths as they are.

    Raises ModelError if there is none: a model file alone holds rounded weights, from which nothing is trained.
    """
    if path.is_dir():
        beside = path / "backbone.safetensors"
    elif path.suffix == ".onnx":
        beside = path.with_name("backbone.safetensors")
    else:
        return path
    if not beside.exists():
        raise ModelError(
            f"{path}: there is no {beside.name} with it. Give the folder of a run, or a .safetensors file."
        )
    return beside


def _auto(url: str) -> tuple[dict[str, Tensor] | None, str]:
    """ImageNet's weights if they are cached or can be had, else the bundled ones; says which and why."""
    try:
        found = _state("imagenet", url)
    except DownloadError as error:
        log.info(f"Starting from the bundled backbone, since ImageNet's weights cannot be had: {error}")
        return _state("bundled", url)
    log.info("Starting from ImageNet's weights: they are in the cache.")
    return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors file, or a .pth state dict without running any code that its pickle may hold."""
    if not path.is_file():
        raise ModelError(f"{path}: there is no such weights file. Weights are imagenet, bundled, none, or a path.")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ModelError(
            f"{path}: has {size / 2**20:,.0f} MiB, and {MAX_BYTES // 2**20} are read at most. Give the weights of a "
            "ResNet-18, which have 45."
        )
    try:
        state = _safetensors(path) if path.suffix == ".safetensors" else state_file.load(path.read_bytes())
        if isinstance(state, dict):
            state = dict(state)  # an OrderedDict of a file may have attributes that hide its methods
    except NotPlainError as error:
        raise _not_plain(path) from error
    except (SafetensorError, Exception) as error:  # torch.load raises a dozen types on a damaged or hostile file
        raise ModelError(f"{path}: is damaged or not a weights file. Download it again.") from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and len(name) <= MAX_NAME and isinstance(value, Tensor) and value.dtype in PLAIN
        for name, value in state.items()
    ):
        raise _not_plain(path)
    return state


def _not_plain(path: Path) -> ModelError:
    return ModelError(f"{path}: is not a plain state dict. Save it with: torch.save(model.state_dict(), path)")


def _safetensors(path: Path) -> dict[str, Tensor]:
    state_file.check_header(path, MAX_HEADER)
    return dict(load_file(path))


def _load_backbone(network: ResNet18, state: dict[str, Tensor], origin: str) -> None:
    """Copy all but the head. A deeper network has all of ResNet-18's tensors and more, and is refused as well."""
    own = network.state_dict()
    backbone = {name: value for name, value in state.items() if not name.startswith("fc.")}
    wanted = {name: value.shape for name, value in own.items() if not name.startswith("fc.")}
    wrong = [name for name in wanted if name not in backbone and not name.endswith("num_batches_tracked")]
    wrong += [name for name, shape in wanted.items() if name in backbone and backbone[name].shape != shape]
    wrong += sorted(backbone.keys() - own.keys())
    if wrong:
        raise ModelError(
            f"{origin}: is not a ResNet-18: {wrong[0]} is missing, of another shape, or too many ({len(wrong)} such)."
        )
    network.load_state_dict({**own, **backbone})
