"""Train the bundled backbone: a ResNet-18 on pictures of several sets and sizes, by labels and by a teacher's answers.

    python benchmarks/training/backbone.py pictures WORK mini mini-imagenet.tar 84
    python benchmarks/training/backbone.py teach WORK mini efficientnet-lite0.onnx 160
    python benchmarks/training/backbone.py train WORK START.npz --minutes 80 --rank 0 &
    python benchmarks/training/backbone.py train WORK START.npz --minutes 80 --rank 1
    python benchmarks/training/backbone.py write WORK backbone.safetensors
    python benchmarks/training/backbone.py within WORK backbone.safetensors within.safetensors

`pictures` decodes a tar of class folders into WORK, pixels a side last. `train` needs the training parts of five sets:
`tiny` (Tiny ImageNet, 64 px), `mini` (mini-ImageNet, 84), `nette` and `woof` (Imagenette and Imagewoof, 128 or more),
`cifar100` (CIFAR-100, 32). The folders of all but the last are WordNet ids, and hold their pictures and nothing else.
docs/models/backbone.md has the addresses. `teach` keeps a teacher's logits for each picture and its mirror image at
160 px, 224 if no size is given, of `mini`, `nette` and `woof` (Beyer et al., "Knowledge distillation: A good teacher
is patient and consistent", 2022, ask it for each crop anew, which costs more than the training). START.npz:
torchvision's names, and `trained_classes`, the rows of its last layer that the sorted WordNet ids of all sets belong
to. Each process of `train` uses one core and is taken up again from WORK/backbone.pt; two of them average their
weights every 16 steps (local SGD, Stich, 2019). `within` writes how the backbone's features vary within classes, the
lower triangle of their covariance, from some pictures of each class of `mini`, `nette` and `tiny` (KNOWN).
"""

import argparse
import io
import json
import math
import tarfile
import time
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from pupila.data import Dataset
from pupila.recipe import Recipe
from pupila.training.loop.probe import features_of
from pupila.training.loop.resnet import ResNet18, normalised
from pupila.training.weights import starting_network

MIX = (
    ("tiny", 64, 128, 0.14), ("tiny", 96, 64, 0.10), ("cifar100", 64, 128, 0.10), ("cifar100", 96, 64, 0.24),
    ("mini", 84, 80, 0.08), ("mini", 128, 48, 0.16), ("nette", 128, 48, 0.09), ("woof", 128, 48, 0.09),
)  # fmt: skip
"""Set, pixels a side, pictures a step and share of the steps. layer4 sees 4 x 4 cells at 128 px and 2 x 2 at 64."""
KNOWN, KNOWN_SIZE = {"mini": 60, "nette": 200, "tiny": 20}, 128
"""Pictures of each class, 12,000 in all, and the pixels a side at which `within` looks at them."""
OWN_HEAD = "cifar100"
"""A set whose classes are none of ImageNet's."""
FACTORS = {"conv1": 0.2, "bn1": 0.2, "layer1": 0.2, "layer2": 0.4, "layer3": 0.7, "layer4": 1.0, "fc": 1.0, "own": 3.0}
"""Rates in multiples of layer4's: the lower half is ImageNet's already."""
AVERAGED_EVERY = 16
SAVED_EVERY = 240.0


def main() -> None:
    """Run one of the five steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["pictures", "teach", "train", "write", "within"])
    parser.add_argument("work", type=Path)
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--minutes", type=float, default=80.0)
    parser.add_argument("--rate", type=float, default=0.018)
    parser.add_argument("--rank", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.step == "pictures":
        name, archive, size = options.arguments
        decode(options.work, name, Path(archive), int(size))
    elif options.step == "teach":
        teach(options.work, *options.arguments[:2], *map(int, options.arguments[2:]))
    elif options.step == "train":
        Training(options.work, Path(options.arguments[0]), options.rank, options.rate).run(options.minutes)
    elif options.step == "within":
        write_within(options.work, *map(Path, options.arguments))
    else:
        write(options.work, Path(options.arguments[0]))


def decode(work: Path, name: str, archive: Path, size: int) -> None:
    """Write NAME.npy, uint8 [N, size, size, 3], the middle square of each picture, and NAME.json, their classes."""
    pictures, classes = [], []
    with tarfile.open(archive) as tar:
        for member in sorted((each for each in tar if each.isfile()), key=lambda each: each.name):
            content = tar.extractfile(member)
            assert content is not None
            image = Image.open(io.BytesIO(content.read())).convert("RGB")
            scale = size / min(image.size)
            width, height = (max(size, round(side * scale)) for side in image.size)
            left, top = (width - size) // 2, (height - size) // 2
            image = image.resize((width, height), Image.Resampling.BICUBIC)
            pictures.append(np.asarray(image.crop((left, top, left + size, top + size))))
            classes.append(PurePosixPath(member.name).parent.name)
    np.save(work / f"{name}.npy", np.stack(pictures))
    (work / f"{name}.json").write_text(json.dumps(classes))


def teach(work: Path, name: str, model: str, size: int = 224, batch: int = 32) -> None:
    """Write NAME.teacher.npy, float16 [N, 2, 1000]: the logits of each picture and of its mirror image."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    pictures = np.load(work / f"{name}.npy", mmap_mode="r")
    answers = np.zeros((len(pictures), 2, 1000), dtype=np.float16)
    for start in range(0, len(pictures), batch):
        x = torch.from_numpy(np.array(pictures[start : start + batch])).permute(0, 3, 1, 2).float()
        x = functional.interpolate(x, size=(size, size), mode="bicubic", align_corners=False).clamp(0, 255)
        for mirrored, view in enumerate((x, x.flip(3))):
            answers[start : start + batch, mirrored] = session.run(None, {"x": ((view - 127) / 128).numpy()})[0]
    np.save(work / f"{name}.teacher.npy", answers)


