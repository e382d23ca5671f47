"""The 1,797 handwritten digits that come with scikit-learn: real pictures, 8 x 8, with no network. No test split.

From UCI, "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998).
"""

import numpy as np

from pupila.data.decoding.decode import resize_pictures
from pupila.data.splits import Part, Splits, assemble
from pupila.errors import MissingExtraError

WHITEST = 16
"""Ink is given in 17 steps, 0 to 16."""
SIZE = 32


def read_digits(size: int | None) -> Splits:
    """Return the digits, light on dark, at size x size (else 32); raises MissingExtraError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("The data set 'digits'", "train") from error
    found = load_digits()
    gray = np.rint(found.images * (255 / WHITEST)).astype(np.uint8)
    images = np.repeat(gray[..., np.newaxis], 3, axis=3)
    labels = found.target.astype(np.int64)
    names = [f"{index:04d}" for index in range(len(labels))]
    classes = tuple(str(digit) for digit in range(10))
    part = Part(resize_pictures(images, size or SIZE), labels, names)
    return assemble("digits", classes, {"train": part}, layout="handwritten digits from scikit-learn")
