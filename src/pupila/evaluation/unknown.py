"""Is a picture none of the classes? The unknown score, higher for pictures less like the training pictures.

It adds two signals, since each misses what the other finds (docs/experiments.md): the energy of the logits (Liu et al.,
"Energy-based Out-of-distribution Detection", 2020) and the distance of the features from the nearest of some prototypes
of the classes, a small form of nearest neighbours (Sun et al., 2022). The model file's graph computes it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pupila import images
from pupila.evaluation.metrics import Float64, Floats, Int64
from pupila.images import Pixels

KEEP = 0.95
"""Share of the validation pictures that must not be marked."""
PROTOTYPES = 200
"""In all, at most, but at least one a class: they are part of the model file."""
A_CLASS = 20
"""Prototypes of one class, at most."""
NEAREST = 3
"""The distance is that to the third nearest prototype, or to the last where there are fewer."""
ROUNDS = 10
"""Of k-means."""
LEAST = -0.5
"""Neither signal may speak more than this against the other: networks are wildly sure of some strange pictures."""


@dataclass(frozen=True)
class Scale:
    """Brings a signal to 0 at the median of the validation pictures and to 1 at their 95 % quantile."""

    middle: float
    spread: float

    @classmethod
    def of(cls, values: Float64) -> "Scale":
        """Measure it on validation pictures."""
        middle = float(np.median(values))
        return cls(middle, max(threshold(values) - middle, 1e-6 * max(abs(middle), 1.0)))

    def __call__(self, values: Float64) -> Float64:
        """Return the scaled values, at least LEAST."""
        return np.asarray(np.maximum((values - self.middle) / self.spread, LEAST))


@dataclass(frozen=True, eq=False)
class UnknownScore:
    """All numbers that the score is computed from."""

    prototypes: Floats
    """[P, D], of length 1."""
    temperature: float
    energy: Scale
    distance: Scale

    @property
    def nearest(self) -> int:
        """Which of the nearest prototypes the distance is measured to."""
        return min(NEAREST, len(self.prototypes))

    def __call__(self, logits: Floats, features: Floats) -> Float64:
        """Return [N] for logits [N, K] and features [N, D]."""
        far = distance(features, self.prototypes, self.nearest)
        return np.asarray(self.energy(energy(logits, self.temperature)) + self.distance(far))


def fit_unknown(prototypes: Floats, logits: Floats, features: Floats, temperature: float) -> UnknownScore:
    """Fit the score to the logits and features of validation pictures."""
    far = distance(features, prototypes, min(NEAREST, len(prototypes)))
    return UnknownScore(prototypes, temperature, Scale.of(energy(logits, temperature)), Scale.of(far))


def energy(logits: Floats, temperature: float = 1.0) -> Float64:
    """Return -T log sum exp(logits / T), [N]."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    peak = scaled.max(axis=1)
    return np.asarray(-temperature * (peak + np.log(np.exp(scaled - peak[:, np.newaxis]).sum(axis=1))))


def distance(features: Floats, prototypes: Floats, nearest: int) -> Float64:
    """Return [N]: the distance of features [N, D], scaled to length 1, to the nearest, second nearest ... prototype."""
    cosines = unit(features) @ np.asarray(prototypes, dtype=np.float64).T
    chosen = np.partition(cosines, len(prototypes) - nearest, axis=1)[:, len(prototypes) - nearest]
    return np.asarray(np.sqrt(np.maximum(2.0 - 2.0 * chosen, 0.0)))


def find_prototypes(features: Floats, labels: Int64, classes: int) -> Floats:
    """Return [P, D]: of each class some centres of its training features [N, D], by k-means on the unit sphere."""
    each = max(1, min(A_CLASS, PROTOTYPES // classes))
    rows = unit(features)
    centres = [_centres(rows[labels == label], each) for label in range(classes) if (labels == label).any()]
    return np.concatenate(centres).astype(np.float32)


def _centres(rows: Float64, count: int) -> Float64:
    centres = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]
    for _ in range(ROUNDS):
        nearest = (rows @ centres.T).argmax(axis=1)
        centres = np.stack([rows[nearest == k].mean(axis=0) if (nearest == k).any() else centres[k]
                            for k in range(len(centres))])  # fmt: skip
    return unit(centres)


def unit(features: Floats) -> Float64:
    """Return features [N, D] scaled to length 1."""
    values = np.asarray(features, dtype=np.float64)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))


def threshold(scores_of_known: Floats, keep: float = KEEP) -> float:
    """Return the smallest score that at least the fraction `keep` of the known pictures does not exceed."""
    if not len(scores_of_known):
        raise ValueError("A threshold needs the score of at least one known picture.")
    return float(np.quantile(scores_of_known, keep, method="inverted_cdf"))


COUNT = 60
"""Of each kind."""
SIDES = (24, 64, 150, 300)
"""Pixels a side of noise before it is resized as any picture is."""
PATCHES = 4
"""Shuffled pictures are cut into so many rows and columns."""
CROP = 6
"""A crop has this part of a picture's side."""


def made_pictures(known: Pixels, size: int, count: int = COUNT) -> dict[str, Pixels]:
    """Return strange pictures uint8 [count, size, size, 3] by kind, to measure how many a model marks as unknown.

    Noise and flat colours show nothing; shuffled patches and small crops of `known` pictures uint8 [N, S, S, 3], the
    model's own, have their colours and textures and not their objects. All draws are seeded.
    """
    draw = np.random.default_rng(0)
    chosen = known[draw.integers(len(known), size=count)]
    makers: dict[str, Callable[[int], Pixels]] = {
        "noise": lambda number: _noise(draw, number),
        "flat colours": lambda _: np.broadcast_to(draw.integers(0, 256, 3, dtype=np.uint8), (8, 8, 3)).copy(),
        "shuffled patches": lambda number: _shuffled(chosen[number], draw),
        "small crops": lambda number: _crop(chosen[number], draw),
    }
    return {
        kind: np.stack([images.resize(make(number), size) for number in range(count)]) for kind, make in makers.items()
    }


def _noise(draw: np.random.Generator, number: int) -> Pixels:
    """Uniform and Gaussian noise by turns, of several sizes."""
    side = SIDES[number // 2 % len(SIDES)]
    shape = (side, side, 3)
    if number % 2:
        return draw.integers(0, 256, shape, dtype=np.uint8)
    return np.asarray(np.clip(draw.normal(128, 50, shape), 0, 255), dtype=np.uint8)


def _shuffled(picture: Pixels, draw: np.random.Generator) -> Pixels:
    side = max(len(picture) // PATCHES, 1)
    picture = images.resize(picture, side * PATCHES)
    patches = picture.reshape(PATCHES, side, PATCHES, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    mixed = draw.permutation(patches).reshape(PATCHES, PATCHES, side, side, 3)
    return np.ascontiguousarray(mixed.swapaxes(1, 2).reshape(side * PATCHES, side * PATCHES, 3))


def _crop(picture: Pixels, draw: np.random.Generator) -> Pixels:
    side = max(len(picture) // CROP, 1)
    top, left = draw.integers(0, len(picture) - side + 1, 2)
    return np.ascontiguousarray(picture[top : top + side, left : left + side])
