"""Which score tells unknown pictures best? The area under the ROC curve of each candidate; 0.5 is chance.

    python benchmarks/training/unknown.py MODEL cifar10-jpeg.tar.xz tiny-imagenet-32.tar.xz

Known: the test pictures of the first data set. Unknown: the validation pictures of Tiny ImageNet whose class is none of
CIFAR-10's ten, and handwritten digits. Distances are measured from the training pictures' features.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from pupila.data import Dataset, load_dataset
from pupila.evaluation.unknown import Answers, compare_candidates
from pupila.predictor import Predictor

AMONG_THE_TEN = {
    "automobile": ["n02814533", "n03100240", "n03670208", "n03977966", "n04285008"],
    "bird": ["n01855672", "n02002724", "n02056570", "n02058221"],
    "cat": ["n02123045", "n02123394", "n02124075"],
    "dog": ["n02085620", "n02094433", "n02099601", "n02099712", "n02106662", "n02113799"],
    "frog": ["n01641577", "n01644900"],
    "ship": ["n03447447", "n03662601"],
    "truck": ["n03796401"],
}
"""Tiny ImageNet's classes that are one of CIFAR-10's. Lions, gazelles, buses and tractors are not, and stay in."""
REFERENCE = 10_000
"""Training pictures that distances are measured from."""
BATCH = 250


def main() -> None:
    """Print one JSON line for each kind of unknown pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("known")
    parser.add_argument("unknown")
    options = parser.parse_args()
    predictor = Predictor.load(options.model)
    size = predictor.manifest.input_size
    known = load_dataset(options.known, size)
    reference = known.train.take(np.linspace(0, len(known.train) - 1, min(REFERENCE, len(known.train)), dtype=np.int64))
    digits = load_dataset("digits", size).train
    if known.test is None:
        raise SystemExit("The first data set needs a test split.")
    sides = {"tiny-imagenet outside the ten": outside(options.unknown, size), "digits": digits}
    trained, tested = answers(predictor, reference), answers(predictor, known.test)
    for name, pictures in sides.items():
        found = answers(predictor, pictures)
        scores = compare_candidates(trained, reference.labels, tested, found, predictor.manifest.temperature)
        print(json.dumps({"unknown": name, "n": len(pictures), **{k: round(v, 4) for k, v in scores.items()}}))


def outside(source: str, size: int) -> Dataset:
    """Return the validation pictures whose class is none of the ten."""
    pictures = load_dataset(source, size).validation
    if pictures is None:
        raise SystemExit("The second data set needs a validation split.")
    inside = {name for names in AMONG_THE_TEN.values() for name in names}
    keep = [index for index, label in enumerate(pictures.labels) if pictures.classes[label] not in inside]
    return pictures.take(keep)


def answers(predictor: Predictor, dataset: Dataset) -> Answers:
    """Return logits and features of every picture."""
    parts = [predictor.outputs(dataset.images[start : start + BATCH]) for start in range(0, len(dataset), BATCH)]
    return Answers(np.concatenate([p.logits for p in parts]), np.concatenate([p.features for p in parts]))


if __name__ == "__main__":
    main()
