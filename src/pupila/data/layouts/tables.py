"""Labels from tables: CSV with path and label or a column a class, metadata.jsonl, lists of objects in JSON.

A table counts only if most of its rows name pictures that are there, by their paths or by the ends of these.
"""

import bisect
import codecs
import contextlib
import csv
import functools
import io
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, NamedTuple
from urllib.parse import unquote

from pupila._arguments import counted
from pupila._files import DEEPEST_FOLDER
from pupila.data.dataset import SkippedFiles, first_notes
from pupila.data.layouts.labelled import (
    FIX,
    DetectedLayout,
    LabelledFile,
    check_names,
    folded,
    some,
    sort_labelled,
    split_of,
    splits_of_files,
)
from pupila.data.sources.archive import LONGEST_PATH
from pupila.data.sources.files import PICTURES, SHEETS, SourceFile, ending_of, parts_of, shortened
from pupila.errors import DataError
from pupila.manifest import MAX_TEXT

PATH_COLUMNS = (
    "path", "filepath", "file_path", "image_path", "file_name", "filename", "file", "image", "image_id", "id",
    "image_name", "img", "img_path", "url", "image_url", "link", "uri", "src", "arquivo", "imagem", "caminho", "foto",
    "archivo", "imagen", "ruta", "fichier", "chemin", "datei", "bild", "pfad",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "class", "class_name", "category", "target", "label_name", "category_name", "dx", "choice",
    "species", "breed", "diagnosis", "classe", "rotulo", "etiqueta", "categoria", "especie", "raca", "diagnostico",
    "clase", "etiquette", "categorie", "klasse", "kategorie",
)  # fmt: skip
SPLIT_COLUMNS = ("split", "subset", "set", "partition", "conjunto", "particao")
"""Usual headings without accents, the surest first."""
NO, YES = ("", "false", "no", "n", "nao"), ("true", "yes", "y", "sim", "s", "x")
BITS = dict.fromkeys(NO, 0.0) | dict.fromkeys(YES, 1.0)
"""Cells of a column that stands for a class, beside numbers that are 0 or 1."""
PLAIN = {"0": False, "1": True, "0.0": False, "1.0": True}
LONGEST_BIT = 50
"""Those that are read in no time, and letters of others."""
OURS = frozenset(("suggested", "confidence"))
"""Headings of what `pupila mislabelled` and `pupila predict` write: doubts and answers, which are no labels."""
TABLES = (".csv", ".tsv", ".jsonl")
LIST, JSON, MAX_LISTS = ".txt", ".json", 10
"""Endings of lists of a path and a label a line, with a space between, and of JSON; and how many of them are read."""
MAX_BYTES, MAX_JSON_BYTES, MAX_LINE, MAX_ROWS, MAX_COLUMNS = 64 * 2**20, 8 * 2**20, 2**20, 2_000_000, 10_000
"""Larger tables are not read: what Python makes of their cells takes many times their bytes."""
MAX_KEPT = 512 * 2**20
"""Bytes of the paths, labels and splits in the rows of all tables: a letter takes up to four."""
FEW_TITLES, FEW_ROWS, FEW_COLUMNS, MAX_REASONS, FEW_CELLS = 10, 50, 100, 3, 20_000_000
NESTED = "?"
"""Stands for a list or an object in JSON."""
INDEX_BYTES = 36
"""What a letter of a picture's name takes while a table is looked for, which may name it by any end of its path,
with or without its ending. Measured were 29, for letters of four bytes, with the name itself."""
MAX_NESTED, MAX_ALIKE = 20, 20
"""Folders with tables that a picture is below, on an average, and pictures that a path may fit alike."""
SAMPLE = 1000
"""Rows looked at to find the folder that a table speaks of."""
ADDRESS = re.compile(r"\A[A-Za-z][A-Za-z0-9+.-]+://")
"""Looked for at the beginning only: from each letter of a long cell on it would be read to the end."""
BEFORE_HEADING = re.compile(r"#\s|sep=.\s*$", re.IGNORECASE)
"""Lines above the heading: comments, and what tells Excel the mark between the columns."""
LABEL_STUDIO = re.compile(r"(?P<before>.*/)?(?:[0-9a-f]{8}-)(?P<name>[^/]+)")
"""The path of a picture that was uploaded to Label Studio: it puts eight signs before the name."""
LOCAL_FILES = "/data/local-files/?d="
"""What Label Studio writes before the path of a picture that was not uploaded."""
BOXES = frozenset(("xmin", "ymin", "x_min", "y_min", "x1", "y1", "bbox", "bbox_x", "left", "top", "roi.x1", "roi.y1"))
"""Headings of a table that says where in a picture something is."""
SEVERAL = re.compile(r"[|;,]")
"""What stands between the labels of a picture that has several."""
Cells = Sequence[str]


