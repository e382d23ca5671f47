"""Is one model better than another on the same pictures, or was it luck? Knows only which answers were right."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class McNemar:
    """The pictures on which the models differ, and how likely so uneven a split is if they are equally good."""

    only_first: int
    """Pictures that the first model alone has right."""
    only_second: int
    p_value: float
    """Two-sided, exact; below 0.05 is the usual mark for a real difference."""


def mcnemar(first_right: NDArray[np.bool_], second_right: NDArray[np.bool_]) -> McNemar:
    """Compare two models by McNemar's exact test, which asks less of N than two separate intervals do.

    McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 1947.
    """
    if first_right.shape != second_right.shape:
        raise ValueError(f"Expected the same pictures, got {len(first_right)} and {len(second_right)}.")
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    return McNemar(only_first, only_second, binomial_p_value(only_first, only_second))


def binomial_p_value(one: int, other: int) -> float:
    """Return the two-sided probability of a split at least as uneven of one + other tosses of a fair coin."""
    tosses, term, tail = one + other, 1, 0
    for heads in range(min(one, other) + 1):  # whole numbers, so exact at any size
        tail += term
        term = term * (tosses - heads) // (heads + 1)
    return min(1.0, 2 * tail / (1 << tosses))
