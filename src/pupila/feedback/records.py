"""Records of a feedback store: plain values."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Answered:
    """One picture that was answered, as it came."""

    request: str
    """The request's id."""
    picture: int
    """Its place in the request, from 0."""
    data: bytes
    category: str
    confidence: float
    unknown: bool
    model: str
    """Version of the model that answered."""
    time: float
    """Seconds since 1970, UTC."""
    owner: str = ""
    """Name of the API key that sent it; empty on a server without keys."""


@dataclass(frozen=True)
class Kept:
    """One picture in the store."""

    id: int
    request: str
    picture: int
    sha256: str
    """Of its file, without metadata."""
    kind: str
    category: str
    """What the model answered."""
    confidence: float
    unknown: bool
    model: str
    time: float
    corrected: float | None
    """When somebody said what it shows; None if nobody has."""
    correction: str | None
    """What it shows; None, where `corrected` is a time, means none of the classes."""
    owner: str | None
    """As above; None for what was kept by version 0.1, which did not say."""

    @classmethod
    def of(cls, row: Sequence[Any]) -> "Kept":
        """Read a row of COLUMNS."""
        values = list(row)
        values[COLUMNS.index("unknown")] = bool(values[COLUMNS.index("unknown")])
        return cls(*values)


@dataclass(frozen=True)
class Counts:
    """What is in a store."""

    answers: int
    pictures: int
    """Different ones."""
    corrected: int
    none: int
    """Of those corrected: none of the classes."""
    bytes: int


COLUMNS = tuple(field.name for field in fields(Kept))
"""As the store's tables call them."""
