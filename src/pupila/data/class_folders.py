"""Labels from folders: one folder a class, with or without train/, valid/ and test/ above. Knows names only."""

from collections import Counter
from collections.abc import Mapping, Sequence

from pupila.data.entries import Entry
from pupila.data.layout import HINT, Arranged, Labelled, some, sort_labelled, splits_among
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
        parts = {split: _inside(found, top) for top, split in folders.items()}
    splits = {split: _labelled(parts[split]) for split in sorted(parts)}
    if not splits["train"]:
        raise DataError(f"{where}: its pictures are in no class folder. {HINT}")
    used = {id(item.entry) for members in splits.values() for item in members}
    unused = [] if len(used) == len(found) else [item for item in found if id(item[1]) not in used]
    beside = Counter(path[0] for path, _ in unused if folders and len(path) > 1 and path[0] not in folders)
    strays = [e for path, e in unused if (len(path) < 2 or path[0] not in beside) and "." in e.parts[-1]]
    strays.sort(key=lambda entry: entry.parts)
    notes = [
        f"{top}/ was left out ({count:,} {_pictures(count)}): it is no split with class folders in it."
        for top, count in sorted(beside.items())
    ]
    notes += [*_same_folders(splits["train"]), *_deeper(splits)]
    layout = f"class folders in {', '.join(f'{top}/' for top in _in_order(folders))}" if folders else "class folders"
    return Arranged(layout, splits, strays, notes)


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
    return splits_among(holding_folders)


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


def _inside(found: Found, top: str) -> Found:
    """Return what a split's folder holds; one that holds nothing but another of its name (train/train/) is left out."""
    inside = [(path[1:], entry) for path, entry in found if path[0] == top]
    doubled = all(len(path) > 2 and path[0] == top for path, _ in inside)
    return [(path[1:], entry) for path, entry in inside] if doubled else inside


def _same_folders(items: Sequence[Labelled]) -> list[str]:
    """Say that all classes hold the same folders: 2019/cat, 2019/dog, 2020/cat, 2020/dog."""
    inner: dict[str, set[str]] = {}
    for item in items:
        inner.setdefault(item.category, set()).update(item.name.split("/")[:-1][:1] or [""])
    first = next(iter(inner.values()), set())
    if len(inner) < 2 or len(first) < 2 or "" in first or any(names != first for names in inner.values()):
        return []
    return [
        f"{some(inner)} were taken as the classes, and all hold the same folders ({some(first)}): if those are the "
        "classes, move them up, or name the folders above them train and test."
    ]


def _deeper(splits: Mapping[str, Sequence[Labelled]]) -> list[str]:
    """Say how many pictures lie deeper than their class folder."""
    deep = [item for members in splits.values() for item in members if "/" in item.name]
    if not deep:
        return []
    example = f"{deep[0].category}/{deep[0].name} as {deep[0].category}"
    return [f"{len(deep):,} {_pictures(len(deep))} in folders within a class folder count as that class: {example}."]


def _pictures(count: int) -> str:
    return "picture" if count == 1 else "pictures"


def _labelled(found: Found) -> list[Labelled]:
    return sort_labelled(Labelled(path[0], "/".join(path[1:]), entry) for path, entry in found if len(path) > 1)
