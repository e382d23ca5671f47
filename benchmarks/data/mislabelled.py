"""How many of the labels that were changed on purpose are found, at the planted count.

    python benchmarks/data/mislabelled.py DATA [--model MODEL | --weights auto] [--share 0.05] [--pictures 0] [--runs 1]

DATA is a data set by name or path; of its train part, or --pictures of it, a share of the labels is changed to another
class at random. Asked are the features of MODEL (better one that was trained on labels with such errors: see
--train-on), or of the starting weights. Prints figure, bar, and whether it is met.

    python benchmarks/data/mislabelled.py DATA --train-on noisy.csv

writes the changed labels as a table for `pupila train DATA --labels noisy.csv`, so that a model can be trained with the
errors in, as a user's would be; give it then with --model.
"""

import argparse
import csv
import json
import statistics
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from verdict import verdict

from pupila.data import Dataset, load_dataset
from pupila.data.quality.labels import picture_paths
from pupila.evaluation.evaluate import predict_features
from pupila.predictor import Predictor
from pupila.training.mislabelled import doubts

BAR = 0.75
Int64 = NDArray[np.int64]


def plant(labels: Int64, classes: int, share: float, seed: int) -> tuple[Int64, Int64]:
    """Return the labels with a share of them changed, and the rows of those."""
    draw = np.random.default_rng(seed)
    rows = draw.permutation(len(labels))[: round(share * len(labels))]
    changed = labels.copy()
    changed[rows] = (changed[rows] + draw.integers(1, classes, len(rows))) % classes
    return changed, rows


def features_and_name(chosen: argparse.Namespace, pool: Dataset) -> tuple[NDArray[np.float32], str]:
    """Return features [N, 512] and what they are from."""
    if chosen.model is not None:
        predictor = Predictor.load(chosen.model)
        return predict_features(predictor, pool.images)[1], str(chosen.model)
    from pupila.training.mislabelled import backbone_features

    return backbone_features(pool, chosen.weights)


def write_table(chosen: argparse.Namespace) -> None:
    """Write the changed labels as a table for training."""
    splits = load_dataset(chosen.data)
    changed, rows = plant(splits.train.labels, len(splits.train.classes), chosen.share, seed=0)
    paths = picture_paths(splits)["train"]
    with chosen.train_on.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label"))
        writer.writerows((paths[row], splits.train.classes[changed[row]]) for row in rows)
    print(f"{chosen.train_on}: {len(rows):,} labels changed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--pictures", type=int, default=0, help="a random sample of train; 0 for all")
    parser.add_argument("--runs", type=int, default=1, help="draws of the errors; the first is that of --train-on")
    parser.add_argument("--train-on", type=Path)
    chosen = parser.parse_args()
    if chosen.train_on is not None:
        write_table(chosen)
        return
    from pupila.training.mislabelled import cross_validated

    size = Predictor.load(chosen.model).manifest.input_size if chosen.model else None
    pool = load_dataset(chosen.data, size).train
    rows_asked = np.arange(len(pool))
    all_changed = [plant(pool.labels, len(pool.classes), chosen.share, seed) for seed in range(chosen.runs)]
    if chosen.pictures:
        draw = np.random.default_rng([1, 0])  # no stream that errors are drawn from: the two would pick the same rows
        rows_asked = np.sort(draw.permutation(len(pool))[: chosen.pictures])
    subset = pool.take(rows_asked)
    begun = time.perf_counter()
    features, name = features_and_name(chosen, subset)
    recalls = []
    for changed, rows in all_changed:
        labels, wrong = changed[rows_asked], np.isin(rows_asked, rows)
        found = doubts(cross_validated(features, labels, len(pool.classes)), labels)
        recalls.append(float(wrong[found.ranking[: wrong.sum()]].mean()))
    result = {
        "pictures": len(subset), "planted share": chosen.share, "features": name,
        "recalls": [round(recall, 4) for recall in recalls], "seconds": round(time.perf_counter() - begun, 1),
    }  # fmt: skip
    print(json.dumps(result))
    print(verdict("recall at the planted count, median", statistics.median(recalls), BAR))


if __name__ == "__main__":
    main()
