"""Labels from folders: one folder a class, with or without train/, valid/ and test/ above. Knows names only."""

from collections.abc import Mapping

from pupila.data.entries import Entry
from pupila.data.layout import HINT, SPLIT_NAMES, Arranged, Labelled, sort_labelled
from pupila.errors import DataError

Found = list[tuple[tuple[str, ...], Entry]]
"""Files with the part of their path that still counts."""


def by_class_folders(found: Found, where: str) -> Arranged:
    """Understand <class>/..., or train/<class>/... with any usual name of validation and test beside it.

    Raises DataError, whose text begins with `where`, if there is no such layout.
    """
    folders = split_folders(found)
    parts = {"train": found}
    if folders:
        _check_folders(folders, where)
        parts = {split: [(path[1:], e) for path, e in found if path[0] == top] for top, split in folders.items()}
    splits = {split: _labelled(parts[split]) for split in sorted(parts)}
    if not splits["train"]:
        raise DataError(f"{where}: its pictures are in no class folder. {HINT}")
    used = {id(item.entry) for members in splits.values() for item in members}
    strays = [] if len(used) == len(found) else [e for _, e in found if id(e) not in used and "." in e.parts[-1]]
    strays.sort(key=lambda entry: entry.parts)
    layout = f"class folders in {', '.join(f'{top}/' for top in _in_order(folders))}" if folders else "class folders"
    return Arranged(layout, splits, strays)


def unwrap(found: Found) -> Found:
    """Leave out folders that hold all the others: an archive often has its own name as the first one."""
    while True:
        top = {path[0] for path, _ in found if len(path) > 1}
        if len(top) != 1 or split_folders(found) or max(len(path) for path, _ in found) < 3:
            return found
        found = [(path[1:] if len(path) > 1 else path, entry) for path, entry in found]


def split_folders(found: Found) -> dict[str, str]:
    """Map top folders to splits. A folder `train` that holds no folders is a class: pictures of trains, beside cars."""
    holding_folders = {path[0] for path, _ in found if len(path) > 2}
    return {top: SPLIT_NAMES[top.casefold()] for top in holding_folders if top.casefold() in SPLIT_NAMES}


def _in_order(folders: Mapping[str, str]) -> list[str]:
    return sorted(folders, key=lambda top: ("train", "validation", "test").index(folders[top]))


def _check_folders(folders: Mapping[str, str], where: str) -> None:
    for split in set(folders.values()):
        same = sorted(top for top in folders if folders[top] == split)
        if len(same) > 1:
            raise DataError(f"{where}: has both {same[0]}/ and {same[1]}/, which mean the same. Keep one of them.")
    if "train" not in folders.values():
        top = min(folders)
        raise DataError(f"{where}: has {top}/ but no train/. Add train/<class>/, or give the path of {top}/ itself.")


def _labelled(found: Found) -> list[Labelled]:
    return sort_labelled(Labelled(path[0], "/".join(path[1:]), entry) for path, entry in found if len(path) > 1)
