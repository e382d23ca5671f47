"""Loads a data set from a name, a folder or an archive: from the cache, or read and saved there."""

import gc
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pupila._arguments import PathLike, as_text
from pupila.data.cache import DatasetCache
from pupila.data.dataset import Splits, assemble
from pupila.data.decode import decode_pictures, keep_rows, read_pictures, resize_pictures
from pupila.data.decode_worker import UNREADABLE
from pupila.data.layouts import arrays
from pupila.data.layouts.arrays import find_arrays, find_version, read_arrays, read_cifar
from pupila.data.layouts.class_folders import CHOICE
from pupila.data.layouts.detect import detect_layout
from pupila.data.layouts.labelled import DetectedLayout, LabelledFile, check_class_count
from pupila.data.sources.download import cache_folder, download
from pupila.data.sources.files import SourceFiles
from pupila.data.sources.source import NAMES, DataSource
from pupila.errors import DataError, DownloadError, MissingExtraError
from pupila.images import DEFAULT_LIMITS, ImageLimits, Pixels


class OpenedSource:
    """A data set by name or path, whose files are listed or unpacked once: to load, to inspect and to organise them."""

    def __init__(self, given: str | Path, name_encoding: str | None = None) -> None:
        """Raise DataError if the path cannot be looked at. name_encoding: see DataSource."""
        self.where = str(given)
        self.source = None if self.where in NAMES else DataSource(given, name_encoding)

    @property
    def files(self) -> SourceFiles:
        """All files, none of a data set given by name; raises DataError if they cannot be read."""
        return self.source.files if self.source else SourceFiles([])

    @cached_property
    def layout(self) -> DetectedLayout:
        """The files by split and class; raises DataError if no layout fits."""
        return detect_layout(self.files, self.where)

    def labelled(self) -> Mapping[str, Sequence[LabelledFile]]:
        """Return the picture files by split; none for a data set that is not made of picture files."""
        entries = self.files.entries
        return {} if not entries or find_version(entries) or find_arrays(entries) else self.layout.splits

    def load(
        self,
        size: int | None = None,
        *,
        cache: Path | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
        framing: str = "squash",
        one_class: bool = False,
    ) -> Splits:
        """Return the pictures from the cache, or read and save them there; raises what load_dataset() raises."""
        source = self.source
        if source is None:
            named = read_digits(size) if self.where == "digits" else load_cifar10(size, cache=cache, limits=limits)
            note = f"This is the data set of that name. What lies here under the same name is ./{self.where}."
            return replace(named, notes=(*named.notes, note)) if Path(self.where).exists() else named
        with _without_gc():
            key = [os.fsencode(source.path).hex(), source.name, source.identity, limits.max_bytes, limits.max_pixels]
            key.append(os.environ.get(CHOICE))
            kept = DatasetCache(cache_folder(cache), [*key, framing, version("pillow")])
            splits = kept.load(size)
            if splits is None or _can_be_read_by_now(source.path, splits):
                splits = self._read(source.name, size, limits, framing, one_class)
                kept.save(splits, size_was_chosen=size is None)
            check_class_count(splits.train.classes, self.where, one_class)
            return splits

    def _read(self, name: str, size: int | None, limits: ImageLimits, framing: str, one_class: bool) -> Splits:
        entries = self.files.entries
        if published := find_version(entries):
            return read_cifar(published, entries, name, self.where, size)
        if found := find_arrays(entries):
            return read_arrays(found, name, self.where, size, limits)
        items = itertools.chain.from_iterable(self.layout.splits.values())
        check_class_count({item.category for item in items}, self.where, one_class)
        return read_pictures(self.layout, name, self.where, size, limits, framing)


