"""Labels from class folders, with or without train/, valid/ and test/ above, or from file names: cat_001.jpg."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence, Set

from pupila._arguments import counted
from pupila.data.dataset import first_notes
from pupila.data.layouts.labelled import (
    HINT,
    DetectedLayout,
    LabelledFile,
    is_structure,
    some,
    sort_labelled,
    splits_among,
    splits_in_classes,
)
from pupila.data.sources.files import SourceFile
from pupila.errors import DataError
from pupila.manifest import MAX_CLASSES

ORDER = ("train", "validation", "test")
CHOICE = "PUPILA_CLASS_FOLDERS"
"""Environment variable: `outer` or `inner`, where class folders and those in them could both be the classes."""
FilesByFolder = Mapping[tuple[str, ...], Sequence[SourceFile]]
"""Files by the folder that they lie in, as far as its path still counts: there are few folders, and many files."""


def by_class_folders(found: FilesByFolder, where: str) -> DetectedLayout:
    """Understand <class>/..., or train/<class>/... with any usual name of validation and test beside it.

    Raises DataError, whose text begins with `where`, if there is no such layout.
    """
    folders = split_folders(found)
    copies: list[str] = []
    if not folders:
        found, copies = _without_copies(found)
        found = _chosen_classes(found, where)
        folders = split_folders(found)  # those of cat/train and cat/test stand above the classes now
    tops = {folder[0] for folder in found if folder}
    named = {} if folders else splits_in_classes(tops)
    parts, layout = {"train": found}, "class folders"
    if folders:
        _check_folders(folders, where)
        parts = {split: _inside(found, top) for top, split in folders.items()}
        if len({folder[0] for folder in parts.get("train", {}) if folder}) == 1:
            parts = {split: unwrap(part) if part else part for split, part in parts.items()}  # train/images/cat
        ordered = sorted(folders, key=lambda top: ORDER.index(folders[top]))
        layout = f"class folders in {', '.join(f'{top}/' for top in ordered)}"
    elif named and named.keys() == tops:
        parts, layout = _regrouped(found, named), "class folders named for their splits"
    splits = sort_labelled({split: _labelled(part) for split, part in parts.items()})
    if not splits["train"]:
        raise DataError(f"{where}: its pictures are in no class folder. {HINT}")
    unlabelled = [found, *parts.values()] if folders else [found]
    strays = [entry for files in unlabelled for entry in files.get((), ()) if "." in entry.file]
    notes = _beside(found, folders) if folders else _unsure(tops, named)
    return DetectedLayout(layout, splits, strays, [*copies, *notes, *_deeper(parts)])


def unwrap(found: FilesByFolder) -> FilesByFolder:
    """Leave out folders that hold all the others: an archive often has its own name as the first one."""
    longest = max(found, key=len, default=())
    common, depth = len(longest), 0
    for folder in found:
        while folder[:common] != longest[: min(common, len(folder))]:
            common -= 1
    while depth < min(common, len(longest) - 1) and not splits_among(longest[depth : depth + 1]):
        depth += 1
    inside: dict[tuple[str, ...], list[SourceFile]] = {}
    for folder, files in found.items():  # what lies beside the top folder now lies beside those in it
        inside.setdefault(folder[depth:], []).extend(files)
    return inside if depth else found


def split_folders(found: FilesByFolder) -> dict[str, str]:
    """Map top folders to splits. A folder `train` that holds no folders is a class: pictures of trains, beside cars."""
    return splits_among(folder[0] for folder in found if len(folder) > 1)


def _check_folders(folders: Mapping[str, str], where: str) -> None:
    for split in set(folders.values()):
        same = sorted(top for top in folders if folders[top] == split)
        if len(same) > 1:
            raise DataError(f"{where}: has both {same[0]}/ and {same[1]}/, which mean the same. Keep one of them.")
    if "train" not in folders.values():
        top = min(folders)
        raise DataError(f"{where}: has {top}/ but no train/. Add train/<class>/, or give the path of {top}/ itself.")


def _inside(found: FilesByFolder, top: str) -> FilesByFolder:
    """Return what a split's folder holds; one that holds nothing but another of its name (train/train/) is left out."""
    inside = {folder[1:]: files for folder, files in found.items() if folder[:1] == (top,)}
    doubled = all(len(folder) > 1 and folder[0] == top for folder in inside)
    return {folder[1:]: files for folder, files in inside.items()} if doubled else inside


def _without_copies(found: FilesByFolder) -> tuple[FilesByFolder, list[str]]:
    """Leave out a folder that holds again the folders that lie beside it, as some archives do, and say so."""
    inside: dict[str, set[str]] = {}
    for folder in filter(None, found):
        inside.setdefault(folder[0], set()).add(folder[1] if len(folder) > 1 else "")
    copies = {top for top, names in inside.items() if len(names) > 1 and top not in names and names <= inside.keys()}
    counts = dict.fromkeys(sorted(copies), 0)
    for folder, files in found.items():
        if folder and folder[0] in copies:
            counts[folder[0]] += len(files)
    return {folder: files for folder, files in found.items() if not folder or folder[0] not in copies}, first_notes(
        f"{top}/ was left out ({counted(count, 'picture')}): it holds again the folders that lie beside it."
        for top, count in counts.items()
    )