class Pictures:
    """One set: pictures, labels, and the teacher's answers where it has been asked."""

    def __init__(self, work: Path, name: str, index: dict[str, int]) -> None:
        self.images = np.load(work / f"{name}.npy", mmap_mode="r")
        self.labels = torch.tensor([index[each] for each in json.loads((work / f"{name}.json").read_text())])
        answers = work / f"{name}.teacher.npy"
        self.answers: NDArray[np.float16] | None = np.load(answers, mmap_mode="r") if answers.exists() else None

    def batch(self, rows: NDArray[np.int64], size: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return augmented pictures [N, 3, size, size], labels [N], and the teacher's logits [N, 1000] if there are."""
        x = normalised(torch.from_numpy(self.images[rows]))
        flipped = torch.rand(len(rows), generator=draw) < 0.5
        area = uniform(len(rows), 0.4 if self.answers is None else 0.5, 1.0, draw)
        ratio = uniform(len(rows), -0.25, 0.25, draw).exp()
        wide, high = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        maps = torch.zeros(len(rows), 2, 3)
        maps[:, 0, 0], maps[:, 1, 1] = torch.where(flipped, -wide, wide), high
        maps[:, 0, 2] = uniform(len(rows), -1, 1, draw) * (1 - wide)
        maps[:, 1, 2] = uniform(len(rows), -1, 1, draw) * (1 - high)
        grid = functional.affine_grid(maps, [len(rows), 3, size, size], align_corners=False)
        x = functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
        light = uniform(2 * len(rows), -0.25, 0.25, draw).view(2, -1, 1, 1, 1)
        x = (x * (1 + light[0]) + 2 * light[1]).contiguous(memory_format=torch.channels_last)
        if self.answers is None:
            return x, self.labels[rows], None
        taught = np.stack([self.answers[row, int(flip)] for row, flip in zip(rows, flipped, strict=True)])
        return x, self.labels[rows], torch.from_numpy(taught.astype(np.float32))


def uniform(count: int, low: float, high: float, draw: torch.Generator) -> Tensor:
    """Return float32 [count]."""
    return torch.rand(count, generator=draw) * (high - low) + low


class Training:
    """One process: its network, the moving average that is written, and the weights of the other process."""

    def __init__(self, work: Path, start: Path, rank: int, rate: float) -> None:
        self.work, self.rank, self.rate, self.step = work, rank, rate, 0
        first = dict(np.load(start))
        self.trained = torch.from_numpy(first.pop("trained_classes")).long()
        self.sets = self._read_sets()
        self.network = ResNet18(1000)
        self.network.load_state_dict({name: torch.from_numpy(value.astype("float32")) for name, value in first.items()})
        self.network.own = nn.Linear(512, 100)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.03  # the sets differ in their statistics
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        groups = [
            {"params": p, "factor": FACTORS[name.split(".")[0]], "weight_decay": 5e-5 if p.ndim > 1 else 0.0}
            for name, p in self.network.named_parameters()
        ]
        self.optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
        if (work / "backbone.pt").exists():
            saved = torch.load(work / "backbone.pt", weights_only=True)
            self.network.load_state_dict(saved["network"])
            self.step = saved["step"]
        self.state = {name: v for name, v in self.network.state_dict().items() if v.is_floating_point()}
        self.mean = {name: value.clone() for name, value in self.state.items()}
        self.mine, self.others = self._shared(rank), self._shared(1 - rank)

    def _read_sets(self) -> dict[str, Pictures]:
        names = {name for name, *_ in MIX}
        classes = {name: set(json.loads((self.work / f"{name}.json").read_text())) for name in names}
        imagenet = sorted(set().union(*(found for name, found in classes.items() if name != OWN_HEAD)))
        if len(imagenet) != len(self.trained):
            raise SystemExit(f"START has {len(self.trained)} trained classes, and the sets {len(imagenet)}.")
        index = {name: sorted(classes[name]) if name == OWN_HEAD else imagenet for name in sorted(names)}
        return {name: Pictures(self.work, name, {c: i for i, c in enumerate(found)}) for name, found in index.items()}

    def _shared(self, rank: int) -> NDArray[np.float32]:
        """Return the weights that process `rank` shows, and behind them 1 once there are any."""
        path, count = self.work / f"rank{rank}.weights", sum(v.numel() for v in self.state.values()) + 1
        if not path.exists() or rank == self.rank:
            np.zeros(count, dtype=np.float32).tofile(path)
        return np.memmap(path, dtype=np.float32, mode="r+", shape=(count,))

    def run(self, minutes: float) -> None:
        """Train by the clock: a cosine from the rate to a fiftieth of it."""
        begun = saved = time.monotonic()
        seed = 2 * self.step + self.rank
        draw, random = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        shares, losses = np.array([share for *_, share in MIX]), list[float]()
        while (progress := (time.monotonic() - begun) / (60 * minutes)) < 1:
            name, size, count, _ = MIX[random.choice(len(MIX), p=shares / shares.sum())]
            source = self.sets[name]
            rows = np.sort(random.choice(len(source.labels), count, replace=False))
            losses.append(self._step(name, source.batch(rows, size, draw), progress))
            if self.step % 100 == 0:
                print(f"{100 * progress:.0f} % step {self.step} loss {np.mean(losses[-100:]):.3f}", flush=True)
            if self.step % AVERAGED_EVERY == 0:
                self._average()
            if self.rank == 0 and time.monotonic() - saved > SAVED_EVERY:
                self.save()
                saved = time.monotonic()
        if self.rank == 0:
            self.save()

    def _step(self, name: str, batch: tuple[Tensor, Tensor, Tensor | None], progress: float) -> float:
        x, labels, taught = batch
        warm = min(1.0, self.step / 100)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * group["factor"] * warm * (0.49 * (1 + math.cos(math.pi * progress)) + 0.02)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = self.network.features(x)
        logits = (self.network.own if name == OWN_HEAD else self.network.fc)(features.float())
        own = logits if name == OWN_HEAD else logits[:, self.trained]
        loss = functional.cross_entropy(own, labels, label_smoothing=0.05)
        if taught is not None:
            told = functional.kl_div(logits.log_softmax(1), taught.softmax(1), reduction="batchmean")
            loss = 0.3 * loss + 0.7 * told
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self.step += 1
        decay = min(0.9995, (1 + self.step) / (20 + self.step))
        torch._foreach_lerp_(list(self.mean.values()), list(self.state.values()), 1 - decay)
        return loss.item()

    @torch.no_grad()
    def _average(self) -> None:
        """Show these weights to the other process, and take the mean with what it shows."""
        start = 0
        for value in self.state.values():
            end = start + value.numel()
            if self.others[-1]:
                value.add_(torch.from_numpy(self.others[start:end].copy()).view(value.shape)).div_(2)
            self.mine[start:end] = value.reshape(-1).numpy()
            start = end
        self.mine[-1] = 1

    def save(self) -> None:
        """Write backbone.pt in place of the earlier one."""
        saved: dict[str, Any] = {"network": self.network.state_dict(), "mean": self.mean, "step": self.step}
        torch.save(saved, self.work / "backbone.pt.part")
        (self.work / "backbone.pt.part").replace(self.work / "backbone.pt")


def write(work: Path, path: Path) -> None:
    """Write the averaged weights of all but the last layers in float16."""
    mean = torch.load(work / "backbone.pt", weights_only=True)["mean"]
    save_file({n: v.half().contiguous() for n, v in mean.items() if not n.startswith(("fc.", "own."))}, path)


def write_within(work: Path, weights: Path, path: Path) -> None:
    """Write the covariance [768, 768] of features under the root within the classes of KNOWN: its lower triangle."""
    network = starting_network(str(weights), 2, 0).network
    network.pool("root")
    residuals = []
    for name, count in KNOWN.items():
        images = np.load(work / f"{name}.npy", mmap_mode="r")
        classes = np.array(json.loads((work / f"{name}.json").read_text()))
        for each in np.unique(classes):
            rows = np.flatnonzero(classes == each)[:count]
            shown = [Image.fromarray(images[row]).resize((KNOWN_SIZE, KNOWN_SIZE)) for row in rows]
            pictures = Dataset(np.stack([np.asarray(each) for each in shown]), np.zeros(len(rows), np.int64), ("any",))
            features = features_of(network, pictures, Recipe(network_size=KNOWN_SIZE))
            residuals.append(features - features.mean(0))
    every = torch.cat(residuals)
    covariance = every.T @ every / len(every)
    save_file({"within": covariance[*torch.tril_indices(*covariance.shape)].half().contiguous()}, path)


if __name__ == "__main__":
    main()
