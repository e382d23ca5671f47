"""The answer to one file, and its line of JSON: between processes, and in the job's database.

A line is JSON: [unknown, index, confidence, index, confidence, ...] with the most probable class first, or
["code", "reason"] for a file that is no picture.
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
class FileAnswer:
    """The classes of one picture, most probable first; or why there are none."""

    choices: tuple[tuple[int, float], ...] = ()
    """Index and calibrated confidence of a class."""
    unknown: bool = False
    code: str = ""
    error: str = ""

    @classmethod
    def of(cls, outcome: "Prediction | ImageError") -> "FileAnswer":
        """Take a prediction, or what was wrong with the file."""
        if isinstance(outcome, ImageError):
            return cls(code=outcome.code, error=str(outcome))
        choices = tuple((choice.category_index, round(choice.confidence, DIGITS)) for choice in outcome.top)
        return cls(choices, outcome.unknown)

    def to_line(self) -> bytes:
        """Return the line, its end included."""
        fields: Sequence[object] = (self.code, self.error)
        if not self.code:
            fields = [int(self.unknown), *(value for choice in self.choices for value in choice)]
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "FileAnswer":
        """Read a line."""
        first, *rest = json.loads(line)
        if isinstance(first, str):
            return cls(code=first, error=rest[0])
        return cls(tuple(zip(rest[::2], rest[1::2], strict=True)), bool(first))