class Named(NamedTuple):
    """A picture by one of its names."""

    above: tuple[str, ...]
    """The folders that it lies in, from the last one up, whatever their capitals."""
    path: tuple[str, ...]
    """Its path, without its ending too."""
    entry: SourceFile


class LabelRow(NamedTuple):
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
    note: str = ""
    """How the rows were matched, if not by their paths."""
    boxes: str = ""
    """A heading that says where in a picture something is; empty if there is none."""


class _Pictures:
    """The pictures of a data set, indexed once for all its tables: there may be thousands of either."""

    def __init__(self, pictures: Sequence[SourceFile]) -> None:
        self.names = {name.casefold() for picture in pictures for name in (picture.file, picture.stem)}
        """With and without ending, whatever the capitals."""
        self.folders = {folder for picture in pictures for folder in picture.parts[:-1]}
        """Names of the folders that they lie in, at whatever depth."""
        self._pictures = sorted(pictures, key=attrgetter("parts"))
        self._left = MAX_NESTED * len(pictures)
        self.spare = Spare()
        self.in_folders = functools.lru_cache(maxsize=1)(self._in_folders)  # tables of one folder follow each other
        self.by_file = functools.lru_cache(maxsize=1)(self._by_file)
        self.by_file_everywhere = functools.cache(functools.partial(self._by_file, ()))

    def forget(self) -> None:
        """Let go of what was indexed: the caches hold each other, and would stay until Python looks for such rings."""
        del self.in_folders, self.by_file, self.by_file_everywhere

    def _below(self, folder: tuple[str, ...]) -> Sequence[SourceFile]:
        """Return those below a folder; raises as take() does."""
        start = bisect.bisect_left(self._pictures, folder, key=attrgetter("parts"))
        end = bisect.bisect_right(self._pictures, folder, key=lambda picture: picture.parts[: len(folder)])
        self.take(end - start if folder else 0)
        return self._pictures[start:end]

    def take(self, looks: int) -> None:
        """Raise TableError if so many pictures and folders have been looked at that it would take hours."""
        self._left -= looks
        if self._left < 0:
            raise TableError(
                "there are tables in too many folders within each other, or pictures of one name in too many folders"
            )

    def _by_file(self, folder: tuple[str, ...]) -> dict[str, list[Named]]:
        """Index those below a folder by the names of their files, with and without ending, whatever the capitals.

        Those of one name are sorted by the folders above them, from the last one up.
        """
        found: dict[str, list[Named]] = {}
        for entry in self._below(folder):
            above = _upwards(entry.parts[:-1])
            for name in {entry.file, entry.stem}:
                found.setdefault(name.casefold(), []).append(Named(above, (*entry.parts[:-1], name), entry))
        for named in found.values():
            named.sort(key=attrgetter("above"))
        return found

    def _in_folders(self, home: tuple[str, ...]) -> "_Folders":
        return _Folders(home, self._below(home), self.take)


class _Folders:
    """A folder and those directly in it, in order, and which of them have a picture by its path in it."""

    def __init__(self, home: tuple[str, ...], pictures: Sequence[SourceFile], take: Callable[[int], None]) -> None:
        self._take = take
        self.folders: dict[tuple[str, ...], list[SourceFile]] = {home: list(pictures)}
        for picture in pictures:
            if len(picture.parts) > len(home) + 1:
                self.folders.setdefault(picture.parts[: len(home) + 1], []).append(picture)
        self._holders: dict[str, list[tuple[str, ...]]] = {}
        for folder, files in self.folders.items():
            for name in _by_name(files, len(folder)):
                self._holders.setdefault(name, []).append(folder)
        self._named: dict[tuple[str, ...], dict[str, SourceFile]] = {}

    def holding(self, sample: Iterable[str]) -> Mapping[tuple[str, ...], int]:
        """Return how many of the paths there are in each folder."""
        found: Counter[tuple[str, ...]] = Counter()
        for key, count in Counter(sample).items():
            holders = self._holders.get(key, ())
            self._take(max(0, len(holders) - 1))
            for folder in holders:
                found[folder] += count
        return found

    def named(self, folder: tuple[str, ...]) -> dict[str, SourceFile]:
        """Return the pictures of a folder by their paths in it."""
        if folder not in self._named:
            self._named[folder] = _by_name(self.folders[folder], len(folder))
        return self._named[folder]


