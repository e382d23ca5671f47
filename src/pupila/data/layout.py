"""Which file is of which split and which class, told from folder names alone. Knows nothing of bytes or pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pupila.data.entries import Entry
from pupila.errors import DataError

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "val": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
HINT = "Put them into one folder a class, like cat/1.jpg and dog/1.jpg."


@dataclass(frozen=True)
class Labelled:
    """A file with its class and its name within the class folder."""

    category: str
    name: str
    entry: Entry


@dataclass(frozen=True)
class Arranged:
    """Labelled files by split, sorted by class, then by name; and the files that are in no class folder."""

    splits: Mapping[str, Sequence[Labelled]]
    strays: Sequence[Entry]


Found = list[tuple[tuple[str, ...], Entry]]
"""Files with the part of their path that still counts."""


def arrange(entries: Sequence[Entry], where: str) -> Arranged:
    """Tell the splits and classes of files apart.

    Understands <class>/..., train/<class>/... with valid|val|validation/ and test/ beside it, and either of them
    within wrapping folders. Raises DataError, whose text begins with `where`, if there is no such layout.
    """
    found: Found = [(entry.parts, entry) for entry in entries if entry.may_be_picture]
    if not found:
        raise DataError(f"{where}: there are no pictures in it. {HINT}")
    found = _unwrap(found)
    folders = _split_folders(found)
    parts = {"train": found}
    if folders:
        _check_folders(folders, where)
        parts = {split: [(path[1:], e) for path, e in found if path[0] == top] for top, split in folders.items()}
    splits = {split: _labelled(parts[split]) for split in sorted(parts)}
    if not splits["train"]:
        raise DataError(f"{where}: its pictures are in no class folder. {HINT}")
    used = {id(item.entry) for members in splits.values() for item in members}
    strays = sorted((e for _, e in found if id(e) not in used and "." in e.parts[-1]), key=lambda entry: entry.parts)
    return Arranged(splits, strays)


def class_names(splits: Mapping[str, Sequence[Labelled]], where: str) -> tuple[str, ...]:
    """Return the classes of train, sorted; raises DataError if there is one only, or another split has one more."""
    classes = {item.category for item in splits["train"]}
    if len(classes) < 2:
        raise DataError(f"{where}: has one class only, '{min(classes)}'. Put a folder of another class beside it.")
    for split, members in splits.items():
        own = {item.category for item in members}
        if own - classes:
            missing = f" It lacks {_some(classes - own)}." if classes - own else ""
            raise DataError(
                f"{where}: {split} has classes that train lacks: {_some(own - classes)}.{missing} Name them alike."
            )
    return tuple(sorted(classes))


def _unwrap(found: Found) -> Found:
    """Leave out folders that hold all the others: an archive often has its own name as the first one."""
    while True:
        top = {path[0] for path, _ in found if len(path) > 1}
        if len(top) != 1 or _split_folders(found) or max(len(path) for path, _ in found) < 3:
            return found
        found = [(path[1:] if len(path) > 1 else path, entry) for path, entry in found]


def _split_folders(found: Found) -> dict[str, str]:
    """Map top folders to splits. A folder `train` that holds no folders is a class: pictures of trains, beside cars."""
    holding_folders = {path[0] for path, _ in found if len(path) > 2}
    return {top: SPLIT_FOLDERS[top.casefold()] for top in holding_folders if top.casefold() in SPLIT_FOLDERS}


def _check_folders(folders: Mapping[str, str], where: str) -> None:
    for split in set(folders.values()):
        same = sorted(top for top in folders if folders[top] == split)
        if len(same) > 1:
            raise DataError(f"{where}: has both {same[0]}/ and {same[1]}/, which mean the same. Keep one of them.")
    if "train" not in folders.values():
        top = min(folders)
        raise DataError(f"{where}: has {top}/ but no train/. Add train/<class>/, or give the path of {top}/ itself.")


def _labelled(found: Found) -> list[Labelled]:
    labelled = [Labelled(path[0], "/".join(path[1:]), entry) for path, entry in found if len(path) > 1]
    return sorted(labelled, key=lambda item: (item.category, item.name))


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
