"""Writes answers in the format of Kaggle's CIFAR-10 competition: id,label, sorted by the number that names the file.

A file that cannot be read has no label: Kaggle wants a row for every id, so it is not left out.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pupila.batch.job import BatchJob
from pupila.errors import DataError

LARGEST_ID = 2**63 - 1


def check(output: Path, job: BatchJob) -> None:
    """Raise DataError unless the output ends in .csv and every listed file is named by a number of its own."""
    if output.suffix.lower() != ".csv":
        raise DataError(f"{output}: a Kaggle submission is a csv file. End the name in .csv.")
    before = None
    for number, _ in _by_number(job):
        if number == before:
            raise DataError(f"Two files have the number {number}. Give one folder of numbered pictures, such as test/.")
        before = number


def picture_id(path: bytes) -> int:
    """Return the number that a file is named by: 17 for test/17.png."""
    name = Path(os.fsdecode(path))
    if not re.fullmatch(r"[0-9]{1,19}", name.stem) or int(name.stem) > LARGEST_ID:
        raise DataError(f"{name}: a submission needs files named by numbers, such as 17.png. Give only those.")
    return int(name.stem)


def write(path: Path, job: BatchJob, classes: Sequence[str]) -> None:
    """Write the submission."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("id,label\n")
        for number, name in _by_number(job):
            answer = job.answer_to(name)
            file.write(f"{number},{'' if answer.code else classes[answer.choices[0][0]]}\n")


def _by_number(job: BatchJob) -> Iterator[tuple[int, bytes]]:
    records = ((b"", b"%019d" % picture_id(path), path) for path in job.paths())
    for _, number, path in job.in_order(records):
        yield int(number), path