class TableError(Exception):
    """Why a table is not used, as the end of a sentence."""


@dataclass
class Spare:
    """What the tables of a data set, used or not, may still have."""

    left: int = FEW_CELLS
    """Cells that are left out, beyond one a byte, and those for classes that are not written as 0 or 1."""
    rows: int = field(default_factory=lambda: MAX_ROWS)
    kept: int = field(default_factory=lambda: MAX_KEPT)
    """Bytes of texts."""
    _shared: dict[str, str] = field(default_factory=dict, init=False)

    def take(self, cells: int, reason: str) -> None:
        """Raise TableError for this reason if there are no more cells."""
        self.left -= cells
        if self.left < 0:
            raise TableError(reason)

    def keep(self, text: str) -> str:
        """Return a text that is to be kept; raises TableError if all of them take too much."""
        self.kept -= sys.getsizeof(text)
        if self.kept < 0:
            raise TableError(f"the paths and labels in the tables take over {MAX_KEPT // 2**20} MiB of memory")
        return text

    def share(self, cell: str) -> str:
        """Return a label or a split, of those that are equal the first; raises as keep() does."""
        text = _short(cell)
        if text not in self._shared:
            self._shared[text] = self.keep(text)
        return self._shared[text]

    def rows_of(self, lines: Iterator[Cells]) -> Iterator[Cells]:
        """Yield the heading and the rows of a table, none of them empty: empty lines are read and count, too.

        Raises TableError, even before the heading, if there are more.
        """
        for first in itertools.chain([True], itertools.repeat(False)):
            if self.rows < 0:
                raise TableError(f"the tables have over {MAX_ROWS:,} rows together")
            line = next(lines, None)
            if line is None:
                return
            self.rows -= not first
            if line:
                yield line


def find_tables(entries: Sequence[SourceFile]) -> tuple[list[LabelTable], list[str]]:
    """Return the tables of labels that name the pictures, and a sentence on each that seems to be one and does not.

    Raises DataError if the names do not fit into memory.
    """
    found = [entry for entry in entries if entry.ending in (*TABLES, LIST, JSON)]
    named = [entry for entry in entries if entry.may_be_picture] if found else []
    check_names(sum(map(len, itertools.chain.from_iterable(entry.parts for entry in named))), len(named), INDEX_BYTES)
    pictures = _Pictures(named)
    for ending in (LIST, JSON):  # boxes or notes, one for each picture, are no lists of all
        lists = [e for e in found if e.ending == ending and e.file.partition(".")[0].casefold() not in pictures.names]
        found = [e for e in found if e.ending != ending] + (lists if len(lists) <= MAX_LISTS else [])
    bound = _bind_all(found, pictures)
    pictures.forget()
    splits = splits_of_files([entry for entry, table in bound if isinstance(table, LabelTable)])
    tables = [table for _, table in bound if isinstance(table, LabelTable)]
    tables = [replace(table, split=split or "train") for table, split in zip(tables, splits, strict=True)]
    sheets = [entry.name for entry in entries if entry.ending in SHEETS]
    unread = [f"{name} is not used: save it as CSV if it holds the labels." for name in sheets[:1]]
    reasons = [reason for _, reason in bound if isinstance(reason, str) and reason]
    more = len(reasons) - MAX_REASONS
    rest = [f"{more:,} more tables are not used."] if more > 0 else []
    return tables, [*reasons[:MAX_REASONS], *rest, *unread]


def _bind_all(found: Sequence[SourceFile], pictures: _Pictures) -> list[tuple[SourceFile, LabelTable | str]]:
    """Return each table or the reason why it is none, in their order.

    Read are those of one folder after the other, and those of deep folders last.
    """
    bound: dict[tuple[str, ...], LabelTable | str] = {}
    for entry in sorted(found, key=lambda entry: (len(entry.parts), entry.parts[:-1])):
        try:
            bound[entry.parts] = _bind(entry, pictures)
        except TableError as error:
            bound[entry.parts] = f"{entry.name} is not used: {error}."
    return [(entry, bound[entry.parts]) for entry in found]


