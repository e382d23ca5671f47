"""Detects the layout of a data set's files: parquet, tables, class folders, file names, or another task's."""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pupila._arguments import counted
from pupila.data.layouts.class_folders import FilesByFolder, by_class_folders, by_file_names, split_folders, unwrap
from pupila.data.layouts.labelled import (
    FIX,
    HINT,
    DetectedLayout,
    check_class_count,
    is_structure,
    joined,
    splits_among,
)
from pupila.data.layouts.masks import masks_beside, task_of_masks
from pupila.data.layouts.parquet import by_parquet, is_parquet
from pupila.data.layouts.tables import by_tables, find_tables, pixels_in
from pupila.data.sources.files import UNREAD, VIDEOS, SourceFile, SourceFiles, display_name
from pupila.errors import DataError

YOLO_LINE = re.compile(rb"\s*\d+(\s+-?[\d.]+(e-?\d+)?){4,}\s*$", re.IGNORECASE | re.MULTILINE)
SHAPES = {
    "LabelMe": (b'"shapes"', b'"points"', b'"imagePath"'),
    "VIA": (b'"regions"', b'"shape_attributes"'),
    "Label Studio": (b'"rectanglelabels"',),
    "metadata with boxes": (b'"file_name"', b'"bbox"'),
    "CVAT": (b"<annotations>", b"<image ", b'" xtl="'),
    "CVAT, outlines": (b"<annotations>", b"<image ", b'points="'),
}
"""What stands in the files of tools for drawing boxes and outlines."""
SAMPLE = 100
HEAD_BYTES = 2**16


def detect_layout(collected: SourceFiles, where: str) -> DetectedLayout:
    """Tell the splits and classes of files apart.

    Raises DataError, whose text begins with `where`, if there is no arrangement in them that is sure to be right.
    """
    arranged = _detect(collected.entries, where)
    arranged.skipped.add_all(collected.skipped)
    return replace(arranged, notes=(*collected.notes, *arranged.notes))


def _detect(entries: Sequence[SourceFile], where: str) -> DetectedLayout:
    if is_parquet(entries):
        return by_parquet(entries, where)
    found = _pictures_by_folder(entries)
    if not found:
        if pixels := pixels_in(entries):
            raise DataError(f"{where}: there are no pictures in it. {pixels}")
        raise DataError(
            " ".join([f"{where}: there are no pictures in it. {HINT}", *_passed_over(entries), *_unread(entries)])
        )
    tables, unused = find_tables(entries)
    if tables:
        arranged = by_tables(tables, entries, where)
    else:
        try:
            check_class_count({folder[0] for folder in unwrap(found) if folder}, where, one_class=True)
            _check_task(entries, where)
            arranged = _without_masks(entries, where)
        except DataError as error:
            raise DataError(" ".join([str(error), *unused])) from None
    unused += _unread(entries)
    categories = {item.category for members in arranged.splits.values() for item in members}
    if unused and len(categories) < 2:  # one of these tables is likely to hold the labels
        only = display_name(min(categories))
        raise DataError(" ".join([f"{where}: the only class folder is {only}.", *unused]))
    return replace(arranged, notes=(*arranged.notes, *unused, *_passed_over(entries)))


def _without_masks(entries: Sequence[SourceFile], where: str) -> DetectedLayout:
    """Take the labels from the names, and leave out masks; raises DataError if the pictures have no classes."""
    pictures = [entry for entry in entries if entry.may_be_picture]
    masks = masks_beside(pictures)
    left_out = {mask.parts for mask in masks}
    try:
        found = _pictures_by_folder(picture for picture in pictures if picture.parts not in left_out)
        arranged = _by_names(unwrap(found), where)
    except DataError:
        if not masks:
            raise
        kind = f"masks: {masks[0].name}"
        raise DataError(f"{where}: is a data set for segmentation ({kind}). {FIX.format(things='parts')}") from None
    note = f"Left out {counted(len(masks), 'mask')} of parts of the pictures, like {masks[0].name}." if masks else ""
    return replace(arranged, notes=(*arranged.notes, note)) if masks else arranged


def _passed_over(entries: Sequence[SourceFile]) -> list[str]:
    """Say which videos were passed over: videos beside a picture of the same name are Live Photos."""
    videos = [entry for entry in entries if entry.ending in VIDEOS]
    stems = {_stem(entry) for entry in entries if entry.may_be_picture}
    alone = [entry for entry in videos if _stem(entry) not in stems]
    live = len(videos) - len(alone)
    notes = [f"Passed over {counted(live, 'video')} of Live Photos: their pictures are used."] if live else []
    if alone:
        example = f"{counted(len(alone), 'video')}, like {alone[0].name}"
        notes.append(f"Passed over {example}: save pictures out of videos to use them.")
    return notes


