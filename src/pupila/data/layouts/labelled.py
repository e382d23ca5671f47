"""Which file is of which split and which class, and which arrangement told so. Knows nothing of bytes or pixels.

Each arrangement has a file of its own; what they have in common, and the classes bound by name, are here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from pupila.data.dataset import Skipped
from pupila.data.sources.files import SourceFile
from pupila.errors import DataError

WORDS = {
    "train": ("train", "training"),
    "validation": ("valid", "val", "validation", "dev", "eval", "evaluation", "publictest"),
    "test": ("test", "testing", "tests", "holdout", "privatetest"),
}
SPLIT_NAMES = {word + end: split for split, words in WORDS.items() for word in words for end in ("", "set")}
"""What folders, tables and parquet files call the three splits, in small letters; see split_of()."""
WITHIN = re.compile(
    r"(?P<before>(?:.*[\s_.-])?)"
    rf"(?P<split>{'|'.join(f'{word}(?:[ _-]?set)?' for words in WORDS.values() for word in words)})"
    r"(?P<after>(?:[\s_.-].*)?)",
    re.IGNORECASE,
)
"""The name of a split between two marks or ends: seg_train, test-images."""
HINT = "Put them into one folder a class, like cat/1.jpg and dog/1.jpg."


class LabelledFile(NamedTuple):
    """A file with its class and its name within the class."""

    category: str
    name: str
    entry: SourceFile


@dataclass(frozen=True)
class DetectedLayout:
    """LabelledFile files by split, sorted by class, then by name, and what was left out."""

    layout: str
    """What the arrangement was recognised as, in a few words for the user."""
    splits: Mapping[str, Sequence[LabelledFile]]
    strays: Sequence[SourceFile] = ()
    """Pictures that have no label."""
    notes: Sequence[str] = field(default=())
    """What was passed over on purpose, one sentence each."""
    skipped: Sequence[Skipped] = ()
    """What could not be used before it was even read."""


def sort_labelled(items: Iterable[LabelledFile]) -> list[LabelledFile]:
    """Sort by class, then by name: the order that a seed's split depends on."""
    return sorted(items, key=itemgetter(0, 1))


def class_names(splits: Mapping[str, Sequence[LabelledFile]], where: str) -> tuple[str, ...]:
    """Return the classes of train, sorted.

    Raises DataError if there is one only, if another split has one more, or if a name is no text.
    """
    classes = {item.category for item in splits["train"]}
    for name in classes:
        shown = name.encode("utf-8", "backslashreplace").decode()
        if shown != name:  # a folder from an old archive; answers could not be written down
            raise DataError(f"{where}: the name of the class '{shown}' is not in UTF-8. Rename its folder.")
    if len(classes) < 2:
        raise DataError(f"{where}: has one class only, '{min(classes)}'. Put a folder of another class beside it.")
    for split, members in splits.items():
        own = {item.category for item in members}
        if own - classes:
            missing = f" It lacks {some(classes - own)}." if classes - own else ""
            raise DataError(
                f"{where}: {split} has classes that train lacks: {some(own - classes)}.{missing} Name them alike."
            )
    return tuple(sorted(classes))


def alike(classes: Iterable[str]) -> list[str]:
    """Return a sentence on each group of classes that differ in nothing but capitals, spaces, lines and dots."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(re.sub(r"[\s_.-]+", "", name).casefold() or name, []).append(name)
    return [
        f"{' and '.join(repr(name) for name in group)} are different classes: name them alike if they are one."
        for group in groups.values()
        if len(group) > 1
    ]


def some(names: Iterable[str]) -> str:
    """Join the first five names, and count the others."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:5])
    return f"{shown} and {len(ordered) - 5:,} more" if len(ordered) > 5 else shown


def split_of(name: str) -> str | None:
    """Return the split that a name means, however it is written: Test, test_set, Test Set; None if it means none."""
    return SPLIT_NAMES.get(re.sub(r"[\s_-]+", "", name.casefold()))


def splits_among(names: Iterable[str]) -> dict[str, str]:
    """Map those names that mean a split to it.

    Where none does, all may have one beginning or end in common, as seg_train, seg_test and seg_pred have: what stands
    between counts then, if train and another split are among them.
    """
    names = sorted(set(names))
    plain = {name: split for name in names if (split := split_of(name))}
    if plain:
        return plain
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for name in names:
        match = WITHIN.fullmatch(name)
        if match and (split := split_of(match["split"])):
            groups.setdefault((match["before"].casefold(), match["after"].casefold()), {})[name] = split
    for (before, after), found in groups.items():
        shared = all(name.casefold().startswith(before) and name.casefold().endswith(after) for name in names)
        if shared and len(set(found.values())) > 1 and "train" in found.values():
            return found
    return {}


def splits_in_classes(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Map names like cat_train and dog-test to class and split; none unless train shares a class with another split."""
    matches = {name: match for name in names if (match := WITHIN.fullmatch(name))}
    found = {n: ((m["before"] + m["after"]).strip(" _.-"), split_of(m["split"]) or "") for n, m in matches.items()}
    found = {name: told for name, told in found.items() if told[0]}
    trained = {category for category, split in found.values() if split == "train"}
    return found if any(told[0] in trained and told[1] != "train" for told in found.values()) else {}


def splits_of_files(files: Sequence[SourceFile]) -> list[str | None]:
    """Return the split that the name of each file tells, or of the folder that it lies in; None where neither does."""
    stems = [re.sub(r"(-\d+-of-\d+)?\.\w+$", "", file.parts[-1]) for file in files]
    among = splits_among(stems)
    return [
        split_named(stem) or among.get(stem) or (split_of(file.parts[-2]) if len(file.parts) > 1 else None)
        for file, stem in zip(files, stems, strict=True)
    ]


def split_named(name: str) -> str | None:
    """Return the split that a file's name begins with, as in train-00000-of-00002 or testLabels; None if with none."""
    small = name.casefold()
    known = sorted((word for word in SPLIT_NAMES if small.startswith(word)), key=len)
    rest = name[len(known[-1]) :] if known else ""
    begins = not rest or not rest[0].isalpha() or rest[0].isupper() or rest.casefold() in ("labels", "ing")
    return SPLIT_NAMES[known[-1]] if known and begins else None