def pixels_in(entries: Iterable[SourceFile]) -> str:
    """Return a sentence on the first table that holds pictures as numbers, as Kaggle's of digits do; empty if none."""
    spare = Spare()
    for entry in entries:
        if entry.ending in (".csv", ".tsv"):
            heads: Cells = ()
            try:
                heads = next(table_lines(entry, spare), ())
            except TableError as error:
                return f"{entry.name} is not read: {error}. Pixels as numbers are read from arrays (numpy.savez)."
            except (csv.Error, OSError, ValueError):
                continue
            if {"pixels", "pixel0", "pixel1", "1x1"} & {head.strip().casefold() for head in heads}:
                how = "numpy.savez('data.npz', x=pictures, y=labels)"
                return f"{entry.name} holds pixels as numbers, which is not read. Save them as arrays: {how}"
    return ""


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
    notes = first_notes(
        f"{folder}: left out {counted(count, 'picture')} without a label." for folder, count in sorted(others.items())
    )
    notes += first_notes(table.note for table in tables if table.note)
    notes += first_notes(
        f"{table.name} says where things are ('{table.boxes}'), which is not used: each picture is learned as a whole."
        for table in tables
        if table.boxes
    )
    layout = f"labels from {some(table.name for table in tables)}"
    return DetectedLayout(layout, sort_labelled(splits), notes=notes, skipped=skipped)