def _beside(found: FilesByFolder, folders: Mapping[str, str]) -> list[str]:
    counts: Counter[str] = Counter()
    for folder, files in found.items():
        if folder and folder[0] not in folders:
            counts[folder[0]] += len(files)
    return first_notes(
        f"{top}/ was left out ({counted(count, 'picture')}): it is no split with class folders in it."
        for top, count in sorted(counts.items())
    )


def _unsure(tops: Set[str], named: Mapping[str, tuple[str, str]]) -> list[str]:
    if not named or named.keys() == tops:
        return []
    return [
        f"{some(named)} were taken as classes, since {some(tops - named.keys())} tells no split: if they are splits, "
        "move them into train/<class>/ and test/<class>/."
    ]


def _regrouped(found: FilesByFolder, named: Mapping[str, tuple[str, str]]) -> dict[str, FilesByFolder]:
    """Return the files by split and class folder: cat_test is (cat, test)."""
    parts: dict[str, dict[tuple[str, ...], list[SourceFile]]] = {}
    for folder, files in found.items():
        if folder:
            category, split = named[folder[0]]
            parts.setdefault(split, {}).setdefault((category, *folder[1:]), []).extend(files)
    return {**parts}


def _chosen_classes(found: FilesByFolder, where: str) -> FilesByFolder:
    """Return the files by the folders that are the classes, where all hold the same ones: 2019/cat, 2020/cat.

    A few may be missing in some, if one holds all of them.

    Raises DataError that asks which of them it is, unless $PUPILA_CLASS_FOLDERS says so.
    """
    inner: dict[str, set[str]] = {}
    for folder in filter(None, found):
        inner.setdefault(folder[0], set()).add(folder[1] if len(folder) > 1 else "")
    first = max(inner.values(), key=len, default=set())
    same = len(inner) > 1 and 1 < len(first) <= MAX_CLASSES and "" not in first
    same = same and all(names <= first and 2 * len(names) > len(first) for names in inner.values())
    choice = os.environ.get(CHOICE, "")
    if same and len(splits_among(first)) == len(first):
        choice = "inner"
    elif not same or choice == "outer" or splits_in_classes(inner) or any(map(is_structure, first)):
        return found
    if choice == "inner":
        return {(folder[1], folder[0], *folder[2:]): files for folder, files in found.items() if len(folder) > 1}
    command = f"pupila data {shlex.quote(where)}"
    raise DataError(
        f"{where}: {some(inner)} hold the same folders ({some(first)}). If those are splits, rename them to train, "
        f"valid and test. If the outer ones are the classes: {CHOICE}=outer {command}. "
        f"If the inner ones are: {CHOICE}=inner {command}."
    )


def _deeper(parts: Mapping[str, FilesByFolder]) -> list[str]:
    deep = [(folder, files) for part in parts.values() for folder, files in part.items() if len(folder) > 1]
    if not deep:
        return []
    count = sum(len(files) for _, files in deep)
    folder, files = deep[0]
    example = f"{'/'.join(folder)}/{files[0].file}"
    return [f"{counted(count, 'picture')} in folders within a class folder count as that class, like {example}."]


def _labelled(part: FilesByFolder) -> list[LabelledFile]:
    items: list[LabelledFile] = []
    for folder, files in part.items():
        if folder:
            within = "".join(f"{name}/" for name in folder[1:])
            items += [LabelledFile(folder[0], within + entry.file, entry) for entry in files]
    return items


NUMBERED = re.compile(r"(?P<label>.*[^\W\d_])[ _.\-]+\(?\d+\)?")
"""A label that ends in a letter, a mark between, a number."""
CAMERAS = frozenset(
    ("img", "image", "images", "photo", "photos", "pic", "picture", "pictures", "scan", "screenshot", "frame")
) | {"pxl", "dsc", "dscn", "dscf", "dji", "gopr", "mvimg"}
"""What cameras and programs call all their pictures alike: no label."""


def by_file_names(found: FilesByFolder, *, with_splits: bool) -> DetectedLayout | None:
    """Take the label from each name; None unless nearly all names have one, in at least two classes.

    With splits, the files lie in folders named for those.
    """
    splits: dict[str, list[LabelledFile]] = {"train": []}
    strays = []
    named = splits_among(folder[0] for folder in found if folder) if with_splits else {}
    for folder, entry in ((folder, entry) for folder, files in found.items() for entry in files):
        name = entry.file
        match = NUMBERED.fullmatch(name.rpartition(".")[0])
        label = match["label"].strip(" _.-") if match else ""
        if not label or label.casefold() in CAMERAS or (with_splits and not folder):
            strays.append(entry)
            continue
        split = named[folder[0]] if with_splits else "train"
        splits.setdefault(split, []).append(LabelledFile(label, name, entry))
    items = [item for members in splits.values() for item in members]
    classes = {item.category for item in items}
    # A class of one picture for nearly every picture is a list of titles, and no data set.
    if len(classes) < 2 or len(classes) > len(items) / 2 or len(strays) > len(items) / 9 or not splits["train"]:
        return None
    example = min(items, key=lambda item: item.name)
    layout = f"labels in file names, like '{example.category}' in {example.name}"
    return DetectedLayout(layout, sort_labelled(splits), strays)
