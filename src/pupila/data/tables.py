"""Labels from tables: any CSV of path,label, Kaggle's trainLabels.csv beside train/1.png among them.

Knows rows and names of files, no pixels. A table counts only if most of its rows name pictures that are there.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pupila.data.entries import Entry, parts_of
from pupila.data.layout import Arranged, Labelled, some, sort_labelled, split_named, split_of
from pupila.data.splits import Skipped
from pupila.errors import DataError

PATH_COLUMNS = (
    "path",
    "filepath",
    "file_path",
    "image_path",
    "file_name",
    "filename",
    "file",
    "image",
    "image_id",
    "id",
)
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target", "label_name")
SPLIT_COLUMNS = ("split", "subset", "set", "partition")
"""Usual headings, the surest first."""
OURS = frozenset(("suggested", "confidence"))
"""Headings of what `pupila mislabelled` and `pupila predict` write: doubts and answers, which are no labels."""
TABLES = (".csv", ".tsv")
MAX_BYTES = 256 * 2**20
SAMPLE = 1000
"""Rows looked at to find the folder that a table speaks of."""


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    file: str
    label: str
    split: str
    """Empty where the table has no such column."""


@dataclass(frozen=True)
class Table:
    """Rows, and the pictures that they can name: by the name as the table writes it, with and without ending."""

    name: str
    split: str
    rows: Sequence[Row]
    pictures: Mapping[str, Entry]


def find_tables(entries: Sequence[Entry]) -> tuple[list[Table], list[str]]:
    """Return the tables of labels that name the pictures, and a sentence on each that seems to be one and does not."""
    found = [entry for entry in entries if entry.parts[-1].lower().endswith(TABLES)]
    pictures = [entry for entry in entries if entry.may_be_picture] if found else []
    bound = [_bind(entry, pictures) for entry in found]
    return [b for b in bound if isinstance(b, Table)], [b for b in bound if isinstance(b, str) and b]


def by_tables(tables: Sequence[Table], entries: Sequence[Entry], where: str) -> Arranged:
    """Take the labels of the pictures among the entries from tables.

    Raises DataError if one picture has two labels, if a column of splits names an unknown one, or if none of the tables
    is of the training split.
    """
    pictures = [entry for entry in entries if entry.may_be_picture]
    splits, skipped = _collect(tables, where)
    if not splits.get("train"):
        raise DataError(f"{where}: {tables[0].name} is no table of training pictures. Add one, named train.csv.")
    used = {id(item.entry) for members in splits.values() for item in members}
    others = Counter("/".join(entry.parts[:-1]) or "." for entry in pictures if id(entry) not in used)
    notes = [f"{folder}: {count:,} pictures without a label were left out." for folder, count in sorted(others.items())]
    ordered = {split: sort_labelled(splits[split]) for split in sorted(splits)}
    layout = f"labels from {some(table.name for table in tables)}"
    return Arranged(layout, ordered, notes=notes, skipped=skipped)


def _bind(entry: Entry, pictures: Sequence[Entry]) -> Table | str:
    """Return the table with the pictures of the folder that its rows speak of; if most rows name none, why not.

    The reason is empty where the file may well be something else than a table of labels.
    """
    if "submission" in entry.parts[-1].casefold():  # beside Kaggle's labels lies one that calls every test picture cat
        return f"{entry.name} is not used: going by its name, it holds answers and no labels."
    rows, sure = _rows(entry)
    sample = rows[:: max(1, len(rows) // SAMPLE)]
    home = entry.parts[:-1]
    stem = entry.parts[-1].rpartition(".")[0].casefold()
    best: tuple[int, bool, Mapping[str, Entry]] = (0, False, {})
    tops = {
        picture.parts[len(home)] for picture in pictures if _below(picture, home) and len(picture.parts) > len(home) + 1
    }
    for folder in (home, *(((*home, top)) for top in sorted(tops))) if rows else ():
        named = _by_name(pictures, folder)
        hits = sum(_key(row.file) in named for row in sample)
        chosen = (hits, folder != home and stem.startswith(folder[-1].casefold()), named)
        best = max(best, chosen, key=lambda candidate: candidate[:2])
    if not sample or best[0] < len(sample) / 2:
        lost = next((row.file for row in sample if _key(row.file) not in best[2]), "")
        said = f"{entry.name} is not used: most of its rows name pictures that are not there, like '{lost}'."
        return said if sure and sample else ""
    return Table(entry.name, split_named(entry.parts[-1].rpartition(".")[0]) or "train", rows, best[2])


def _by_name(pictures: Sequence[Entry], folder: tuple[str, ...]) -> dict[str, Entry]:
    """Index the pictures below a folder by their path in it; without the ending too, as Kaggle's tables name them."""
    below = [("/".join(entry.parts[len(folder) :]), entry) for entry in pictures if _below(entry, folder)]
    stems = Counter(name.rpartition(".")[0] for name, _ in below)
    named = {stem: entry for name, entry in below if stems[stem := name.rpartition(".")[0]] == 1}
    return {**named, **dict(below)}


