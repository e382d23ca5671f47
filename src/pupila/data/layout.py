"""Which file is of which split and which class, told from folder names alone. Knows nothing of bytes or pixels."""

from collections.abc import Sequence
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


@dataclass(frozen=True)
class Labelled:
    """A file with its class and its name within the split's class folder."""

    category: str
    name: str
    entry: Entry


def arrange(entries: Sequence[Entry], where: str) -> dict[str, list[Labelled]]:
    """Return the files of each split (train, validation, test), sorted by class, then by name.

    Understands <class>/..., train/<class>/... with valid|val|validation/ and test/ beside it, and either of them
    within wrapping folders. Raises DataError, whose text begins with `where`, if there is no such layout.
    """
    found = [(entry.parts, entry) for entry in entries if entry.may_be_picture]
    if not found:
        raise DataError(
            f"{where}: holds no picture. Put pictures into one folder a class, like cat/1.jpg and dog/1.jpg."
        )
    while _is_wrapped(found):
        found = [(parts[1:], entry) for parts, entry in found]
    folders = _split_folders(found)
    if not folders:
        return {"train": _by_class([(parts, entry) for parts, entry in found if len(parts) > 1], where)}
    _check_folders(folders, where)
    return {
        folders[top]: _by_class([(parts[1:], e) for parts, e in found if parts[0] == top], where)
        for top in sorted(folders)
    }


Found = list[tuple[tuple[str, ...], Entry]]


def _is_wrapped(found: Found) -> bool:
    """True if all is in one folder that holds further folders, and that folder is not a split's."""
    top = {parts[0] for parts, _ in found}
    return len(top) == 1 and max(len(parts) for parts, _ in found) > 2 and not _split_folders(found)


def _split_folders(found: Found) -> dict[str, str]:
    """Map top folders to splits. A folder `train` with pictures right in it is a class: of trains, beside cars."""
    folders: dict[str, str] = {}
    for top in {parts[0] for parts, _ in found if len(parts) > 2}:
        split = SPLIT_FOLDERS.get(top.casefold())
        if split and not any(len(parts) == 2 for parts, _ in found if parts[0] == top):
            folders[top] = split
    return folders


def _check_folders(folders: dict[str, str], where: str) -> None:
    for split in set(folders.values()):
        same = sorted(top for top in folders if folders[top] == split)
        if len(same) > 1:
            raise DataError(f"{where}: has both {same[0]}/ and {same[1]}/, which mean the same. Keep one of them.")
    if "train" not in folders.values():
        top = min(folders)
        raise DataError(f"{where}: has {top}/ but no train/. Add train/<class>/, or give the path of {top}/ itself.")


def _by_class(found: Found, where: str) -> list[Labelled]:
    if not found:
        raise DataError(
            f"{where}: its pictures are in no class folder. Put them into one folder a class, like cat/1.jpg."
        )
    labelled = [Labelled(parts[0], "/".join(parts[1:]), entry) for parts, entry in found]
    return sorted(labelled, key=lambda item: (item.category, item.name))


def class_names(arranged: dict[str, list[Labelled]], where: str) -> tuple[str, ...]:
    """Return the classes of train, sorted; raises DataError if it has only one, or another split has one more."""
    classes = sorted({item.category for item in arranged["train"]})
    if len(classes) < 2:
        raise DataError(
            f"{where}: has one class only ('{classes[0]}'). Put pictures of at least two classes beside it."
        )
    for split, items in arranged.items():
        unknown = sorted({item.category for item in items} - set(classes))
        if unknown:
            missing = sorted(set(classes) - {item.category for item in items})
            only = f"; only in train: {_some(missing)}" if missing else ""
            raise DataError(
                f"{where}: {split} has classes that train lacks: {_some(unknown)}{only}. Name the folders alike in both."
            )
    return tuple(classes)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
