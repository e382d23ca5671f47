"""Which score tells unknown pictures best? The area under the ROC curve of each candidate; 0.5 is chance.

    python benchmarks/training/unknown.py MODEL cifar10.tar.xz tiny-imagenet-64.tar.xz

Known: the test pictures of the first data set. Unknown: the validation pictures of Tiny ImageNet whose class is none of
CIFAR-10's ten, once more those of them whose class is in no folder of outliers that outside.py writes, and handwritten
digits. Distances are measured from the training pictures' features.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from outside import outside, taught_classes

from pupila.data import Dataset, load_dataset
from pupila.evaluation.unknown import Answers, compare_candidates
from pupila.predictor import Predictor

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
    strangers = validation_pictures(options.unknown, size)
    none_of_the_ten = set(outside(strangers.classes))
    sides = {
        "tiny-imagenet outside the ten": of_classes(strangers, none_of_the_ten),
        "those of classes that are never outliers": of_classes(
            strangers, none_of_the_ten - taught_classes(strangers.classes)
        ),
        "digits": digits,
    }
    trained, tested = answers(predictor, reference), answers(predictor, known.test)
    for name, pictures in sides.items():
        found = answers(predictor, pictures)
        scores = compare_candidates(trained, reference.labels, tested, found, predictor.manifest.temperature)
        print(json.dumps({"unknown": name, "n": len(pictures), **{k: round(v, 4) for k, v in scores.items()}}))


def validation_pictures(source: str, size: int) -> Dataset:
    """Return the second data set's validation split."""
    pictures = load_dataset(source, size).validation
    if pictures is None:
        raise SystemExit("The second data set needs a validation split.")
    return pictures


def of_classes(pictures: Dataset, names: set[str]) -> Dataset:
    """Return the pictures of these classes."""
    return pictures.take([index for index, label in enumerate(pictures.labels) if pictures.classes[label] in names])


def answers(predictor: Predictor, dataset: Dataset) -> Answers:
    """Return logits and features of every picture."""
    parts = [predictor.outputs(dataset.images[start : start + BATCH]) for start in range(0, len(dataset), BATCH)]
    return Answers(np.concatenate([p.logits for p in parts]), np.concatenate([p.features for p in parts]))


if __name__ == "__main__":
    main()
