"""Raw outputs of a classifier, float [N, K], and what every score needs of them. Knows no models and no pictures."""

import numpy as np
from numpy.typing import NDArray

from pupila.errors import DataError, ModelError

Floats = NDArray[np.float32] | NDArray[np.float64]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


def log_softmax(logits: Floats, temperature: float = 1.0) -> Float64:
    """Return log probabilities, float64 [N, K], of logits / temperature."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))


def check(logits: Floats, labels: Int64) -> None:
    """Raise DataError if there is no picture, ModelError if a logit is not finite, ValueError if shapes disagree."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"Expected logits [N, K] and labels [N], got {list(logits.shape)} and {list(labels.shape)}.")
    if not labels.size:
        raise DataError("There are no pictures to score. Give a data set with at least one.")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"Labels must be in 0 to {logits.shape[1] - 1}, got {labels.min()} to {labels.max()}.")
    if not np.isfinite(logits).all():
        raise ModelError("The model's logits are not finite (nan or inf). Train it again with a lower learning rate.")
