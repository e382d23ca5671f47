"""Training images/s, all sides in one run: the bare step, Pupila's loop, and PIL transforms in a DataLoader.

    python benchmarks/training/throughput.py [--size 32] [--batch 128] [--rounds 5] [--json]

Sides, the same network, optimizer and batch size for all:
    step        the step on one fixed batch: the ceiling
    pupila      the step on augmented batches from batches.py
    dataloader  the step on batches from PIL transforms (resize to 40, random resized crop, flip) in a DataLoader with
                two worker processes
    reference   the same DataLoader and a plain step, float32 and contiguous: the way the study trains
    float32, contiguous, compiled: the bare step without bfloat16, without channels-last, with torch.compile

Rounds of all sides alternate, so that a busy moment of the machine meets them all. Each measurement follows some steps
that do not count, as a DataLoader has a few batches ready that it made in the others' time. Medians are printed.
"""

import argparse
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from pupila.recipe import Recipe
from pupila.training.loop.batches import Batch, batches
from pupila.training.loop.device import autocast, pick_device
from pupila.training.loop.optim import sgd
from pupila.training.loop.resnet import ResNet18, normalised

PICTURES = 4096
STEPS = 8
AHEAD = 5
"""Steps that use up what a DataLoader's workers have prepared, two batches each."""
BARS = {"step": 0.9, "reference": 1.5}
"""How many times the images/s of another side Pupila's loop shall reach."""
SOURCE = np.random.default_rng(0).integers(0, 256, (PICTURES, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(PICTURES, dtype=np.int64) % 10


class PilPictures(Dataset):
    """One picture at a time through PIL, as torchvision's transforms do it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return PICTURES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.fromarray(SOURCE[index]).resize((40, 40), Image.Resampling.BILINEAR)
        side = int(40 * random.uniform(0.64, 1) ** 0.5)
        left, top = random.randint(0, 40 - side), random.randint(0, 40 - side)
        box = (left, top, left + side, top + side)
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return normalised(torch.from_numpy(np.array(image)[np.newaxis]))[0], int(LABELS[index])


def fixed(recipe: Recipe, channels_last: bool = True) -> Iterator[Batch]:
    """One batch, again and again."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    size = recipe.network_size
    pictures = torch.randn(recipe.batch_size, 3, size, size).contiguous(memory_format=layout)
    labels = torch.from_numpy(LABELS[: recipe.batch_size])
    return itertools.repeat(Batch(pictures, labels, torch.arange(len(labels)), 1.0, len(labels)))


def ours(recipe: Recipe) -> Iterator[Batch]:
    """Pupila's own batches, epoch after epoch."""
    pictures, labels = torch.from_numpy(SOURCE), torch.from_numpy(LABELS)
    for epoch in itertools.count():
        yield from batches(pictures, labels, recipe, size=recipe.network_size, epoch=epoch)


def theirs(recipe: Recipe, channels_last: bool = True) -> Iterator[Batch]:
    """A DataLoader's batches, epoch after epoch."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    loader = DataLoader(PilPictures(recipe.network_size), recipe.batch_size, shuffle=True, num_workers=2)
    for pictures, labels in itertools.chain.from_iterable(itertools.repeat(loader)):
        yield Batch(pictures.contiguous(memory_format=layout), labels, torch.arange(len(labels)), 1.0, len(labels))


def trainer(
    recipe: Recipe, source: Iterator[Batch], channels_last: bool = True, compiled: bool = False
) -> Callable[[], float]:
    """Return a function that trains for STEPS steps and returns images/s."""
    device = pick_device()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = ResNet18(10).to(device, memory_format=layout).train()
    forward = torch.compile(network) if compiled else network
    optimizer = sgd(network, recipe)

    def step() -> int:
        batch = next(source)
        with autocast(recipe, device):
            logits = forward(batch.pictures.to(device)).float()
        labels = batch.labels.to(device)
        loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        return batch.count

    def measure() -> float:
        for _ in range(AHEAD):
            step()
        begun = time.perf_counter()
        seen = sum(step() for _ in range(STEPS))
        return seen / (time.perf_counter() - begun)

    return measure


def main() -> None:
    """Measure all sides and print images/s and their ratio to the bare step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128, help="pictures a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--compile", action="store_true", help="also measure torch.compile, which takes minutes to start"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    recipe = Recipe(network_size=options.size, batch_size=options.batch)
    plain = replace(recipe, precision="float32")
    sides = {
        "step": trainer(recipe, fixed(recipe)),
        "pupila": trainer(recipe, ours(recipe)),
        "dataloader": trainer(recipe, theirs(recipe)),
        "reference": trainer(plain, theirs(plain, channels_last=False), channels_last=False),
        "float32": trainer(plain, fixed(plain)),
        "contiguous": trainer(recipe, fixed(recipe, channels_last=False), channels_last=False),
    }
    if options.compile:
        sides["compiled"] = trainer(recipe, fixed(recipe), compiled=True)
    rounds = [{name: measure() for name, measure in sides.items()} for _ in range(options.rounds)]
    medians = {name: statistics.median(row[name] for row in rounds) for name in sides}
    if options.json:
        print(
            json.dumps(
                {"size": options.size, "batch": options.batch, "rounds": options.rounds, "images_per_second": medians}
            )
        )
        return
    for name, value in medians.items():
        print(f"{name:12} {value:7.0f} images/s  {value / medians['step']:5.2f} of the bare step")
    for side, bar in BARS.items():
        ratio = statistics.median(row["pupila"] / row[side] for row in rounds)
        print(f"pupila: {ratio:.2f} times {side}, the bar is {bar}: {'met' if ratio >= bar else 'NOT MET'}")


if __name__ == "__main__":
    main()