def _bind(entry: SourceFile, pictures: _Pictures) -> LabelTable | str:
    """Return the table with the pictures of the folder that its rows speak of; if most rows name none, why not.

    The reason is empty where the file may well be something else than a table of labels. Where no picture has a name
    that is in the rows, no folder is looked into. Raises TableError for other reasons.
    """
    if "submission" in entry.file.casefold():  # beside Kaggle's labels lies one that calls every test picture cat
        return f"{entry.name} is not used: going by its name, it holds answers and no labels."
    rows, sure = _rows(entry, pictures.spare)
    if not rows or (len(rows) > 1 and all(row.label == NESTED for row in rows[1:])):
        return _without_label(entry, pictures)
    sample = [_key(row.file) for row in rows[:: max(1, len(rows) // SAMPLE)]]
    if _half(sample, pictures.folders):
        return ""  # it says what the folders mean
    there = 2 * sum(_may_name(key, pictures.names) for key in sample) >= len(sample)
    named = _best_folder(entry, pictures, sample) if there else {}
    note = ""
    sure = sure or (ending_of(rows[0].file) in PICTURES and bool({"/", "\\"} & set(rows[0].file)))
    if there and sure and not _half(sample, named):
        named, twice = _by_ends(entry, rows, sample, pictures)
        if twice:
            return f"{entry.name} is not used: {twice}. Write paths from the folder of the table."
        example = shortened(next((row.file for row in rows if _key(row.file) in named), ""))
        note = f"{entry.name} names pictures by other paths, like {example}: they were found by the ends of the paths."
    if not _half(sample, named):
        return _lost(entry, rows, named) if sure else ""
    if unfit := _unfit(rows):
        return f"{entry.name} is not used: {unfit}."
    first = rows[0]
    seems_file = sure or _key(first.file) in named or ending_of(first.file) in PICTURES
    if not seems_file and all(row.label != first.label for row in rows[1:]):
        rows = rows[1:]  # a heading in other words, like id,breed
    return LabelTable(entry.name, "", rows, named, note, _box_heading(entry, pictures.spare))


def _box_heading(entry: SourceFile, spare: Spare) -> str:
    heads = [cell.strip() for cell in next(table_lines(entry, spare), ())]
    return next((head for head in heads if head.casefold() in BOXES), "")


def _half(keys: Sequence[str], known: Container[str]) -> bool:
    """Return whether at least half of the keys are known."""
    return sum(key in known for key in keys) >= len(keys) / 2


def _without_label(entry: SourceFile, pictures: _Pictures) -> str:
    """Say so if a column of a CSV, or a JSON, names the pictures, and nothing in it is known to hold their labels."""
    if entry.ending == JSON:
        return _unknown_json(entry, pictures.names)
    try:
        heads, *lines = itertools.islice(table_lines(entry, pictures.spare), FEW_ROWS)
    except (TableError, csv.Error, OSError, ValueError, RecursionError):
        return ""
    if OURS & set(map(folded, heads)):
        return ""
    names = pictures.names
    if entry.ending == LIST and _may_name(_key(heads[0]), names):  # it begins with a picture: a list without labels
        return ""
    for index, head in enumerate(heads[:FEW_COLUMNS]):
        cells = [_key(line[index]).rpartition("/")[2].casefold() for line in lines if len(line) > index]
        if cells and sum(cell in names for cell in cells) > len(cells) / 2:
            column = shortened(head.strip())
            return (
                f"{entry.name} is not used: its column '{column}' names pictures, and none is known to hold "
                "labels. Call the columns path and label."
            )
    return ""


def _unknown_json(entry: SourceFile, names: Set[str]) -> str:
    try:
        data = entry.read(MAX_JSON_BYTES) if entry.size() <= MAX_JSON_BYTES else b""
    except OSError:
        return ""
    texts = re.findall(r'"([^"\\\n]{1,300})"', data[:MAX_LINE].decode("utf-8", "replace"))
    files = [text for text in texts if ending_of(text) in PICTURES]
    if 2 * sum(_may_name(_key(text), names) for text in files) <= len(files):
        return ""
    return (
        f"{entry.name} is not used: it names pictures, and its form is not known. Write a CSV with the columns path "
        "and label."
    )


def _lost(entry: SourceFile, rows: Sequence[LabelRow], named: Mapping[str, SourceFile]) -> str:
    lost = shortened(next((row.file for row in rows if _key(row.file) not in named), ""))
    if ADDRESS.match(lost):
        return (
            f"{entry.name} is not used: it names addresses, like {lost}, which are not fetched. Download the pictures "
            "under their own names and put them beside it."
        )
    return (
        f"{entry.name} is not used: most of its rows name pictures that are not there, like '{lost}'. Put them there, "
        "or write paths from the folder of the table."
    )


def _by_ends(
    entry: SourceFile, rows: Sequence[LabelRow], sample: Sequence[str], pictures: _Pictures
) -> tuple[dict[str, SourceFile], str]:
    """Match rows by the ends of their paths with what lies below the table's folder, else with all pictures.

    Also returned is, where most of them match none, what fits several pictures alike.
    """
    keys, home = [_key(row.file) for row in rows], entry.parts[:-1]
    named, twice = _by_tail(keys, pictures.by_file(home), pictures.take)
    if home and not _half(sample, named):
        named, twice = _by_tail(keys, pictures.by_file_everywhere(), pictures.take)
    return named, "" if _half(sample, named) else twice


def _by_tail(
    keys: Iterable[str], by_name: Mapping[str, Sequence[Named]], take: Callable[[int], None]
) -> tuple[dict[str, SourceFile], str]:
    """Match paths of another machine, or addresses, by the longest common end that only one picture has.

    Also returned is the first of those that several pictures fit alike, as a sentence. Raises as take() does, which is
    asked for each comparison of a path with a picture.
    """
    found, twice = {}, ""
    for key in dict.fromkeys(keys):
        parts = tuple(key.split("/"))
        written = [text for one in _as_uploaded(parts[-1].casefold()) for text in (one, one.rpartition(".")[0])]
        fitting = _nearest(next((by_name[text] for text in written if text in by_name), []), parts, take)
        if len(fitting) == 1:
            found[key] = fitting[0].entry
        elif fitting and not twice:
            twice = f"'{shortened(key)}' can be {fitting[0].entry.name} or {fitting[1].entry.name}"
    return found, twice


def _upwards(folders: Sequence[str]) -> tuple[str, ...]:
    return tuple(folder.casefold() for folder in reversed(folders))


def _nearest(named: Sequence[Named], parts: Sequence[str], take: Callable[[int], None]) -> Sequence[Named]:
    """Return those of a name that have most folders at their ends in common with a path: of few, as it is written."""
    above, key = _upwards(parts[:-1]), attrgetter("above")
    at = bisect.bisect_left(named, above, key=key)
    beside = named[max(0, at - 1) : at + 1]
    count = max((_alike_from_the_start(one.above, above) for one in beside), default=0)
    start = bisect.bisect_left(named, above[:count], key=lambda one: one.above[:count])
    end = bisect.bisect_right(named, above[:count], key=lambda one: one.above[:count])
    fitting = named[start : min(end, start + MAX_ALIKE + 1)]
    if not 1 < len(fitting) <= MAX_ALIKE:
        return fitting
    take(len(fitting))  # whatever the capitals, all of them have as much in common with the path
    written = [_alike_from_the_start(one.path[::-1], parts[::-1]) for one in fitting]
    best = max(written)
    return [one for one, alike in zip(fitting, written, strict=True) if alike == best]


def _alike_from_the_start(one: Sequence[str], two: Sequence[str]) -> int:
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False))))


