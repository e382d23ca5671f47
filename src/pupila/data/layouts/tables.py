"""Labels from tables: any CSV of path,label, Kaggle's trainLabels.csv beside train/1.png among them.

Knows rows and names of files, no pixels. A table counts only if most of its rows name pictures that are there.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from operator import itemgetter

from pupila.data.dataset import Skipped
from pupila.data.layouts.labelled import DetectedLayout, LabelledFile, some, sort_labelled, split_of, splits_of_files
from pupila.data.sources.files import PICTURES, SourceFile, ending_of, parts_of
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
class LabelRow:
    """One line of a table."""

    file: str
    label: str
    split: str
    """Empty where the table has no such column."""


@dataclass(frozen=True)
class LabelTable:
    """Rows, and the pictures that they can name: by the name as the table writes it, with and without ending."""

    name: str
    split: str
    rows: Sequence[LabelRow]
    pictures: Mapping[str, SourceFile]


def find_tables(entries: Sequence[SourceFile]) -> tuple[list[LabelTable], list[str]]:
    """Return the tables of labels that name the pictures, and a sentence on each that seems to be one and does not."""
    found = [entry for entry in entries if entry.parts[-1].lower().endswith(TABLES)]
    pictures = [entry for entry in entries if entry.may_be_picture] if found else []
    names = {name for entry in pictures for name in (entry.parts[-1], entry.parts[-1].rpartition(".")[0])}
    bound = [(entry, _bind(entry, pictures, names)) for entry in found]
    splits = splits_of_files([entry for entry, table in bound if isinstance(table, LabelTable)])
    tables = [table for _, table in bound if isinstance(table, LabelTable)]
    told = [replace(table, split=split or "train") for table, split in zip(tables, splits, strict=True)]
    return told, [reason for _, reason in bound if isinstance(reason, str) and reason]


def by_tables(tables: Sequence[LabelTable], entries: Sequence[SourceFile], where: str) -> DetectedLayout:
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
    return DetectedLayout(layout, ordered, notes=notes, skipped=skipped)


def _bind(entry: SourceFile, pictures: Sequence[SourceFile], names: Set[str]) -> LabelTable | str:
    """Return the table with the pictures of the folder that its rows speak of; if most rows name none, why not.

    The reason is empty where the file may well be something else than a table of labels. `names` are those of all the
    pictures, with and without ending: where they do not have those in the rows, no folder is looked into.
    """
    if "submission" in entry.parts[-1].casefold():  # beside Kaggle's labels lies one that calls every test picture cat
        return f"{entry.name} is not used: going by its name, it holds answers and no labels."
    rows, sure = _rows(entry)
    sample = [_key(row.file) for row in rows[:: max(1, len(rows) // SAMPLE)]]
    known = sum(key.rpartition("/")[2] in names for key in sample)
    hits, named = _best_folder(entry, pictures, sample) if known >= len(sample) / 2 else (0, {})
    if not sample or hits < len(sample) / 2:
        lost = next((row.file for row in rows if _key(row.file) not in named), "")
        said = f"{entry.name} is not used: most of its rows name pictures that are not there, like '{lost}'."
        return said if sure and sample else ""
    first = rows[0]
    seems_file = sure or _key(first.file) in named or ending_of(first.file) in PICTURES
    if not seems_file and all(row.label != first.label for row in rows[1:]):
        rows = rows[1:]  # a heading in other words, like id,breed
    return LabelTable(entry.name, "", rows, named)


def _best_folder(
    table: SourceFile, pictures: Sequence[SourceFile], sample: Sequence[str]
) -> tuple[int, Mapping[str, SourceFile]]:
    """Return the pictures of the table's folder, or of one in it, by name: of that where most of the sample are found.

    First comes how many were found. Of folders that are equally good it is the one that the table's name begins with.
    """
    home = table.parts[:-1]
    folders: dict[tuple[str, ...], list[SourceFile]] = {home: []}
    for picture in pictures:
        if picture.parts[: len(home)] == home:
            folders[home].append(picture)
            if len(picture.parts) > len(home) + 1:
                folders.setdefault(picture.parts[: len(home) + 1], []).append(picture)
    best: tuple[int, bool, Mapping[str, SourceFile]] = (-1, False, {})
    for folder, files in sorted(folders.items(), key=itemgetter(0)):
        named = _by_name(files, len(folder))
        begins = folder != home and table.parts[-1].casefold().startswith(folder[-1].casefold())
        best = max(best, (sum(key in named for key in sample), begins, named), key=itemgetter(0, 1))
    return best[0], best[2]


def _by_name(pictures: Sequence[SourceFile], above: int) -> dict[str, SourceFile]:
    """Index pictures by their path in a folder, `above` parts deep; without the ending too, as Kaggle's tables do."""
    below = [("/".join(entry.parts[above:]), entry) for entry in pictures]
    stems = Counter(name.rpartition(".")[0] for name, _ in below)
    named = {stem: entry for name, entry in below if stems[stem := name.rpartition(".")[0]] == 1}
    return {**named, **dict(below)}


def _key(name: str) -> str:
    return "/".join(parts_of(name.replace("\\", "/")))


def _collect(tables: Iterable[LabelTable], where: str) -> tuple[dict[str, list[LabelledFile]], list[Skipped]]:
    splits: dict[str, dict[str, LabelledFile]] = {}
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
                known = split.setdefault(entry.name, LabelledFile(row.label, entry.name, entry))
                if known.category != row.label:
                    raise DataError(
                        f"{where}: {table.name} calls {entry.name} both '{known.category}' and '{row.label}'. Keep one."
                    )
    return {split: list(members.values()) for split, members in splits.items()}, skipped


def _check_splits(table: LabelTable, where: str) -> None:
    unknown = {row.split for row in table.rows if row.split and not split_of(row.split)}
    if unknown:
        raise DataError(
            f"{where}: {table.name} has a column of splits that says {some(unknown)}. Write train, validation or test "
            "there, or give the column another name if it tells something else."
        )


def _rows(entry: SourceFile) -> tuple[list[LabelRow], bool]:
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
        LabelRow(line[path].strip(), line[label].strip(), line[split].strip() if split is not None else "")
        for line in lines
        if len(line) > last
    ]
    return rows, sure


def _column(heads: Sequence[str], names: Sequence[str]) -> int | None:
    return next((heads.index(name) for name in names if name in heads), None)


def _text(entry: SourceFile) -> str:
    """Return the table's text, in UTF-8 or in one of the two ways of Excel; nothing if it is too large to be one."""
    small = isinstance(entry.source, bytes) or os.stat(entry.source).st_size <= MAX_BYTES  # noqa: PTH116 - no Path
    data = entry.read() if small else b""
    try:
        return data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")
