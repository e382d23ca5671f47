"""Corrects labels by a table, as `pupila mislabelled` writes it. The files stay as they are.

The table is a CSV with the columns path and label, also as Excel saves it. Where it has a column `suggested` too, that
is the new label, and `label` is the one that the picture has now. Rows that are right as they are can be removed, or
both made the same.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pupila._arguments import counted, nearest
from pupila._files import unescaped
from pupila.data.dataset import Splits, fingerprint
from pupila.data.layouts.tables import MAX_COLUMNS, TableError, table_lines
from pupila.data.sources.files import SourceFile, shortened
from pupila.errors import DataError

NAMED_AT_MOST = 5


@dataclass(frozen=True, slots=True)
class Fix:
    """One row: a picture's name, its new label, and the label that the table was made for, if it says so."""

    path: str
    label: str
    was: str


def picture_paths(splits: Splits) -> dict[str, list[str]]:
    """Return, by part, what each picture is called in a table: its name, with the part before it if others share it."""
    uses = Counter(name for part in splits.parts().values() for name in part.names)
    return {
        name: [path if uses[path] == 1 else f"{name}/{path}" for path in part.names]
        for name, part in splits.parts().items()
    }


def relabelled(splits: Splits, table: Path) -> Splits:
    """Return the data set with the labels of a table; the fingerprint changes with them.

    Raises DataError that names every picture and class that is not there, and every label that is another by now.
    """
    fixes = read_fixes(table)
    places = {path: (part, row) for part, paths in picture_paths(splits).items() for row, path in enumerate(paths)}
    _check(fixes, places, splits, table)
    numbers = {name: number for number, name in enumerate(splits.train.classes)}
    parts = {part: replace(data, labels=data.labels.copy()) for part, data in splits.parts().items()}
    for fix in fixes:
        part, row = places[fix.path]
        parts[part].labels[row] = numbers[fix.label]
    changed = sum(int(np.sum(parts[part].labels != data.labels)) for part, data in splits.parts().items())
    notes = (*splits.notes, f"{table.name} changed the labels of {counted(changed, 'picture')}.")
    train, validation, test = parts["train"], parts.get("validation"), parts.get("test")
    return replace(splits, train=train, validation=validation, test=test, fingerprint=fingerprint(parts), notes=notes)


def read_fixes(table: Path) -> list[Fix]:
    """Read a table of labels; raises DataError if it cannot be read or is none."""
    try:
        return list(_fixes(table))
    except (OSError, csv.Error, TableError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{table}: cannot be read as a table of labels ({reason}). Give a CSV of path,label."
        ) from error


def _fixes(table: Path) -> Iterator[Fix]:
    lines = filter(any, table_lines(SourceFile(("labels.csv",), str(table))))
    heads = next(lines, [])
    missing = [name for name in ("path", "label") if name not in heads]
    if missing:
        raise DataError(f"{table}: has no column '{missing[0]}'. Its first line must be path,label.")
    if len(heads) > MAX_COLUMNS:
        raise TableError(f"it has over {MAX_COLUMNS:,} columns")
    new = "suggested" if "suggested" in heads else "label"
    for line in lines:
        row = dict(zip(heads, line, strict=False))
        path, label, was = (unescaped(row.get(name, "")) for name in ("path", new, "label"))
        yield Fix(path, label, was if new != "label" else "")


def _check(fixes: list[Fix], places: Mapping[str, tuple[str, int]], splits: Splits, table: Path) -> None:
    """Raise DataError unless each row names a picture, once, a class, and the label that the picture has."""
    classes = splits.train.classes
    uses = Counter(fix.path for fix in fixes)
    parts = splits.parts()
    pictures = [fix.path for fix in fixes if fix.path not in places]
    known = set(classes)
    labels = [fix.label for fix in fixes if fix.label not in known]
    twice = [path for path, count in uses.items() if count > 1]

    def now(fix: Fix) -> str:
        part, row = places[fix.path]
        return classes[int(parts[part].labels[row])]

    old = [fix for fix in fixes if fix.was and fix.path in places and now(fix) != fix.was]
    # A sentence takes memory, and the nearest name, looked for among all, time: for those alone that are named.
    wrong = [f"there is no picture {_near(path, places)}" for path in pictures[:NAMED_AT_MOST]]
    wrong += [f"there is no class {_near(label, classes)}" for label in labels[: NAMED_AT_MOST - len(wrong)]]
    wrong += [f"'{shortened(path)}' has {uses[path]} rows" for path in twice[: NAMED_AT_MOST - len(wrong)]]
    wrong += [
        f"'{shortened(fix.path)}' was '{shortened(fix.was)}' and is '{shortened(now(fix))}' by now"
        for fix in old[: NAMED_AT_MOST - len(wrong)]
    ]
    if wrong:
        left = len(pictures) + len(labels) + len(twice) + len(old) - len(wrong)
        more = f" and {left:,} more" if left else ""
        raise DataError(f"{table}: {'; '.join(wrong)}{more}. Correct these rows, or remove them.")


def _near(name: str, names: Mapping[str, object] | tuple[str, ...]) -> str:
    near = nearest(name, names)
    return f"'{shortened(name)}'" + (f" (did you mean '{near}'?)" if near else "")
