"""From a source (a name, a folder, an archive) to Splits: finds it, decodes it or takes it from the cache, checks it.

Knows the order of these steps; each step lives in a file of its own. Knows nothing of training.
"""

import hashlib
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pupila.data.archive import read_archive, stem
from pupila.data.cache import DatasetCache, cache_folder
from pupila.data.dataset import Dataset, Skipped, Splits
from pupila.data.decoding import choose_size, decode_pictures
from pupila.data.entries import Entry
from pupila.data.folders import list_folder
from pupila.data.layout import Labelled, arrange, class_names
from pupila.errors import DataError
from pupila.images import DEFAULT_LIMITS, ImageLimits


def load_dataset(
    source: str | Path, size: int | None = None, *, cache: Path | None = None, limits: ImageLimits = DEFAULT_LIMITS
) -> Splits:
    """Return all pictures of a source at size x size pixels, by split.

    `source` is the path of a folder or of a tar or zip archive with one folder a class. `size` None chooses the smallest
    of 32, 64, 96, 128, 160 and 224 that is not below the median shorter side. Decoded pictures are kept in `cache`
    (else $PUPILA_CACHE, else ~/.cache/pupila). Pictures that cannot be read are skipped and listed.
    Raises DataError if there is nothing to train on; the message names what is wrong and how to mend it.
    """
    return _load_path(Path(source), size, cache_folder(cache), limits)


def _load_path(path: Path, size: int | None, cache: Path, limits: ImageLimits) -> Splits:
    path = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - not resolve(): a link's own name is the name
    if path.is_dir():
        listed = list_folder(path)
        identity: object = [(file.entry.name, file.bytes, file.modified_ns) for file in listed]
    elif path.is_file():
        status = path.stat()
        identity = [status.st_size, status.st_mtime_ns]
    else:
        raise DataError(f"{path}: there is no such file or folder. Check the path.")
    settings = [limits.max_bytes, limits.max_pixels, version("pillow")]
    kept = DatasetCache(cache, [os.fsencode(path).hex(), identity, settings])
    splits = kept.load(size)
    if splits is None:
        entries = [file.entry for file in listed] if path.is_dir() else read_archive(path)
        splits = _decode(entries, path, size, limits)
        kept.save(splits, size is None)
    return splits


def _decode(entries: Sequence[Entry], path: Path, size: int | None, limits: ImageLimits) -> Splits:
    """Decode all splits in one go, so that there is one progress bar and the workers start once."""
    arranged = arrange(entries, str(path))
    classes = class_names(arranged, str(path))
    items = [item for part in arranged.values() for item in part]
    sources = [item.entry.source for item in items]
    size = size or choose_size(sources, limits)
    pixels, failed = decode_pictures(sources, size, limits)
    readable = np.ones(len(items), dtype=np.bool_)
    readable[list(failed)] = False
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.asarray([numbers[item.category] for item in items], dtype=np.int64)
    parts: dict[str, Dataset] = {}
    digest = hashlib.sha256(repr((size, classes)).encode())
    skipped: list[Skipped] = []
    start = 0
    for split, members in arranged.items():
        rows = np.arange(start, start + len(members))
        skipped += [Skipped(f"{items[row].entry.name}", failed[row]) for row in rows if row in failed]
        kept = rows[readable[rows]]
        _check_classes(members, [items[row] for row in kept], path)
        parts[split] = Dataset(pixels[kept], labels[kept], classes)
        for row in kept:
            digest.update(repr((split, items[row].category, items[row].name)).encode())
        digest.update(parts[split].images.data)
        start += len(members)
    name = path.name if path.is_dir() else stem(path)
    return Splits(name, parts["train"], parts.get("validation"), parts.get("test"), tuple(skipped), digest.hexdigest())


def _check_classes(members: Sequence[Labelled], readable: Sequence[Labelled], path: Path) -> None:
    lost = sorted({item.category for item in members} - {item.category for item in readable})
    if lost:
        raise DataError(f"{path}: none of the pictures of '{lost[0]}' can be read. Replace them or remove the class.")
