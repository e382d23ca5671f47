"""Detects the layout of a data set's files: parquet, tables of labels, class folders, labels in the file names."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pupila._names import counted
from pupila.data.layouts.class_folders import FilesByFolder, by_class_folders, by_file_names, split_folders, unwrap
from pupila.data.layouts.labelled import HINT, DetectedLayout, splits_among
from pupila.data.layouts.other_tasks import check_task
from pupila.data.layouts.parquet import by_parquet, is_parquet
from pupila.data.layouts.tables import by_tables, find_tables
from pupila.data.sources.file_names import display_name
from pupila.data.sources.files import UNREAD, VIDEOS, SourceFile, SourceFiles, ending_of
from pupila.errors import DataError


def detect_layout(collected: SourceFiles, where: str) -> DetectedLayout:
    """Tell the splits and classes of files apart.

    Raises DataError, whose text begins with `where`, if there is no arrangement in them that is sure to be right.
    """
    arranged = _detect(collected.entries, where)
    skipped = (*arranged.skipped, *collected.skipped)
    return replace(arranged, notes=(*collected.notes, *arranged.notes), skipped=skipped)


def _detect(entries: Sequence[SourceFile], where: str) -> DetectedLayout:
    if is_parquet(entries):
        return by_parquet(entries, where)
    found = _pictures_by_folder(entries)
    if not found:
        raise DataError(" ".join([f"{where}: there are no pictures in it. {HINT}", *_passed_over(entries)]))
    tables, unused = find_tables(entries)
    if tables:
        arranged = by_tables(tables, entries, where)
    else:
        try:
            check_task(entries, where)
            arranged = _by_names(unwrap(found), where)
        except DataError as error:
            raise DataError(" ".join([str(error), *unused])) from None
    _check_classes(arranged, where, unused)
    return replace(arranged, notes=(*arranged.notes, *unused, *_passed_over(entries)))


def _check_classes(arranged: DetectedLayout, where: str, unused: Sequence[str]) -> None:
    """Raise DataError if a table that is not used is likely to hold the labels."""
    if unused and len({item.category for members in arranged.splits.values() for item in members}) < 2:
        only = display_name(arranged.splits["train"][0].category)
        raise DataError(" ".join([f"{where}: the only class folder is {only}.", *unused]))


def _passed_over(entries: Sequence[SourceFile]) -> list[str]:
    """Say which videos and archives were passed over: videos beside a picture of the same name are Live Photos."""
    videos = [entry for entry in entries if ending_of(entry.parts[-1]) in VIDEOS]
    unread = [entry for entry in entries if ending_of(entry.parts[-1]) in UNREAD]
    if not videos and not unread:
        return []
    stems = {_stem(entry) for entry in entries if entry.may_be_picture}
    alone = [entry for entry in videos if _stem(entry) not in stems]
    live = len(videos) - len(alone)
    notes = [f"Passed over {counted(live, 'video')} of Live Photos: their pictures are used."] if live else []
    if alone:
        example = f"{counted(len(alone), 'video')}, like {alone[0].name}"
        notes.append(f"Passed over {example}: save pictures out of videos to use them.")
    if unread:
        example = f"{counted(len(unread), 'file')} of a kind that is not read, like {unread[0].name}"
        notes.append(f"Passed over {example}: unpack such files into class folders.")
    return notes


def _stem(entry: SourceFile) -> tuple[str, ...]:
    return (*entry.parts[:-1], entry.parts[-1].rpartition(".")[0].casefold())


def _pictures_by_folder(entries: Iterable[SourceFile]) -> FilesByFolder:
    found: dict[tuple[str, ...], list[SourceFile]] = {}
    for entry in entries:
        if entry.may_be_picture:
            found.setdefault(entry.parts[:-1], []).append(entry)
    return found


def _by_names(found: FilesByFolder, where: str) -> DetectedLayout:
    """Take the labels from the names of files or folders."""
    tops = {folder[0] for folder in found if folder}
    if not split_folders(found) and len(tops) > 1 and len(splits_among(tops)) == len(tops):
        # train/1.jpg beside test/1.jpg: as class folders these would be the classes `train` and `test`
        by_name = by_file_names(found, with_splits=True)
        if by_name is None:
            raise DataError(
                f"{where}: {' and '.join(sorted(f'{top}/' for top in tops))} hold pictures without labels. Put them "
                "into class folders, like train/cat/1.jpg, or add a table of path,label, like train.csv."
            )
        return by_name
    by_name = by_file_names(found, with_splits=False) if len(tops) < 2 else None
    return by_name or by_class_folders(found, where)
