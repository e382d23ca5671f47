"""A path given by a user, as files: a folder, an archive, archives in a folder or archive, a table, a parquet file."""

import os
import re
import shlex
import stat
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from pupila._arguments import counted, did_you_mean
from pupila.data.dataset import SkippedFiles
from pupila.data.layouts.tables import JSON, TABLES
from pupila.data.sources.archive import SUFFIXES, UnpackBudget, read_archive, stem, unpack
from pupila.data.sources.files import (
    SHOWN,
    NameReading,
    SourceFile,
    SourceFiles,
    is_undecoded,
    list_folder,
    name_decoder,
    name_readings,
    sure_encoding,
    utf8_name,
    without_run_folders,
)
from pupila.errors import DataError

NAMES = ("cifar10", "digits")
"""Data sets that are given by name."""
ENCODING = "PUPILA_NAME_ENCODING"
"""Environment variable: the encoding of file names that are not in UTF-8."""
CLASS_OF_ARCHIVE = re.compile(r"[-_ ]samples$|-\d{8}T\d{6}Z(-\d+)+$")
"""What Teachable Machine adds to the name of a class, and Google Drive and Takeout to that of each part of a folder."""
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/+\S")


Found = tuple[Path, str, object, Callable[[], SourceFiles]]
"""Path, name, what changes whenever the files do, in a JSON form, and what lists or unpacks them."""


class DataSource:
    """A path given by a user: looked at, and not opened yet."""

    def __init__(self, given: str | Path, name_encoding: str | None = None) -> None:
        """Raise DataError if the path cannot be looked at.

        name_encoding: of file names that are not in UTF-8; None takes $PUPILA_NAME_ENCODING, or finds it out.
        """
        self.where, self._encoding = str(given), name_encoding or os.environ.get(ENCODING) or None
        self.path, name, identity, self._collect = _find(given)
        self.name = utf8_name(os.fsencode(name))  # whatever the locale
        self.identity = [identity, self._encoding]

    @cached_property
    def files(self) -> SourceFiles:
        """All files; raises DataError if they cannot be read."""
        files = _with_inner_archives(self._collect(), self.where)
        kept, notes = without_run_folders(files.entries)
        files = replace(files, entries=kept, notes=(*files.notes, *notes))
        return with_decoded_names(files, self._encoding, self.where)


def source_name(given: str | Path) -> str:
    """Return what a data set is called: its name, or that of its folder or archive, `.` and `..` included."""
    path = Path(os.path.abspath(Path(given).expanduser()))  # noqa: PTH100 - not resolve(): a link's own name is the name
    return stem(path) or "data"


def _beside(path: Path) -> list[str]:
    """Return the names of what lies where `path` would."""
    try:
        return [other.name for other in path.parent.iterdir()]
    except OSError:
        return []


def _find(given: str | Path) -> Found:
    if ADDRESS.match(str(given)):
        raise DataError(_about_address(str(given)))
    path = Path(os.path.abspath(Path(given).expanduser()))  # noqa: PTH100 - not resolve(): a link's own name is the name
    try:
        if path.is_dir():
            return _folder(path, path.name or "data", lambda _: True)
        status = path.stat()
    except FileNotFoundError as error:
        fix = did_you_mean(path.name, [*NAMES, *_beside(path)], "Check the path.")
        raise DataError(f"{given}: there is no such file or folder, nor a data set of that name. {fix}") from error
    except OSError as error:
        where = error.filename or given
        raise DataError(f"{where}: cannot be read ({error.strerror}). Check its permissions.") from error
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise DataError(f"{given}: is neither a file nor a folder. Check the path.")
    if path.suffix.lower() in (*TABLES, JSON):  # its pictures are beside or below it; other tables there are not meant
        return _folder(path.parent, path.stem, lambda entry: entry.may_be_picture or entry.source == str(path))
    identity = (status.st_size, status.st_mtime_ns)
    if path.suffix.lower() in (".parquet", ".npz"):
        return path, path.stem, identity, lambda: SourceFiles([SourceFile((path.name,), str(path))])
    return path, stem(path), identity, lambda: read_archive(path)