def _best_folder(table: SourceFile, pictures: _Pictures, sample: Sequence[str]) -> Mapping[str, SourceFile]:
    """Return the pictures of the table's folder, or of one in it, by name: of that where most of the sample are found.

    Of folders that are equally good it is the one that the table's name begins with.
    """
    home = table.parts[:-1]
    inner = pictures.in_folders(home)
    held = inner.holding(sample)
    most = max(held.values(), default=0)
    equal = sorted(folder for folder, count in held.items() if count == most) or [home]
    name = table.file.casefold()
    begun = (folder for folder in equal if folder != home and name.startswith(folder[-1].casefold()))
    return inner.named(next(begun, equal[0]))


def _by_name(pictures: Sequence[SourceFile], above: int) -> dict[str, SourceFile]:
    """Index pictures by their path in a folder, `above` parts deep; without the ending too, as Kaggle's tables do."""
    below = [("/".join(entry.parts[above:]), entry) for entry in pictures]
    stems = Counter(name.rpartition(".")[0] for name, _ in below)
    named = {stem: entry for name, entry in below if stems[stem := name.rpartition(".")[0]] == 1}
    return {**named, **dict(below)}


def _key(name: str) -> str:
    """Return the path in a row as paths in a data set are written: without the start and the query of an address."""
    path = name.replace("\\", "/")
    plain = ADDRESS.sub("", path)
    if plain != path:
        plain = unquote(plain.partition("?")[0])
    elif path.startswith(LOCAL_FILES):
        plain = unquote(path.removeprefix(LOCAL_FILES)).replace("\\", "/")
    near = plain.rsplit("/", DEEPEST_FOLDER + 1)[-DEEPEST_FOLDER - 1 :]  # no picture lies in more folders
    return "/".join(parts_of("/".join(near)))


def _may_name(key: str, names: Container[str]) -> bool:
    """Return whether the last part of a path is the name of a picture, whatever its ending and its capitals."""
    name = key.rpartition("/")[2].casefold()
    return any(text in names for one in _as_uploaded(name) for text in (one, one.rpartition(".")[0]))


def _as_uploaded(name: str) -> list[str]:
    """Return a name, and what it was before Label Studio took it."""
    match = LABEL_STUDIO.fullmatch(name)
    return [name, (match["before"] or "") + match["name"]] if match else [name]


def _collect(tables: Iterable[LabelTable], where: str) -> tuple[dict[str, list[LabelledFile]], SkippedFiles]:
    splits: dict[str, dict[str, LabelledFile]] = {}
    skipped = SkippedFiles()
    for table in tables:
        _check_splits(table, where)
        gone, bare = f"{table.name} names it, and there is no such picture.", f"{table.name} gives it no label."
        for row in table.rows:
            entry = table.pictures.get(_key(row.file))
            if entry is None:
                skipped.add(_key(row.file)[:LONGEST_PATH], gone)
            elif not row.label:
                skipped.add(entry.name, bare)
            else:
                split = splits.setdefault(split_of(row.split) or table.split, {})
                known = split.setdefault(entry.name, LabelledFile(row.label, entry.name, entry))
                if known.category != row.label and table.boxes:
                    kind = f"{table.name} with '{table.boxes}'"
                    raise DataError(f"{where}: is a data set for detection ({kind}). {FIX.format(things='boxes')}")
                if known.category != row.label:
                    labels = [shortened(label) for label in (known.category, row.label)]
                    raise DataError(
                        f"{where}: {table.name} calls {entry.name} both '{labels[0]}' and '{labels[1]}'. Keep one."
                    )
    return {split: list(members.values()) for split, members in splits.items()}, skipped


def _check_splits(table: LabelTable, where: str) -> None:
    unknown = {row.split for row in table.rows if row.split and not split_of(row.split)}
    if unknown:
        raise DataError(
            f"{where}: {table.name} has a column of splits that says {some(unknown)}. Write train, validation or test "
            "there, or give the column another name if it tells something else."
        )