def _unread(entries: Sequence[SourceFile]) -> list[str]:
    unread = [entry for entry in entries if entry.ending in UNREAD]
    if not unread:
        return []
    example = f"{counted(len(unread), 'file')} of a kind that is not read, like {unread[0].name}"
    return [f"Passed over {example}: unpack such files into class folders."]


def _stem(entry: SourceFile) -> tuple[str, ...]:
    return (*entry.parts[:-1], entry.stem.casefold())


def _pictures_by_folder(entries: Iterable[SourceFile]) -> FilesByFolder:
    found: dict[tuple[str, ...], list[SourceFile]] = {}
    for entry in entries:
        if entry.may_be_picture:
            found.setdefault(entry.parts[:-1], []).append(entry)
    return found


def _by_names(found: FilesByFolder, where: str) -> DetectedLayout:
    tops = {folder[0] for folder in found if folder}
    if not split_folders(found) and len(tops) > 1 and len(splits_among(tops)) == len(tops):
        # train/1.jpg beside test/1.jpg: as class folders these would be the classes `train` and `test`
        by_name = by_file_names(found, with_splits=True)
        if by_name is None:
            raise DataError(
                f"{where}: {joined(sorted(f'{top}/' for top in tops))} hold pictures without labels. Put them "
                "into class folders, like train/cat/1.jpg, or add a table of path,label, like train.csv."
            )
        return by_name
    by_name = by_file_names(found, with_splits=False) if len(tops) < 2 else None
    return by_name or by_class_folders(found, where)


def _check_task(entries: Sequence[SourceFile], where: str) -> None:
    """Raise DataError if the files are a data set for detection or segmentation, and their folders are no classes."""
    pictures = [entry for entry in entries if entry.may_be_picture]
    parents = {entry.parts[:-1] for entry in pictures}
    above = _two_classes(folder[-2] for folder in parents if len(folder) > 1)
    within = _two_classes(folder[-1] for folder in parents if folder)
    if len(within) > 1 or len(above) > 1:
        return  # these are classes
    kind = _shapes(entries) or _boxes(entries, pictures)
    if kind:
        raise DataError(f"{where}: is a data set for detection ({kind}). {FIX.format(things='boxes')}")
    masks = "" if within else task_of_masks(pictures)
    if masks:
        raise DataError(f"{where}: is a data set for segmentation ({masks}). {FIX.format(things='parts')}")


def _two_classes(folders: Iterable[str]) -> list[str]:
    """Return the first two names of folders that may be classes: of thousands, each costs time."""
    return list(itertools.islice(itertools.filterfalse(is_structure, dict.fromkeys(folders)), 2))


def _shapes(entries: Sequence[SourceFile]) -> str:
    """Return which file of a tool for drawing boxes and outlines there is."""
    files = [entry for entry in entries if entry.ending in (".json", ".jsonl", ".xml")]
    for entry in files[:SAMPLE]:
        text = _head(entry, 16 * HEAD_BYTES)
        if b'"annotations"' in text and b'"images"' in text and (b'"bbox"' in text or b'"segmentation"' in text):
            return f"COCO: {entry.name}"
        if b'"images"' in text[:HEAD_BYTES] and b'"file_name"' in text and "instances" in entry.file:
            return f"COCO: {entry.name}"
        for title, signs in SHAPES.items():
            if all(sign in text for sign in signs):
                return f"{title}: {entry.name}"
    return ""


def _boxes(entries: Sequence[SourceFile], pictures: Sequence[SourceFile]) -> str:
    """Return what shows a file of boxes for most pictures: text of YOLO, or XML of Pascal VOC."""
    stems = {entry.stem for entry in pictures}
    for ending, title, is_box in (
        (".txt", "YOLO", lambda text: YOLO_LINE.match(text)),
        (".xml", "Pascal VOC", lambda text: b"<annotation" in text and b"<object" in text),
    ):
        files = [entry for entry in entries if entry.ending == ending and entry.stem in stems]
        if files and len(files) >= len(pictures) / 4 and any(is_box(_head(entry)) for entry in files[:SAMPLE]):
            return f"{title}: {files[0].name}"
    return ""


def _head(entry: SourceFile, most: int = HEAD_BYTES) -> bytes:
    try:
        return entry.read(most)
    except OSError:
        return b""