def _about_address(given: str) -> str:
    scheme, _, rest = given.partition(":")
    if scheme.casefold() == "file":
        return f"{given}: give the path instead of the address: /{rest.lstrip('/')}"
    address = f"{scheme}://{rest.lstrip('/')}"
    how = f" (curl -LO {shlex.quote(address)})" if scheme.casefold() in ("http", "https") else ""
    return f"{address}: addresses are not read here. Download it{how} and give the file or folder."


def _folder(path: Path, name: str, wanted: Callable[[SourceFile], bool]) -> Found:
    listing = list_folder(path)
    collected = replace(listing, entries=[file for file in listing.entries if wanted(file)])
    kept, _ = without_run_folders(collected.entries)  # what a training writes changes nothing
    skipped: list[object] = [item.name for item in listing.skipped]
    skipped += filter(None, [listing.skipped.more])
    identity = [[(file.source, *file.stamp) for file in kept], skipped, listing.notes]
    return path, name, identity, lambda: collected


def _with_inner_archives(files: SourceFiles, where: str) -> SourceFiles:
    """Read archives that lie among the files in place of folders of their names, if there are no pictures beside them.

    One level deep: archives within those are left out.
    """
    archives = [file for file in files.entries if file.file.lower().endswith(SUFFIXES)]
    if not archives:
        return files
    if any(file.may_be_picture for file in files.entries):
        example = f"Left out {counted(len(archives), 'archive')} beside the pictures, like {archives[0].name}"
        return replace(files, notes=(*files.notes, f"{example}: unpack such files if they belong to the data set."))
    budget = UnpackBudget(where, sum(file.packed() for file in archives))
    entries = [file for file in files.entries if not file.file.lower().endswith(SUFFIXES)]
    skipped = SkippedFiles()
    skipped.add_all(files.skipped)
    for file in archives:
        above = (*file.parts[:-1], CLASS_OF_ARCHIVE.sub("", stem(Path(file.file))))
        name = f"{where}: {file.name}"
        with _opened(file, name) as opened:
            inner = unpack(opened, file.packed(), name, budget, above)
        entries += inner.entries
        skipped.add_all(inner.skipped)
    return SourceFiles(entries, files.notes, skipped)


def _opened(file: SourceFile, name: str) -> BinaryIO:
    try:
        return file.open()
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}). Check its permissions.") from error


def with_decoded_names(files: SourceFiles, encoding: str | None, where: str) -> SourceFiles:
    """Decode the names that are not in UTF-8: in the given encoding, or in one that the names show; a note names it.

    Raises DataError that asks for the encoding if it is unknown, or if names of folders could mean different things.
    """
    undecoded = {part for file in files.entries for part in file.parts if is_undecoded(part)}
    if not undecoded:
        return files
    notes = []
    if encoding is None:
        readings = name_readings(undecoded)
        encoding = sure_encoding(readings)
        if encoding is None and any(is_undecoded(part) for file in files.entries for part in file.parts[:-1]):
            raise DataError(_which_encoding(where, readings, undecoded))
        if encoding is None:  # names of files only: they tell no class
            return files
        examples = _examples(readings[0].names)
        notes = [f"Names not in UTF-8 were read as {encoding}, like {examples}. If that is wrong, set {ENCODING}."]
    try:
        decoded = name_decoder(encoding)
    except LookupError as error:
        raise DataError(f"{encoding}: is no encoding that is known. Give one like cp850, cp1252 or cp932.") from error
    entries = [
        file._replace(parts=tuple([part if part.isascii() else decoded(part) for part in file.parts]))
        for file in files.entries
    ]
    return replace(files, entries=entries, notes=(*files.notes, *notes))


def _which_encoding(where: str, readings: Sequence[NameReading], names: Set[str]) -> str:
    if not readings:
        return f"{where}: names in no known encoding: {len(names):,}. Rename them, or set {ENCODING}."
    ways = "; ".join(f"{reading.encoding}: {_examples(reading.names)}" for reading in readings[:8])
    first = readings[0].encoding
    return (
        f"{where}: its names are not in UTF-8, and can be read in several ways ({ways}). Set the right one, like "
        f"{ENCODING}={first}, or look at it first: pupila data {shlex.quote(where)} --name-encoding {first}"
    )


def _examples(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:SHOWN])