def _rows(entry: SourceFile, spare: Spare) -> tuple[list[LabelRow], bool]:
    """Read a table of paths and labels; nothing if it is none. Without a usual heading, its two columns are those.

    Also returned is whether its heading says that it is one. Raises TableError if it is one that cannot be used.
    """
    try:
        lines = table_lines(entry, spare)
        first = next(lines, None)
        if not first:
            return [], False
        heads = [folded(cell.strip()) for cell in first]
        if OURS & set(heads):
            return [], False
        path, label, split = (_column(heads, names) for names in (PATH_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS))
        if path is not None and label is not None:
            return _label_rows(lines, path, label, split, spare), True
        if entry.ending == LIST and ending_of(first[0]) not in PICTURES:
            return [], False
        if len(heads) == 2:
            turned = ending_of(first[1].strip()) in PICTURES and ending_of(first[0].strip()) not in PICTURES
            return _label_rows(itertools.chain([first], lines), *((1, 0) if turned else (0, 1)), None, spare), False
        return _one_hot(lines, first, path or 0, split, spare)
    except (csv.Error, OSError, ValueError, RecursionError):
        return [], False


def _label_rows(lines: Iterable[Cells], path: int, label: int, split: int | None, spare: Spare) -> list[LabelRow]:
    last = max(path, label, split or 0)
    return [_label_row(line, path, spare.share(line[label]), split, spare) for line in lines if len(line) > last]


def _label_row(line: Cells, path: int, label: str, split: int | None, spare: Spare) -> LabelRow:
    """Return of a line what can matter: rows of all tables are kept, and a letter takes up to four bytes."""
    file = line[path].strip()
    if len(file) > LONGEST_PATH:
        file = _key(file)[-LONGEST_PATH - 1 :]  # no path of a picture is as long, and its end may name one
    return LabelRow(spare.keep(file), label, spare.share(line[split]) if split is not None else "")


def _short(cell: str) -> str:
    """Return a label or a split, or enough of one that is too long to say so."""
    return cell.strip()[: MAX_TEXT + 1]


def _one_hot(
    lines: Iterable[Cells], heads: Cells, path: int, split: int | None, spare: Spare
) -> tuple[list[LabelRow], bool]:
    """Read a table with a column of 0 and 1 for each class, as ISIC and Roboflow publish; nothing if it is none.

    Raises TableError if pictures have several classes.
    """
    names = {index: _short(head) for index, head in enumerate(heads) if head.strip() and index not in (path, split)}
    columns = tuple(names)
    rows, several = [], 0
    for line in lines:
        if len(line) != len(heads):
            return [], False
        bits = [PLAIN.get(line[index]) for index in columns]
        if None in bits:
            spare.take(bits.count(None), "too many of its cells are no plain 0 or 1")
            bits = [_bit(line[index]) for index in columns]
            if None in bits:
                return [], False
        ones = list(itertools.compress(columns, bits))
        several += len(ones) > 1
        rows.append(_label_row(line, path, names[ones[0]] if ones else "", split, spare))
    if len(columns) < 2 or not rows:
        return [], False
    if several > len(rows) / 100:
        raise TableError(_too_many_classes(several, len(rows)))
    return rows, True


def _unfit(rows: Sequence[LabelRow]) -> str:
    """Say so if labels are put together from others, as in cat|dog, or are titles; empty if they are classes."""
    labels = Counter(row.label for row in rows)
    joined = (label for label in labels if SEVERAL.search(label))
    several = sum(labels[label] for label in joined if all(name.strip() in labels for name in SEVERAL.split(label)))
    if several > len(rows) / 100:
        return _too_many_classes(several, len(rows))
    return "nearly every row has another label, as titles have" if len(labels) > max(len(rows) / 2, FEW_TITLES) else ""


def _too_many_classes(several: int, rows: int) -> str:
    return (
        f"it gives pictures several classes, in {several:,} of {counted(rows, 'row')}, and Pupila learns one a "
        "picture. Keep one class a row"
    )


@functools.lru_cache(1_000)
def _bit(cell: str) -> bool | None:
    """Return whether a cell says 0 or 1, in any usual way; None if it says neither."""
    plain = folded(cell.strip()).replace(",", ".") if len(cell) <= LONGEST_BIT else "?"
    with contextlib.suppress(ValueError):
        return {0.0: False, 1.0: True}.get(BITS[plain] if plain in BITS else float(plain))
    return None


def _column(heads: Sequence[str], names: Sequence[str]) -> int | None:
    return next((heads.index(name) for name in names if name in heads), None)


def table_lines(entry: SourceFile, spare: Spare | None = None) -> Iterator[Cells]:
    """Yield the heading and the rows of a CSV, or of JSON objects with the same keys; raises TableError, ValueError.

    Each line that is read is taken from what all tables may still have, also where a table is read again.
    """
    spare = spare or Spare()
    return spare.rows_of(_all_lines(entry, spare))


