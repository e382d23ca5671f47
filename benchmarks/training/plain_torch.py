"""The usual way of training on photos: fine-tune all of a ResNet-18 at 224 px with the ImageNet-style transforms.

    python benchmarks/training/plain_torch.py PHOTOS --weights bundled --minutes 2

PHOTOS has train/ and test/ of class folders. Random resized crops of 0.08 to 1 of the area and flips; SGD with momentum
0.9, a rate of 0.001 for batches of 32 (0.01 for the new last layer) that falls to zero, weight decay 5e-4. Prints JSON.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from pupila.training.loop.resnet import MEAN, STD, ResNet18
from pupila.training.weights import starting_network

SIZE = 224
BATCH = 32


class Photos(Dataset[tuple[Tensor, int]]):
    """Files of class folders, decoded each time they are asked for."""

    def __init__(self, folder: Path, classes: list[str], training: bool) -> None:
        self.files = [(path, k) for k, name in enumerate(classes) for path in sorted((folder / name).iterdir())]
        self.training = training

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        """Return a normalised picture [3, 224, 224] and its class."""
        path, label = self.files[place]
        image = Image.open(path).convert("RGB")
        image = random_crop(image) if self.training else centre(image)
        pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
        return ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1), label


def random_crop(image: Image.Image) -> Image.Image:
    """Return a crop of 0.08 to 1 of the area and 3:4 to 4:3, resized, and mirrored half of the time."""
    width, height = image.size
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            image = image.crop((left, top, left + w, top + h))
            break
    image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


def centre(image: Image.Image) -> Image.Image:
    """Return the middle 224 x 224 pixels of the picture whose shorter side is 256."""
    scale = 256 / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + SIZE, top + SIZE))


def main() -> None:
    """Train until the minutes are over, then score the test pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--minutes", type=float, default=2.0)
    options = parser.parse_args()
    begun = time.monotonic()
    random.seed(0)
    classes = sorted(path.name for path in (options.photos / "train").iterdir())
    network = starting_network(options.weights, len(classes), seed=0).network
    train(network, Photos(options.photos / "train", classes, training=True), begun, 60 * options.minutes)
    seconds = time.monotonic() - begun
    right = answers(network, Photos(options.photos / "test", classes, training=False))
    recalls = [np.mean([r for r, label in right if label == k]) for k in range(len(classes))]
    scores = {"accuracy": np.mean([r for r, _ in right]), "balanced": np.mean(recalls)}
    rounded = {name: round(float(value), 4) for name, value in scores.items()}
    print(json.dumps({"n": len(right), **rounded, "size": SIZE, "seconds": round(seconds)}))


def train(network: ResNet18, photos: Photos, begun: float, budget: float) -> None:
    """Fine-tune all weights until the budget in seconds is used up."""
    head = list(network.fc.parameters())
    below = [p for name, p in network.named_parameters() if not name.startswith("fc.")]
    groups = [{"params": below, "factor": 1.0}, {"params": head, "factor": 10.0}]
    optimizer = torch.optim.SGD(groups, lr=0.001, momentum=0.9, weight_decay=5e-4)
    network.train()
    while True:
        for x, y in DataLoader(photos, BATCH, shuffle=True, num_workers=0, drop_last=len(photos) >= BATCH):
            left = 1 - (time.monotonic() - begun) / budget
            if left <= 0:
                return
            for group in optimizer.param_groups:
                group["lr"] = 0.001 * group["factor"] * left
            loss = functional.cross_entropy(network(x), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def answers(network: nn.Module, photos: Photos) -> list[tuple[bool, int]]:
    """Return for each photo whether the answer was right, and its class."""
    network.eval()
    found: list[tuple[bool, int]] = []
    with torch.inference_mode():
        for x, y in DataLoader(photos, BATCH):
            found += zip((network(x).argmax(1) == y).tolist(), y.tolist(), strict=True)
    return found


if __name__ == "__main__":
    main()
