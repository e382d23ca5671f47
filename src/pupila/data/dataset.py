"""Labelled pictures in memory. Knows nothing of files, archives or where they came from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pupila.errors import DataError

Pictures = NDArray[np.uint8]
"""uint8 [N, H, W, 3], RGB."""
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """N labelled square pictures of one size. Raises DataError on construction if its parts do not fit together."""

    images: Pictures
    """uint8 [N, H, W, 3], H = W."""
    labels: Integers
    """int64 [N], each an index into `classes`."""
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise DataError(f"Not a data set: {problem}.")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        """Pixels a side."""
        return int(self.images.shape[1])

    def counts(self) -> Integers:
        """Return int64 [K]: the number of pictures of each class."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)

    def take(self, indices: Sequence[int] | Integers) -> "Dataset":
        """Return the pictures at these indices, in this order, with the same classes."""
        rows = np.asarray(indices, dtype=np.int64)
        return Dataset(self.images[rows], self.labels[rows], self.classes)

    def _problem(self) -> str:
        """Say what does not fit, or nothing."""
        images, labels, classes = self.images, self.labels, self.classes
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
            return f"its images are {images.dtype} {list(images.shape)}, and must be uint8 [N, H, H, 3]"
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            return f"its labels are {labels.dtype} {list(labels.shape)}, and must be int64 [{len(images)}]"
        if not len(labels) or not images.shape[1]:
            return "it has no picture"
        if len(set(classes)) != len(classes) or not all(classes):
            return "its class names must be different from each other and not empty"
        if labels.min() < 0 or labels.max() >= len(classes):
            return f"its labels go from {labels.min()} to {labels.max()}, and it has {len(classes)} class names"
        return ""
