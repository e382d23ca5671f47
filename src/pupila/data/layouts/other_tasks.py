"""Recognises data sets of another task, detection or segmentation, by their files, and says so."""

import re
from collections.abc import Sequence

from pupila.data.layouts.labelled import splits_among
from pupila.data.sources.files import SourceFile, ending_of
from pupila.errors import DataError

STRUCTURE = frozenset(
    (
        "images", "image", "img", "imgs", "jpegimages", "labels", "label", "annotations", "annotation", "masks", "mask",
        "imagesets", "segmentationclass", "segmentationobject", "groundtruth", "gt", "segmentation", "segmentations",
        "annots", "bboxes", "boxes", "data", "trainimages", "valimages", "testimages", "train2017", "val2017",
        "test2017", "trimaps", "train2014", "val2014", "test2014",
    )
)  # fmt: skip
"""Names of folders of such data sets, which are no classes, without marks between words."""
MASKS = frozenset(
    ("trimaps", "masks", "mask", "segmentationclass", "groundtruth", "gt", "segmentation", "segmentations")
)
MASK_END = re.compile(r"[_-](mask|seg|segmentation|gt|label)$")
YOLO_LINE = re.compile(rb"\s*\d+(\s+-?[\d.]+(e-?\d+)?){4,}\s*$", re.IGNORECASE | re.MULTILINE)
SAMPLE = 100
HEAD_BYTES = 2**16
FIX = "Pupila learns one class for a whole picture: cut the {things} out and put them into class folders."


def check_task(entries: Sequence[SourceFile], where: str) -> None:
    """Raise DataError if the files are a data set for detection or segmentation, and their folders are no classes."""
    pictures = [entry for entry in entries if entry.may_be_picture]
    parents = {entry.parts[:-1] for entry in pictures}
    above = {folder[-2] for folder in parents if len(folder) > 1 and not is_structure(folder[-2])}
    if any(folder and not is_structure(folder[-1]) for folder in parents) or len(above) > 1:
        return  # these are classes
    kind = _coco(entries) or _boxes(entries, pictures)
    if kind:
        raise DataError(f"{where}: is a data set for detection ({kind}). {FIX.format(things='boxes')}")
    masks = _masks(pictures)
    if masks:
        raise DataError(f"{where}: is a data set for segmentation ({masks}). {FIX.format(things='parts')}")


def is_structure(folder: str) -> bool:
    """Return whether a folder's name is that of a part of a data set, like images, and of no class."""
    plain = re.sub(r"[\s_-]+", "", folder.casefold())
    return plain in STRUCTURE or plain.startswith("voc20") or bool(splits_among([folder]))


def _coco(entries: Sequence[SourceFile]) -> str:
    """Return what shows boxes or outlines in the format of COCO."""
    for entry in entries:
        if ending_of(entry.parts[-1]) == ".json":
            text = _head(entry, 16 * HEAD_BYTES)
            if b'"annotations"' in text and b'"images"' in text and (b'"bbox"' in text or b'"segmentation"' in text):
                return f"COCO: {entry.name}"
            if b'"images"' in text[:HEAD_BYTES] and b'"file_name"' in text and "instances" in entry.parts[-1]:
                return f"COCO: {entry.name}"
    return ""


def _boxes(entries: Sequence[SourceFile], pictures: Sequence[SourceFile]) -> str:
    """Return what shows a file of boxes for most pictures: text of YOLO, or XML of Pascal VOC."""
    stems = {entry.parts[-1].rpartition(".")[0] for entry in pictures}
    for ending, title, is_box in (
        (".txt", "YOLO", lambda text: YOLO_LINE.match(text)),
        (".xml", "Pascal VOC", lambda text: b"<annotation" in text and b"<object" in text),
    ):
        files = [
            entry
            for entry in entries
            if ending_of(entry.parts[-1]) == ending and entry.parts[-1].rpartition(".")[0] in stems
        ]
        if files and len(files) >= len(pictures) / 4 and any(is_box(_head(entry)) for entry in files[:SAMPLE]):
            return f"{title}: {files[0].name}"
    return ""


def _masks(pictures: Sequence[SourceFile]) -> str:
    """Return what shows a picture of masks for most pictures."""
    masks = [entry for entry in pictures if _folders(entry) & MASKS]
    stems = {MASK_END.sub("", entry.parts[-1].rpartition(".")[0]) for entry in masks}
    others = [entry for entry in pictures if not _folders(entry) & MASKS]
    matched = sum(entry.parts[-1].rpartition(".")[0] in stems for entry in others)
    return f"masks: {masks[0].name}" if masks and matched >= max(1, len(masks) / 2) else ""


def _folders(entry: SourceFile) -> set[str]:
    return {re.sub(r"[\s_-]+", "", folder.casefold()) for folder in entry.parts[:-1]}


def _head(entry: SourceFile, most: int = HEAD_BYTES) -> bytes:
    if isinstance(entry.source, bytes):
        return entry.source[:most]
    try:
        with open(entry.source, "rb") as file:  # noqa: PTH123 - as SourceFile.read
            return file.read(most)
    except OSError:
        return b""
