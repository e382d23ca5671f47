"""Labels from the names of files that lie in one folder: cat_001.jpg, dog.17.png. Knows names only."""

import re

from pupila.data.layouts.class_folders import Found
from pupila.data.layouts.files_by_folder import Arranged, Labelled, sort_labelled, splits_among

NUMBERED = re.compile(r"(?P<label>.*[^\W\d_])[ _.\-]+\(?\d+\)?")
"""A label that ends in a letter, a mark between, a number."""
CAMERAS = frozenset(
    ("img", "image", "images", "photo", "photos", "pic", "picture", "pictures", "scan", "screenshot", "frame")
) | {"pxl", "dsc", "dscn", "dscf", "dji", "gopr", "mvimg"}
"""What cameras and programs call all their pictures alike: no label."""


def by_file_names(found: Found, *, with_splits: bool) -> Arranged | None:
    """Take the label from each name; None unless nearly all names have one, in at least two classes.

    With splits, the files lie in folders named for those.
    """
    splits: dict[str, list[Labelled]] = {"train": []}
    strays = []
    named = splits_among(folder[0] for folder in found if folder) if with_splits else {}
    for folder, entry in ((folder, entry) for folder, files in found.items() for entry in files):
        name = entry.parts[-1]
        match = NUMBERED.fullmatch(name.rpartition(".")[0])
        label = match["label"].strip(" _.-") if match else ""
        if not label or label.casefold() in CAMERAS or (with_splits and not folder):
            strays.append(entry)
            continue
        split = named[folder[0]] if with_splits else "train"
        splits.setdefault(split, []).append(Labelled(label, name, entry))
    items = [item for members in splits.values() for item in members]
    classes = {item.category for item in items}
    # A class of one picture for nearly every picture is a list of titles, and no data set.
    if len(classes) < 2 or len(classes) > len(items) / 2 or len(strays) > len(items) / 9 or not splits["train"]:
        return None
    ordered = {split: sort_labelled(splits[split]) for split in sorted(splits)}
    example = min(items, key=lambda item: item.name)
    return Arranged(f"labels in file names, like '{example.category}' in {example.name}", ordered, strays)