def _all_lines(entry: SourceFile, spare: Spare) -> Iterator[Cells]:
    """Yield the heading, the rows, and no cells for an empty line, a comment above the heading, or an empty object."""
    kind = entry.ending
    size = entry.size()
    most = MAX_JSON_BYTES if kind == JSON else MAX_BYTES
    if size > most:
        raise TableError(f"it has {size / 2**20:,.0f} MiB, and {most // 2**20} are read at most")
    data = entry.read(most + 1)
    if len(data) > most:
        raise TableError("it grows while it is read")
    lines: Iterator[Cells]
    if kind == LIST:
        lines = map(_list_cells, text_lines(data))
    else:
        lines = _json_lines(data, kind, spare) if kind in (JSON, ".jsonl") else csv_lines(data)
    for count, line in enumerate(lines):
        if count > MAX_ROWS or len(line) > MAX_COLUMNS:
            raise TableError(f"it has over {MAX_ROWS:,} rows or {MAX_COLUMNS:,} columns")
        yield line


def _list_cells(line: str) -> Cells:
    """Cut a line of a list at its tab, comma or semicolon, if a picture's name stands before it; else at a space."""
    line = line.rstrip("\r\n")
    for sign in "\t,;":
        name, found, label = line.partition(sign)
        if found and ending_of(name.strip()) in PICTURES:
            return name, label
    return line.rsplit(maxsplit=1)


def _encoding_of(data: bytes) -> str:
    """Return UTF-8, or the one of the two ways of Excel that a table is written in."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for at in range(0, len(data), MAX_LINE):
            decoder.decode(data[at : at + MAX_LINE], at + MAX_LINE >= len(data))
    except UnicodeDecodeError:
        return "cp1252"
    return encoding


def csv_lines(data: bytes) -> Iterator[Cells]:
    """Yield the heading and the rows of a table with commas, semicolons or tabs, in any usual encoding.

    A line above the heading, as BEFORE_HEADING tells them, is a row without cells.

    Raises csv.Error, also for quotes that join lines to one that is too long.
    """
    lines = text_lines(data)
    first = next(lines, "")
    while BEFORE_HEADING.match(first):
        yield []
        first = next(lines, "")
    delimiter = max(",;\t|", key=first.count)
    joined = 0

    def counted_lines() -> Iterator[str]:
        nonlocal joined
        for line in itertools.chain([first], lines):
            joined += len(line)
            if joined > MAX_LINE:
                raise csv.Error("a line is too long")
            yield line

    for row in csv.reader(counted_lines(), delimiter=delimiter):
        yield row
        joined = 0


def text_lines(data: bytes) -> Iterator[str]:
    """Yield the lines of a text in any usual encoding, with their ends; raises csv.Error for one that is too long."""
    text = io.TextIOWrapper(io.BytesIO(data), _encoding_of(data), errors="replace", newline="")
    while line := text.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise csv.Error("a line is too long")
        yield line


def _is_pictures(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and ending_of(name) in PICTURES for name in value)


def _json_lines(data: bytes, kind: str, spare: Spare) -> Iterator[Cells]:
    """Read metadata.jsonl, a list of objects, or an object of file names and labels, or of labels and file names."""
    if kind == ".jsonl":
        objects: Iterator[Any] = (json.loads(line) if line.strip() else {} for line in text_lines(data))
    else:
        content = json.loads(data)
        if isinstance(content, dict) and all(isinstance(value, str | int) for value in content.values()):
            sure = any(ending_of(name) in PICTURES for name in content)  # else it may be anything: no heading is added
            yield from [("file", "label")] if sure else []
            yield from ((name, str(label)) for name, label in content.items())
            return
        elif isinstance(content, dict) and all(map(_is_pictures, content.values())):
            content = [{"file": name, "label": label} for label, names in content.items() for name in names]
        objects = iter(content if isinstance(content, list) else [])
    heads: list[str] = []
    left = len(data)  # a table in which they are all written has more bytes
    for item in objects:
        if item == {}:
            yield []
            continue
        if not isinstance(item, dict):
            return
        if not heads:
            heads = list(item)
            yield heads
        left -= len(heads)
        if left < 0:
            spare.take(len(heads), "most of its objects lack most keys of the first")
        yield [_cell(item.get(head)) for head in heads]


def _cell(value: object) -> str:
    """Return a value as a cell: a list of texts as a CSV has it, an object with one value as that."""
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        value = "|".join(value)
    return "" if value is None else str(value) if isinstance(value, str | int | float) else NESTED