def load_dataset(
    source: PathLike,
    size: int | None = None,
    *,
    cache: Path | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    framing: str = "squash",
    name_encoding: str | None = None,
    one_class: bool = False,
) -> Splits:
    """Return all pictures of a source at size x size pixels, by split.

    `source` is "cifar10" (downloaded once), "digits", or a path: of a folder, or a tar or zip archive, that holds class
    folders, pictures with a table of labels, pictures named like cat_001.jpg, parquet files, arrays with labels (.npz,
    MNIST's idx), or CIFAR-10 or CIFAR-100 as published; or of such a table, parquet or .npz file itself. `size` None
    chooses the smallest of 32, 64, 96, 128, 160 and 224 that is not below the pictures' median shorter side.
    `framing`: see images.FRAMINGS. What was decoded is kept in `cache` (else $PUPILA_CACHE, else ~/.cache/pupila).
    Pictures that cannot be read are skipped and listed. name_encoding: of file names that are not in UTF-8, if it is
    not to be found out. one_class: accept a single class, to evaluate a model that has more.
    Raises DataError if there is nothing to train on, DownloadError, MissingExtraError.
    """
    source = as_text(source, "A data set")
    if size is not None and size < 1:
        raise DataError(f"A picture size of {size} pixels cannot be used. Give 1 or more, like 32.")
    opened = OpenedSource(source, name_encoding)
    return opened.load(size, cache=cache, limits=limits, framing=framing, one_class=one_class)


def load_cifar10(
    size: int | None = None,
    *,
    cache: Path | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    url: str = arrays.URL,
    md5: str = arrays.MD5,
) -> Splits:
    """Return CIFAR-10 as published, downloaded from `url` (170 MB) into the cache if it is not there yet."""
    try:
        path = download(url, cache_folder(cache) / "cifar-10-python.tar.gz", md5=md5)
    except DownloadError as error:
        raise DownloadError(
            f"{error} Or give the path of a copy of the archive or of class folders; 'digits' needs no network."
        ) from error
    return replace(OpenedSource(path).load(size, cache=cache, limits=limits), name="cifar10")


def _can_be_read_by_now(root: Path, splits: Splits) -> bool:
    """Return whether a file could not be read before and can be now: neither shows in its size or time."""
    closed = [item.name for item in splits.skipped if item.reason.startswith(UNREADABLE)]
    return any(os.access(root / name, os.R_OK) for name in closed)


@contextmanager
def _without_gc() -> Iterator[None]:
    """Switch the garbage collector off: with 60,000 files it took a third of the time and found nothing."""
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Pictures uint8 [N, S, S, 3], sorted by name, and how many could not be read."""

    pictures: Pixels
    names: tuple[str, ...]
    unreadable: int


def read_unlabelled(source: Path, size: int, framing: str = "squash") -> Unlabelled:
    """Read every picture file of a folder, or of a tar or zip archive, wherever in it. Raises DataError if none can be.

    Not kept in the cache.
    """
    entries = sorted(entry for entry in DataSource(source).files.entries if entry.may_be_picture)
    if not entries:
        raise DataError(f"{source}: there are no pictures in it.")
    pictures, failed = decode_pictures([entry.source for entry in entries], size, DEFAULT_LIMITS, framing)
    if len(failed) == len(entries):
        raise DataError(f"{source}: none of its pictures can be read ({entries[0].name}: {failed[0]}).")
    readable = [row for row in range(len(entries)) if row not in failed]
    return Unlabelled(keep_rows(pictures, readable), tuple(entries[row].name for row in readable), len(failed))


WHITEST = 16
"""Ink is given in 17 steps, 0 to 16."""
SIZE = 32


def read_digits(size: int | None) -> Splits:
    """Return the digits, light on dark, at size x size (else 32); raises MissingExtraError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("The data set 'digits'", "train") from error
    found = load_digits()
    gray = np.rint(found.images * (255 / WHITEST)).astype(np.uint8)
    images = np.repeat(gray[..., np.newaxis], 3, axis=3)
    labels = found.target.astype(np.int64)
    names = [f"{index:04d}" for index in range(len(labels))]
    classes = tuple(str(digit) for digit in range(10))
    part = resize_pictures(images, size or SIZE), labels, names
    return assemble("digits", classes, {"train": part}, layout="handwritten digits from scikit-learn")
