"""Tables as text for a terminal, and CSV files that a spreadsheet can open without running what is in them."""

import csv
from collections.abc import Iterable, Sequence
from typing import IO

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that spreadsheets take for a formula."""


class CsvWriter:
    """Writes rows as RFC 4180 with line ends of \\n. Text that looks like a formula gets an apostrophe in front."""

    def __init__(self, file: IO[str], delimiter: str = ",") -> None:
        self._file = file
        self._writer = csv.writer(self, delimiter=delimiter)

    def write(self, line: str) -> None:
        """Write a line that csv has made: it quotes carriage returns only if they are in its own line end."""
        self._file.write(line.removesuffix("\r\n") + "\n")

    def writerow(self, values: Iterable[object]) -> None:
        """Write one row."""
        self._writer.writerow([escaped(value) if isinstance(value, str) else value for value in values])

    def writerows(self, rows: Iterable[Iterable[object]]) -> None:
        """Write several rows."""
        for row in rows:
            self.writerow(row)


def escaped(text: str) -> str:
    """Return a cell's text; a number is none of a formula's beginnings, whatever its sign."""
    return f"'{text}" if text.startswith(FORMULA) and not is_number(text) else text


def unescaped(text: str) -> str:
    """Return what `escaped` was given."""
    return text[1:] if text[:1] == "'" and text[1:].startswith(FORMULA) else text


def is_number(text: str) -> bool:
    """Return whether a text is a plain number."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text and text.strip() == text


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of equally many cells as lines whose columns are aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
