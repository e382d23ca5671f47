"""What a job says of one file, and its line in the journal. Knows nothing of files or tables.

A line is JSON: [unknown, index, confidence, index, confidence, ...] with the most probable class first, or
["code", "reason"] for a file that is no picture. Its file is the one at the same place in the listing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pupila.errors import ImageError

if TYPE_CHECKING:
    from pupila.prediction import Prediction

DIGITS = 6
"""Decimals of a confidence: more than float32 holds."""


@dataclass(frozen=True)
class Answer:
    """The classes of one picture, most probable first; or why there are none."""

    choices: tuple[tuple[int, float], ...] = ()
    """Index and calibrated confidence of a class."""
    unknown: bool = False
    code: str = ""
    error: str = ""

    @classmethod
    def of(cls, outcome: "Prediction | ImageError") -> "Answer":
        """Take a prediction, or what was wrong with the file."""
        if isinstance(outcome, ImageError):
            return cls(code=outcome.code, error=str(outcome))
        choices = tuple((choice.category_index, round(choice.confidence, DIGITS)) for choice in outcome.top)
        return cls(choices, outcome.unknown)

    def to_line(self) -> bytes:
        """Return the journal's line, its end included."""
        fields: Sequence[object] = (self.code, self.error)
        if not self.code:
            fields = [int(self.unknown), *(value for choice in self.choices for value in choice)]
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Answer | None":
        """Read a line; None if it is not a whole one, as the last may be after a kill."""
        try:
            fields = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            return None
        if not isinstance(fields, list) or len(fields) < 2:
            return None
        if isinstance(fields[0], str):
            return cls(code=fields[0], error=str(fields[1]))
        pairs = zip(fields[1::2], fields[2::2], strict=True) if len(fields) % 2 else ()
        return cls(tuple((int(index), float(confidence)) for index, confidence in pairs), bool(fields[0]))
