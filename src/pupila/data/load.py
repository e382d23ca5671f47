"""From a source (a name, a folder, an archive) to Splits: out of the cache, or made and put there.

Knows which reader is for which source; each reader lives in a file of its own. Knows nothing of training.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from pupila.data.cache import DatasetCache
from pupila.data.decoding.pool import Decoders
from pupila.data.decoding.read import read_pictures
from pupila.data.decoding.worker import UNREADABLE
from pupila.data.layouts.cifar import find_version, read_cifar
from pupila.data.layouts.detect import arrange
from pupila.data.sources import cifar10
from pupila.data.sources.cifar10 import fetch_cifar10
from pupila.data.sources.digits import read_digits
from pupila.data.sources.download import cache_folder
from pupila.data.sources.source import NAMES, Source, find_source
from pupila.data.splits import Splits
from pupila.errors import DataError
from pupila.images import DEFAULT_LIMITS, ImageLimits


def load_dataset(
    source: str | Path,
    size: int | None = None,
    *,
    cache: Path | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    framing: str = "squash",
) -> Splits:
    """Return all pictures of a source at size x size pixels, by split.

    `source` is "cifar10" (downloaded once), "digits", or a path: of a folder, or a tar or zip archive, that holds class
    folders, pictures with a table of labels, pictures named like cat_001.jpg, parquet files, or CIFAR-10 or CIFAR-100
    as published; or of such a table or parquet file itself. `size` None chooses the smallest of 32, 64, 96, 128, 160
    and 224 that is not below the pictures' median shorter side. `framing`: see images.FRAMINGS.
    What was decoded is kept in `cache` (else
    $PUPILA_CACHE, else ~/.cache/pupila). Pictures that cannot be read are skipped and listed.
    Raises DataError if there is nothing to train on, DownloadError, MissingExtraError.
    """
    if size is not None and size < 1:
        raise DataError(f"A picture size of {size} pixels cannot be used. Give 1 or more, like 32.")
    if source in NAMES:
        splits = read_digits(size) if source == "digits" else load_cifar10(size, cache=cache, limits=limits)
        note = f"This is the data set of that name. What lies here under the same name is ./{source}."
        return replace(splits, notes=(*splits.notes, note)) if Path(source).exists() else splits
    return _load_path(Path(source), size, cache_folder(cache), limits, framing)


def load_cifar10(
    size: int | None = None,
    *,
    cache: Path | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    url: str = cifar10.URL,
    md5: str = cifar10.MD5,
) -> Splits:
    """Return CIFAR-10 as published, downloaded from `url` into the cache if it is not there yet."""
    folder = cache_folder(cache)
    path = fetch_cifar10(folder, url, md5)
    return replace(_load_path(path, size, folder, limits), name="cifar10")


def _load_path(given: Path, size: int | None, cache: Path, limits: ImageLimits, framing: str = "squash") -> Splits:
    with _no_search_for_garbage():
        return _kept_or_read(given, size, cache, limits, framing)


def _kept_or_read(given: Path, size: int | None, cache: Path, limits: ImageLimits, framing: str) -> Splits:
    source = find_source(given)
    key = [os.fsencode(source.path).hex(), source.name, source.identity, limits.max_bytes, limits.max_pixels]
    kept = DatasetCache(cache, [*key, framing, version("pillow")])
    splits = kept.load(size)
    if splits is None or _can_be_read_by_now(source.path, splits):
        splits = _read(source, str(given), size, limits, framing)
        kept.save(splits, size_was_chosen=size is None)
    return splits


def _can_be_read_by_now(root: Path, splits: Splits) -> bool:
    """True if a file was closed to us, or its disk away, and it is no longer: neither shows in its size or time."""
    closed = [item.name for item in splits.skipped if item.reason.startswith(UNREADABLE)]
    return any(os.access(root / name, os.R_OK) for name in closed)


@contextmanager
def _no_search_for_garbage() -> Iterator[None]:
    """Of the names of 60,000 files all are kept: looking for garbage among them, again and again, cost a third."""
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()


def _read(source: Source, where: str, size: int | None, limits: ImageLimits, framing: str) -> Splits:
    collected = source.collect()
    published = find_version(collected.entries)
    if published is not None:
        return read_cifar(published, collected.entries, source.name, where, size)
    with Decoders(len(collected.entries)) as decoders:  # they start while it is found out what the files are
        arranged = arrange(collected, where)
        return read_pictures(arranged, source.name, where, size, limits, framing, decoders)
