"""The frozen probe: a logistic regression on the features of starting weights, which no training should fall below.

    python benchmarks/training/probe.py cifar10 --size 96
    python benchmarks/training/probe.py cifar10 --size 96 --sample 1000

Nothing of Pupila's own fitting: last features of pictures and their mirror images, standardised, scikit-learn's
LogisticRegression with the strength that `head.py` began with (C = 1 / 90), answers of picture and mirror image
averaged. Trained on what `pupila train` with the same --sample and --seed trains on; scored on the test split, or the
validation split where there is no other. Prints JSON.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pupila.data import Dataset, load_dataset
from pupila.recipe import Recipe
from pupila.training.loop.device import usable_threads
from pupila.training.loop.probe import all_features
from pupila.training.prepare import training_split
from pupila.training.weights import starting_network

STRENGTH = 1 / 90


def main() -> None:
    """Fit and score, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--size", type=int, default=128, help="pixels a side that the network sees")
    parser.add_argument("--sample", type=int, default=0, help="train on so many pictures, less a tenth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", default="bundled")
    options = parser.parse_args()
    torch.set_num_threads(usable_threads())
    recipe = Recipe(network_size=options.size, sample=options.sample, seed=options.seed)
    splits = load_dataset(options.data)
    judging = splits.test or splits.validation
    if judging is None:
        raise SystemExit("The data set needs a test or a validation split.")
    training, _ = training_split(splits, recipe)
    print(json.dumps(probed(training, judging, recipe, options.weights)))


def probed(training: Dataset, test: Dataset, recipe: Recipe, weights: str) -> dict[str, Any]:
    """Return accuracy and mean recall on the test pictures, and the seconds that it took."""
    begun = time.monotonic()
    network = starting_network(weights, len(training.classes), recipe.seed).network
    known, asked = (all_features(network, part, recipe, mirrored=True) for part in (training, test))
    assert known.mirrored is not None and asked.mirrored is not None
    x, labels = known.all()
    model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000)).fit(
        x.numpy(), labels.numpy()
    )
    chances = model.predict_proba(asked.plain.numpy()) + model.predict_proba(asked.mirrored.numpy())
    right = model.classes_[chances.argmax(1)] == test.labels
    recalls = [right[test.labels == label].mean() for label in np.unique(test.labels)]
    return {
        "n": len(test), "trained_on": len(training), "accuracy": round(float(right.mean()), 4),
        "balanced": round(float(np.mean(recalls)), 4), "size": recipe.network_size,
        "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip


if __name__ == "__main__":
    main()
