"""The answer for one picture: the same class from a model file and from a server. Imports nothing."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """One class and the calibrated probability that it is the right one."""

    category: str
    """Name of the class."""
    category_index: int
    """Its place in the model's list of classes."""
    confidence: float
    """Calibrated probability, 0 to 1."""


@dataclass(frozen=True, repr=False)
class Prediction:
    """The answer for one picture: its choices from the most probable on, as many as were asked for."""

    top: tuple[Choice, ...]
    """The most probable classes, as many as were asked for, each with category, category_index and confidence."""
    unknown: bool
    """True if the picture looks like none of the classes; False too where the model has no threshold for it."""
    explanation: tuple[tuple[float, ...], ...] | None = None
    """Where the model looked, if asked for: rows from top to bottom of values from 0 to 1, over the whole picture."""

    @property
    def best(self) -> Choice:
        """The most probable class."""
        return self.top[0]

    @property
    def category(self) -> str:
        """Name of the most probable class."""
        return self.best.category

    @property
    def category_index(self) -> int:
        """Place of the most probable class in the model's list of classes."""
        return self.best.category_index

    @property
    def confidence(self) -> float:
        """Calibrated probability of the most probable class, 0 to 1."""
        return self.best.confidence

    def __repr__(self) -> str:
        return f"Prediction({self.category!r}, {self.confidence:.3f}{', unknown=True' if self.unknown else ''})"
