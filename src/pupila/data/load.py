"""From a source (a name, a folder, an archive) to Splits: out of the cache, or made and put there.

Knows which reader is for which source; each reader lives in a file of its own. Knows nothing of training.
"""

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from pupila.data import cifar10
from pupila.data.archive import read_archive, stem
from pupila.data.cache import DatasetCache
from pupila.data.cifar10 import fetch_cifar10, is_cifar10, read_cifar10
from pupila.data.digits import read_digits
from pupila.data.download import cache_folder
from pupila.data.entries import Entry
from pupila.data.folders import list_folder
from pupila.data.pictures import read_pictures
from pupila.data.splits import Splits
from pupila.errors import DataError
from pupila.images import DEFAULT_LIMITS, ImageLimits

NAMES = ("cifar10", "digits")


def load_dataset(
    source: str | Path, size: int | None = None, *, cache: Path | None = None, limits: ImageLimits = DEFAULT_LIMITS
) -> Splits:
    """Return all pictures of a source at size x size pixels, by split.

    `source` is "cifar10" (downloaded once), "digits", or the path of a folder or a tar or zip archive that holds one
    folder a class, or CIFAR-10 as published. `size` None chooses the smallest of 32, 64, 96, 128, 160 and 224 that is
    not below the pictures' median shorter side. What was decoded is kept in `cache` (else $PUPILA_CACHE, else
    ~/.cache/pupila). Pictures that cannot be read are skipped and listed.
    Raises DataError if there is nothing to train on, DownloadError, MissingExtraError.
    """
    if size is not None and size < 1:
        raise DataError(f"A picture size of {size} pixels cannot be used. Give 1 or more, like 32.")
    if source == "cifar10":
        return load_cifar10(size, cache=cache, limits=limits)
    if source == "digits":
        return read_digits(size)
    return _load_path(Path(source), size, cache_folder(cache), limits)


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


def _load_path(given: Path, size: int | None, cache: Path, limits: ImageLimits) -> Splits:
    path = Path(os.path.abspath(given.expanduser()))  # noqa: PTH100 - not resolve(): a link's own name is the name
    identity, read = _identify(path, given)
    key = [os.fsencode(path).hex(), identity, limits.max_bytes, limits.max_pixels, version("pillow")]
    kept = DatasetCache(cache, key)
    splits = kept.load(size)
    if splits is None:
        name = path.name if path.is_dir() else stem(path)
        splits = _read(read(), name, str(given), size, limits)
        kept.save(splits, size_was_chosen=size is None)
    return splits


def _identify(path: Path, given: Path) -> tuple[object, Callable[[], Sequence[Entry]]]:
    """Return what changes whenever the files do, found without opening them, and the way to read them."""
    try:
        if path.is_dir():
            listed = list_folder(path)
            identity = [(file.entry.name, file.bytes, file.modified_ns) for file in listed]
            return identity, lambda: [file.entry for file in listed]
        status = path.stat()
        return (status.st_size, status.st_mtime_ns), lambda: read_archive(path)
    except FileNotFoundError as error:
        near = difflib.get_close_matches(str(given), NAMES, 1)
        fix = f"Did you mean '{near[0]}'?" if near else "Check the path."
        raise DataError(f"{given}: there is no such file or folder, nor a data set of that name. {fix}") from error
    except OSError as error:
        where = error.filename or given
        raise DataError(f"{where}: cannot be read ({error.strerror}). Check its permissions.") from error


def _read(entries: Sequence[Entry], name: str, where: str, size: int | None, limits: ImageLimits) -> Splits:
    if is_cifar10(entries):
        return read_cifar10(entries, name, where, size)
    return read_pictures(entries, name, where, size, limits)
