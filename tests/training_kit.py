"""Small real data for the tests of training."""

import numpy as np
from PIL import Image

from pupila.data import Dataset
from pupila.recipe import Recipe

TINY = Recipe(
    name="tiny", weights="none", epochs=2, batch_size=16, network_size=32, precision="float32", export="float32"
)


def colours(count=60, size=32, seed=0, classes=("red", "green", "blue")):
    """Pictures whose class is the channel that is brightest: learned in a few steps."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % len(classes)
    images = draw.integers(0, 120, (count, size, size, 3)).astype(np.uint8)
    images[np.arange(count), :, :, labels] += 100
    return Dataset(images, labels, classes)


def noise(count=40, size=32, seed=0):
    """Pictures without any pattern."""
    images = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return Dataset(images, np.arange(count, dtype=np.int64) % 2, ("heads", "tails"))


def write_photos(folder, count=45, classes=("red", "green", "blue")):
    """The same as colours() in class folders."""
    data = colours(count, classes=classes)
    for number, (pixels, label) in enumerate(zip(data.images, data.labels, strict=True)):
        path = folder / data.classes[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def whitening(x, labels, within=None):
    """By which features [N, D] are multiplied, the slow way, so that each class varies alike in all directions.

    within: their covariance [D, D] within other classes.
    """
    from scipy.linalg import sqrtm  # the lowest versions are tested without it

    x, labels = np.asarray(x, float), np.asarray(labels)
    spread = x.std(0) + 1e-6
    covariance = np.zeros((x.shape[1], x.shape[1]))
    for row, label in zip(x, labels, strict=True):
        residual = (row - x[labels == label].mean(0)) / spread
        covariance += np.outer(residual, residual) / len(x)
    identity = max(np.trace(covariance) / len(covariance), 0.1) * np.eye(len(covariance))
    target, rows = identity, 2 * x.shape[1]
    if within is not None:
        by = np.maximum(spread, 0.3 * np.sqrt(np.diag(within)))
        known = np.asarray(within, float) / np.outer(by, by)
        target, rows = 0.2 * identity + 0.8 * identity[0, 0] * known * len(known) / np.trace(known), 4096
    share = rows / (rows + len(x))
    return np.diag(1 / spread) @ np.linalg.inv(sqrtm((1 - share) * covariance + share * target).real)
