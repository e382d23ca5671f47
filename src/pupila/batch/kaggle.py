"""Answers in the format of Kaggle's CIFAR-10 competition: id,label, sorted by the number that names the file.

Knows nothing of how the answers were found. Costs 12 bytes of memory a file. A file that cannot be read has no label:
Kaggle wants a row for every id, so it is not left out.
"""

import os
import re
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pupila.batch import spool
from pupila.batch.answer import Answer
from pupila.errors import DataError

NO_LABEL = -1
LARGEST_ID = 2**63 - 1


def check(output: Path, files: Path) -> None:
    """Raise DataError unless the output ends in .csv and every listed file is named by a number of its own."""
    if output.suffix.lower() != ".csv":
        raise DataError(f"{output}: a Kaggle submission is a csv file. End the name in .csv.")
    ids = array("q", (picture_id(path) for path, _ in spool.read_path(files)))
    numbers, counts = np.unique(np.frombuffer(ids, np.int64), return_counts=True)
    if len(numbers) < len(ids):
        twice = int(numbers[counts.argmax()])
        raise DataError(f"Two files have the number {twice}. Give one folder of numbered pictures, such as test/.")


def picture_id(path: bytes) -> int:
    """Return the number that a file is named by: 17 for test/17.png."""
    name = Path(os.fsdecode(path))
    if not re.fullmatch(r"[0-9]{1,19}", name.stem) or int(name.stem) > LARGEST_ID:
        raise DataError(f"{name}: a submission needs files named by numbers, such as 17.png. Give only those.")
    return int(name.stem)


def write(path: Path, answers: Iterable[tuple[bytes, Answer]], classes: Sequence[str]) -> None:
    """Write the submission."""
    ids, labels = array("q"), array("i")
    for name, answer in answers:
        ids.append(picture_id(name))
        labels.append(NO_LABEL if answer.code else answer.choices[0][0])
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("id,label\n")
        for place in np.argsort(np.frombuffer(ids, np.int64)):
            label = labels[place]
            file.write(f"{ids[place]},{'' if label == NO_LABEL else classes[label]}\n")
