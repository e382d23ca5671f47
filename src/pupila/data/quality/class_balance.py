"""Class imbalance: how uneven the classes are, what training does about it, and which classes are too small."""

import numpy as np
from numpy.typing import NDArray

from pupila._arguments import first_few
from pupila.data.dataset import Dataset, Integers
from pupila.data.sources.files import display_name

IMBALANCE = 3.0
"""Ratio of the largest to the smallest class beyond which something is done about it."""
FEW = 2
"""Pictures of a class up to which nothing can be learned or judged."""


def imbalance(counts: Integers) -> float:
    """Return how many pictures the largest class has for one of the smallest; counts: int64 [K]."""
    return float(counts.max() / max(int(counts.min()), 1))


def remedy(counts: Integers, balance: str) -> str:
    """Return what a recipe's `balance` comes to for these counts: none or sampling."""
    if balance == "auto":
        return "sampling" if imbalance(counts) > IMBALANCE else "none"
    return balance


def class_weights(counts: Integers) -> NDArray[np.float64]:
    """Return float64 [K], N / (K n): weighted so, all classes count the same, and the mean over the N pictures is 1."""
    present = np.maximum(counts, 1)
    return np.asarray(counts.sum() / (np.count_nonzero(counts) * present), dtype=np.float64)


def describe_classes(train: Dataset, balance: str = "auto") -> str:
    """Return plain sentences on how uneven the classes are, what training does about it, and which are too small."""
    counts = dict(zip(train.classes, train.counts().tolist(), strict=True))
    few = [f"{display_name(category)} ({count})" for category, count in counts.items() if 0 < count <= FEW]
    balanced = describe_balance(train.counts(), balance)
    if not few:
        return balanced
    single = " Training needs two of each, one to validate with." if 1 in counts.values() else ""
    return (
        f"Classes of one or two pictures: {first_few(few)}. They can be neither learned nor judged: "
        f"add pictures, 20 a class are a start.{single} {balanced}"
    )


def describe_balance(counts: Integers, balance: str = "auto") -> str:
    """Return one plain sentence on how uneven the classes are, and what training does about it."""
    ratio = f"The largest class of train has {imbalance(counts):.1f} times the pictures of the smallest"
    if remedy(counts, balance) == "none":
        uneven = imbalance(counts) > IMBALANCE
        return f"{ratio}: {'nothing is done about it, as balance=none says' if uneven else 'balanced enough'}."
    return (
        f"{ratio}: training draws from each class equally often, and the best epoch is chosen by balanced accuracy, "
        "the mean recall of the classes. Switch it off with --set balance=none."
    )
