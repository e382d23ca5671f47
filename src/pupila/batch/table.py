"""Writes answers as a table: csv, jsonl or parquet, by the ending of the output's name.

One row a file, sorted by path. Columns: path, category, category_index, confidence, unknown, error_code, error, then
category_2, confidence_2 and so on for the choices asked for beyond the first. A file that cannot be read has only its
path, error_code and error. In csv, nothing is an empty field, and unknown is true or false.

A submission to Kaggle's CIFAR-10 competition is id,label, sorted by the number that names the file. A file that cannot
be read has no label: Kaggle wants a row for every id.
"""

import functools
import importlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pupila._files import CsvWriter
from pupila.batch.job import DAMAGED, BatchJob, FileAnswer, from_line
from pupila.batch.listing import shown_name
from pupila.errors import DataError, ImageError, MissingExtraError

Value = str | int | float | bool | None
TableRow = list[Value]
TableWriter = Callable[[Path, Sequence[str], Iterable[TableRow]], None]
"""Writes a file, given the names of the columns and the rows."""

ROW_GROUP = 50_000
"""Rows of a parquet file that are in memory at a time."""
SUBMISSION = ("id", "label")
"""The columns of a submission."""
LARGEST_ID = 2**63 - 1
"""Of a picture in a submission."""


def columns(top: int) -> list[str]:
    """Return the names of the columns."""
    more = [f"{name}_{place}" for place in range(2, top + 1) for name in ("category", "confidence")]
    return ["path", "category", "category_index", "confidence", "unknown", "error_code", "error", *more]


def row(path: bytes, answer: FileAnswer, top: int) -> TableRow:
    """Return the values of one file's row; raises DataError if the answer lists more or fewer choices."""
    name = shown_name(path)
    if isinstance(answer, ImageError):
        return [name, None, None, None, None, answer.code, str(answer), *[None] * (2 * (top - 1))]
    if len(answer.top) != top:
        raise DataError(DAMAGED)
    more = [value for choice in answer.top[1:] for value in (choice.category, choice.confidence)]
    return [name, answer.category, answer.category_index, answer.confidence, answer.unknown, None, None, *more]


def writer_for(output: Path, excel: bool = False, kaggle: bool = False) -> TableWriter:
    """Return what writes the format of this name; raises DataError or MissingExtraError.

    excel: csv as a spreadsheet opens it where numbers have a decimal comma, as in Brazil. kaggle: a submission.
    """
    writers: dict[str, TableWriter] = {".csv": write_csv, ".jsonl": write_jsonl, ".parquet": write_parquet}
    writer = writers.get(output.suffix.lower())
    if kaggle and writer is not write_csv:
        raise DataError(f"{output}: a Kaggle submission is a csv file. End the name in .csv.")
    if writer is None:
        raise DataError(f"{output}: the name says no format. End it in {', '.join(writers)}.")
    if excel and writer is not write_csv:
        raise DataError(f"{output}: --excel makes a .csv file. End the name in .csv, or leave --excel out.")
    if writer is write_parquet:
        _pyarrow()
    return functools.partial(write_csv, excel=True) if excel else writer


def content(job: BatchJob, classes: Sequence[str], top: int, kaggle: bool) -> tuple[Sequence[str], Iterable[TableRow]]:
    """Return the names of the columns, and the rows."""
    if kaggle:
        return SUBMISSION, submission_rows(job, classes)
    return columns(top), (row(path, answer, top) for path, answer in job.answers(classes))


def write_csv(path: Path, names: Sequence[str], rows: Iterable[TableRow], *, excel: bool = False) -> None:
    """Write RFC 4180 with a header, in UTF-8; text that looks like a formula gets an apostrophe in front.

    excel: with semicolons, decimal commas and a byte order mark, by which Excel knows UTF-8.
    """
    with path.open("w", encoding="utf-8-sig" if excel else "utf-8", newline="") as file:
        table = CsvWriter(file, ";" if excel else ",")
        table.writerow(names)
        table.writerows([_cell(value, excel) for value in values] for values in rows)


def _cell(value: Value, excel: bool) -> Value:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6f}".replace(".", ",") if excel and isinstance(value, float) else value


def write_jsonl(path: Path, names: Sequence[str], rows: Iterable[TableRow]) -> None:
    """Write one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for values in rows:
            file.write(json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False) + "\n")


def write_parquet(path: Path, names: Sequence[str], rows: Iterable[TableRow]) -> None:
    """Write parquet in row groups."""
    arrow, parquet = _pyarrow()
    kinds = {
        "category_index": arrow.int32(),
        "unknown": arrow.bool_(),
        **{name: arrow.float64() for name in names if name.startswith("confidence")},
    }
    schema = arrow.schema([(name, kinds.get(name, arrow.string())) for name in names])
    with parquet.ParquetWriter(path, schema) as file:
        for group in _groups(rows):
            data = [list(column) for column in zip(*group, strict=True)]
            file.write_table(arrow.table(dict(zip(names, data, strict=True)), schema=schema))


def _groups(rows: Iterable[TableRow]) -> Iterator[list[TableRow]]:
    source = iter(rows)
    while group := list(itertools.islice(source, ROW_GROUP)):
        yield group


def _pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and its parquet module, both without types of their own."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError("Writing parquet", "parquet") from error


def check_submission(job: BatchJob) -> None:
    """Raise DataError unless every listed file is named by a number of its own."""
    for path in job.paths():
        picture_id(path)
    before = None
    for number, _, _ in job.sorted_by(lambda path, _: picture_id(path)):
        if number == before:
            raise DataError(f"Two files have the number {number}. Give one folder of numbered pictures, such as test/.")
        before = number


def picture_id(path: bytes) -> int:
    """Return the number that a file is named by: 17 for test/17.png; raises DataError if it is not."""
    name = Path(shown_name(path))
    if not re.fullmatch(r"[0-9]{1,19}", name.stem) or int(name.stem) > LARGEST_ID:
        raise DataError(f"{name}: a submission needs files named by numbers, such as 17.png. Give only those.")
    return int(name.stem)


def submission_rows(job: BatchJob, classes: Sequence[str]) -> Iterator[TableRow]:
    """Yield the rows of a submission to Kaggle."""
    for number, _, line in job.sorted_by(lambda path, _: picture_id(path)):
        answer = from_line(line, classes)
        yield [number, "" if isinstance(answer, ImageError) else answer.category]
