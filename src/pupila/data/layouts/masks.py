"""Recognises masks: pictures of flat colours that show, for each pixel of another picture, what is there."""

import re
from collections.abc import Sequence

import numpy as np

from pupila import images
from pupila.data.layouts.labelled import MASKS, words_of
from pupila.data.sources.files import SourceFile
from pupila.errors import ImageError

MASK_NAME = re.compile(rf"(.+?)(?<![ _.-])[ _.-]+(?:{'|'.join(sorted(MASKS))})(?:[ _.-]?\d+)?")
"""What follows a picture's name in that of its mask, as in cat_1_mask or cat_1_mask_2."""
SURE = re.compile("mask|seg|trimap|truth|matte")
"""What the names of folders hold that are for masks only; `labels` may be others."""
LOOKED_AT = 12
"""Masks that are decoded, evenly spaced: all must be flat."""
SIDE, COLOURS, FLAT = 64, 16, 0.7
"""The share of a mask's pixels that its most frequent colours have; what is left are edges that scaling blurs."""


def task_of_masks(pictures: Sequence[SourceFile]) -> str:
    """Return what shows a picture of masks for most pictures: of its name, or with a word before or behind it."""
    masks = [entry for entry in pictures if any(words_of(folder) & MASKS for folder in entry.parts[:-1])]
    names = {entry.name for entry in masks}
    stems = {_stem(entry) for entry in masks}
    stems |= {part for stem in stems for part in (*re.split(r"[_-](?=[^_-]*$)", stem)[:1], stem.partition("_")[2])}
    others = [entry for entry in pictures if entry.name not in names]
    matched = sum(_stem(entry) in stems for entry in others)
    return f"masks: {masks[0].name}" if masks and matched >= max(1, len(masks) / 2) else ""


def masks_beside(pictures: Sequence[SourceFile]) -> list[SourceFile]:
    """Return the masks among the pictures of class folders; none unless names and pixels say so.

    A mask is named for a picture in its folder, like 1.jpg and 1_mask.png, or lies in a folder of masks, under the name
    of a picture elsewhere. Half of the pictures there must have one, and those that are looked at must be flat.
    """
    named = {(*entry.parts[:-1], _stem(entry)) for entry in pictures}
    elsewhere = {_stem(entry): entry.ending for entry in pictures if not _in_folder_of_masks(entry)}
    masks: list[SourceFile] = []
    shown: set[object] = set()
    for entry in pictures:
        match = MASK_NAME.fullmatch(_stem(entry))
        own = match[1] if match else _stem(entry)
        if match and (*entry.parts[:-1], own) in named:
            masks.append(entry)
            shown.add((*entry.parts[:-1], own))
        elif _in_folder_of_masks(entry) and own in elsewhere:
            sure = SURE.search(entry.parts[-2].casefold())
            if sure or elsewhere[own] != entry.ending:
                masks.append(entry)
                shown.add(own)
    folders = {entry.parts[:-1] for entry in masks}
    among = sum(entry.parts[:-1] in folders for entry in pictures) - len(masks)
    sample = masks[:: max(1, len(masks) // LOOKED_AT)]
    return masks if len(shown) >= among / 2 and all(map(_is_flat, sample)) else []


def _in_folder_of_masks(entry: SourceFile) -> bool:
    return len(entry.parts) > 1 and bool(words_of(entry.parts[-2]) & MASKS)


def _stem(entry: SourceFile) -> str:
    return entry.stem.casefold()


def _is_flat(entry: SourceFile) -> bool:
    """Return whether few colours make up a picture; False for one that cannot be read."""
    try:
        pixels = images.decode(entry.source, SIDE)
    except (ImageError, OSError):
        return False
    _, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    return bool(np.sort(counts)[-COLOURS:].sum() >= FLAT * SIDE**2)
