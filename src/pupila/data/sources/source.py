"""A path that the user gave, as entries: a folder, an archive, a table, a parquet file. Knows nothing of classes."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pupila._names import did_you_mean
from pupila.data.dataset import Skipped
from pupila.data.layouts.tables import TABLES
from pupila.data.sources.archive import read_archive, stem
from pupila.data.sources.files import SourceFile, list_folder
from pupila.errors import DataError

NAMES = ("cifar10", "digits")
"""Data sets that are given by name."""


@dataclass(frozen=True)
class SourceFiles:
    """All files of a source, and what was left out while listing them."""

    entries: Sequence[SourceFile]
    notes: Sequence[str] = ()
    skipped: Sequence[Skipped] = field(default=())


@dataclass(frozen=True)
class DataSource:
    """A path whose files are not opened yet."""

    path: Path
    name: str
    identity: object
    """What changes whenever the files do; has a JSON form."""
    collect: Callable[[], SourceFiles]
    """Raises DataError if the files cannot be read."""


def find_source(given: Path) -> DataSource:
    """Look at a path without opening what is in it; raises DataError if that cannot be done."""
    path = Path(os.path.abspath(given.expanduser()))  # noqa: PTH100 - not resolve(): a link's own name is the name
    try:
        if path.is_dir():
            return _folder(path, path.name, lambda _: True)
        status = path.stat()
    except FileNotFoundError as error:
        fix = did_you_mean(str(given), NAMES, "Check the path.")
        raise DataError(f"{given}: there is no such file or folder, nor a data set of that name. {fix}") from error
    except OSError as error:
        where = error.filename or given
        raise DataError(f"{where}: cannot be read ({error.strerror}). Check its permissions.") from error
    if path.suffix.lower() in TABLES:  # its pictures are beside or below it; other tables there are not meant
        return _folder(path.parent, path.stem, lambda entry: entry.may_be_picture or entry.source == str(path))
    identity = (status.st_size, status.st_mtime_ns)
    if path.suffix.lower() == ".parquet":
        return DataSource(path, path.stem, identity, lambda: SourceFiles([SourceFile((path.name,), str(path))]))
    return DataSource(path, stem(path), identity, lambda: SourceFiles(read_archive(path)))


def _folder(path: Path, name: str, wanted: Callable[[SourceFile], bool]) -> DataSource:
    listing = list_folder(path)
    files = [file for file in listing.files if wanted(file.entry)]
    identity = [
        [(file.entry.source, file.bytes, file.modified_ns) for file in files],
        [item.name for item in listing.skipped],
        listing.notes(),
    ]
    collected = SourceFiles([file.entry for file in files], listing.notes(), listing.skipped)
    return DataSource(path, name, identity, lambda: collected)
