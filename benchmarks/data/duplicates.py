"""What share of planted copies is found, what else is called a copy, and how long it takes.

    python benchmarks/data/duplicates.py DATA [--planted 500] [--sheet pairs.png]

Copies of random training pictures, `planted` of each kind, take the place of random test pictures. Prints one JSON
line: recall a kind; how many of the untouched test pictures are called copies of training pictures; seconds. Then for
each bar whether it is met. False alarms are among the untouched pictures that are called copies. CIFAR-10 holds real
ones: the sheet shows a random hundred pairs of them, to be judged by eye. Under three minutes on two cores.
"""

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from verdict import verdict

from pupila import images
from pupila.data import load_dataset
from pupila.data.dataset import Pictures
from pupila.data.quality.duplicates import DuplicatePair, find_duplicates


def saved(image: Image.Image, kind: str, size: int, **options: int) -> Pictures:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return images.decode(buffer.getvalue(), size)


def scaled(image: Image.Image, share: float) -> Image.Image:
    side = round(image.width * share)
    return image.resize((side, side), Image.Resampling.BICUBIC)


def kinds(random: np.random.Generator, size: int) -> dict[str, Callable[[Image.Image], Pictures]]:
    """Return how each kind of copy is made: the qualities and sizes that programs and web sites use."""
    return {
        "exact": lambda image: np.asarray(image),
        "JPEG 50 to 90": lambda image: saved(image, "JPEG", size, quality=int(random.integers(50, 91))),
        "JPEG 30 to 50": lambda image: saved(image, "JPEG", size, quality=int(random.integers(30, 51))),
        "WEBP 50 to 90": lambda image: saved(image, "WEBP", size, quality=int(random.integers(50, 91))),
        "resized x 0.75": lambda image: saved(scaled(image, 0.75), "PNG", size),
        "resized x 2": lambda image: saved(scaled(image, 2), "PNG", size),
        "mirrored": lambda image: saved(ImageOps.mirror(image), "PNG", size),
        "mirrored, JPEG 50 to 90": lambda image: saved(
            ImageOps.mirror(image), "JPEG", size, quality=int(random.integers(50, 91))
        ),
    }


def sheet(path: Path, pairs: list[DuplicatePair], pictures: Pictures, random: np.random.Generator) -> None:
    """Draw up to a hundred pairs, side by side, ten to a row."""
    chosen = [pairs[index] for index in random.permutation(len(pairs))[:100]]
    canvas = Image.new("RGB", (10 * 140, -(-len(chosen) // 10) * 72), "white")
    for place, pair in enumerate(chosen):
        for side, row in enumerate((pair.first, pair.second)):
            picture = Image.fromarray(pictures[row]).resize((64, 64), Image.Resampling.NEAREST)
            canvas.paste(picture, (place % 10 * 140 + side * 66, place // 10 * 72))
    canvas.save(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--planted", type=int, default=500)
    parser.add_argument("--sheet", type=Path)
    chosen = parser.parse_args()
    random = np.random.default_rng(0)
    splits = load_dataset(chosen.data)
    assert splits.test is not None
    train, test = splits.train.images, splits.test.images.copy()
    ways = kinds(random, splits.train.size)
    sources = random.permutation(len(train))[: chosen.planted * len(ways)].reshape(len(ways), -1)
    places = random.permutation(len(test))[: chosen.planted * len(ways)].reshape(len(ways), -1)
    for way, rows, own in zip(ways.values(), sources, places, strict=True):
        for row, place in zip(rows, own, strict=True):
            test[place] = way(Image.fromarray(train[row]))
    start = time.perf_counter()
    pairs = find_duplicates([train, test])
    seconds = time.perf_counter() - start
    found = {(pair.first, pair.second - len(train)) for pair in pairs}
    planted = set(places.ravel().tolist())
    others = [p for p in pairs if p.first < len(train) <= p.second and p.second - len(train) not in planted]
    if chosen.sheet:
        sheet(chosen.sheet, others, np.concatenate([train, test]), random)
    called = len({pair.second for pair in others})
    untouched = len(test) - len(planted)
    result = {
        "pictures": len(train) + len(test),
        "seconds": round(seconds, 1),
        "recall": {
            kind: round(float(np.mean([(a, b) in found for a, b in zip(rows.tolist(), own.tolist(), strict=True)])), 4)
            for kind, rows, own in zip(ways, sources, places, strict=True)
        },
        "untouched test pictures": untouched,
        "of them called copies": called,
        "share": round(called / untouched, 5),
    }
    print(json.dumps(result))
    recall: dict[str, float] = result["recall"]  # type: ignore[assignment]
    print(verdict("exact copies found", recall.pop("exact"), 1.0))
    print(verdict("copies of other kinds found, the worst kind", min(recall.values()), 0.95))
    print(verdict("seconds", seconds, 180, at_most=True))
    print(verdict("untouched pictures called copies, real ones among them", called / untouched, 0.01, at_most=True))


if __name__ == "__main__":
    main()