def _below(entry: Entry, folder: tuple[str, ...]) -> bool:
    return entry.parts[: len(folder)] == folder


def _key(name: str) -> str:
    return "/".join(parts_of(name.replace("\\", "/")))


def _collect(tables: Iterable[Table], where: str) -> tuple[dict[str, list[Labelled]], list[Skipped]]:
    splits: dict[str, dict[str, Labelled]] = {}
    skipped = []
    for table in tables:
        _check_splits(table, where)
        for row in table.rows:
            entry = table.pictures.get(_key(row.file))
            if entry is None:
                skipped.append(Skipped(_key(row.file), f"{table.name} names it, and there is no such picture."))
            elif not row.label:
                skipped.append(Skipped(entry.name, f"{table.name} gives it no label."))
            else:
                split = splits.setdefault(split_of(row.split) or table.split, {})
                known = split.setdefault(entry.name, Labelled(row.label, entry.name, entry))
                if known.category != row.label:
                    raise DataError(
                        f"{where}: {table.name} calls {entry.name} both '{known.category}' and '{row.label}'. Keep one."
                    )
    return {split: list(members.values()) for split, members in splits.items()}, skipped


def _check_splits(table: Table, where: str) -> None:
    unknown = {row.split for row in table.rows if row.split and not split_of(row.split)}
    if unknown:
        raise DataError(
            f"{where}: {table.name} has a column of splits that says {some(unknown)}. Write train, validation or test "
            "there, or give the column another name if it tells something else."
        )


def _rows(entry: Entry) -> tuple[list[Row], bool]:
    """Read a table of paths and labels; nothing if it is none. Without a usual heading, its two columns are those.

    Also returned is whether its heading says that it is one.
    """
    text = _text(entry)
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        lines = [line for line in csv.reader(io.StringIO(text), delimiter=delimiter) if line]
    except csv.Error:
        return [], False
    heads = [cell.strip().casefold() for cell in lines[0]] if lines else []
    if not heads or OURS & set(heads):
        return [], False
    path, label, split = (_column(heads, names) for names in (PATH_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS))
    sure = path is not None and label is not None
    if path is None or label is None:
        if len(heads) != 2:
            return [], False
        path, label, split = 0, 1, None
    else:
        lines = lines[1:]
    last = max(path, label, split or 0)
    rows = [
        Row(line[path].strip(), line[label].strip(), line[split].strip() if split is not None else "")
        for line in lines
        if len(line) > last
    ]
    return rows, sure


def _column(heads: Sequence[str], names: Sequence[str]) -> int | None:
    return next((heads.index(name) for name in names if name in heads), None)


def _text(entry: Entry) -> str:
    """Return the table's text, in UTF-8 or in one of the two ways of Excel; nothing if it is too large to be one."""
    small = isinstance(entry.source, bytes) or os.stat(entry.source).st_size <= MAX_BYTES  # noqa: PTH116 - no Path
    data = entry.read() if small else b""
    try:
        return data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")
