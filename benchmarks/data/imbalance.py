"""Which way to make up for uneven classes pays: none or sampling, on a subset of 20:1.

    python benchmarks/data/imbalance.py DATA [--largest 300] [--epochs 7] [--weights auto] [--runs 2]

Of each class of DATA's train part a share is kept, falling in equal steps of the ratio from 1 to 1/20, classes in
random order. Each way trains the whole network at 32 px with the same seed; every fifth test picture judges. Prints a
JSON line a run: balanced accuracy, and the mean recall of the three smallest classes. The last line says what `auto`
gains over `none`, and whether that is anything. About half a minute a run on two cores.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from verdict import verdict

from pupila.data import Dataset, load_dataset, split
from pupila.recipe import load_recipe
from pupila.training.loop.class_weights import balanced_accuracy
from pupila.training.loop.fit import fit, validate
from pupila.training.weights import starting_network

RATIO = 20
WAYS = ("none", "sampling")
EVERY = 5
LEAST = 0.01
"""Gain that counts as help."""


def uneven(train: Dataset, largest: int, seed: int) -> Dataset:
    """Return a subset whose classes shrink in equal steps from `largest` to a twentieth of it."""
    draw = np.random.default_rng(seed)
    classes = len(train.classes)
    rows: list[int] = []
    for place, label in enumerate(draw.permutation(classes)):
        count = round(largest * RATIO ** (-place / (classes - 1)))
        rows += draw.permutation(np.flatnonzero(train.labels == label))[:count].tolist()
    return train.take(sorted(rows))


def run(train: Dataset, test: Dataset, chosen: argparse.Namespace, way: str, seed: int) -> dict[str, float]:
    """Train once and return the test scores."""
    training, validation = split(train, 0.1, 0)
    recipe = replace(
        load_recipe("quick"), balance=way, minutes=0.0, epochs=chosen.epochs, batch_size=64, network_size=32,
        learning_rate=0.02, weights=chosen.weights, seed=seed,
    )  # fmt: skip
    network = starting_network(chosen.weights, len(train.classes), seed).network
    with tempfile.TemporaryDirectory() as name:
        checkpoint = Path(name) / "checkpoint.safetensors"
        fitted = fit(recipe, network, training, validation, checkpoint, identity={}, checkpoint_seconds=1e9)
    labels = torch.from_numpy(test.labels)
    right = (validate(fitted.network, test, 32, recipe).argmax(1) == labels).double()
    small = np.argsort(training.counts())[:3]
    recalls = [float(right[labels == int(label)].mean()) for label in small]
    return {"balanced accuracy": balanced_accuracy(right, labels), "recall of the smallest": float(np.mean(recalls))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--largest", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--runs", type=int, default=2)
    chosen = parser.parse_args()
    splits = load_dataset(chosen.data, 32)
    assert splits.test is not None
    test = splits.test.take(np.arange(0, len(splits.test), EVERY))
    scores: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in range(chosen.runs):
        train = uneven(splits.train, chosen.largest, seed)
        for way in WAYS:
            found = run(train, test, chosen, way, seed)
            scores[way].append(found["balanced accuracy"])
            print(json.dumps({"seed": seed, "balance": way, "pictures": len(train), **found}), flush=True)
    gain = float(np.mean(scores["sampling"]) - np.mean(scores["none"]))
    print(verdict("balanced accuracy gained by sampling, which `auto` is", gain, LEAST))


if __name__ == "__main__":
    main()
