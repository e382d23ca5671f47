"""A path given by a user, as files: a folder, an archive, archives in a folder or archive, a table, a parquet file."""

import io
import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pupila._arguments import counted, did_you_mean
from pupila.data.layouts.tables import JSON, TABLES
from pupila.data.sources.archive import SUFFIXES, UnpackBudget, read_archive, stem, unpack
from pupila.data.sources.files import (
    SHOWN,
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
CLASS_OF_ARCHIVE = re.compile(r"[-_ ]samples$")
"""What Teachable Machine adds to the name of a class."""
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/+\S")


@dataclass(frozen=True)
class DataSource:
    """A path whose files are not opened yet."""

    path: Path
    name: str
    identity: object
    """What changes whenever the files do; has a JSON form."""
    collect: Callable[[], SourceFiles]
    """Raises DataError if the files cannot be read."""


def source_name(given: str | Path) -> str:
    """Return what a data set is called: its name, or that of its folder or archive, `.` and `..` included."""
    path = Path(os.path.abspath(Path(given).expanduser()))  # noqa: PTH100 - not resolve(): a link's own name is the name
    return stem(path) or "data"


def find_source(given: str | Path, name_encoding: str | None = None) -> DataSource:
    """Look at a path without opening what is in it; raises DataError if that cannot be done.

    name_encoding: of file names that are not in UTF-8; None takes $PUPILA_NAME_ENCODING, or finds it out.
    """
    encoding = name_encoding or os.environ.get(ENCODING) or None
    source = _find(given)

    def collect() -> SourceFiles:
        where = str(given)
        files = _with_inner_archives(source.collect(), where)
        kept, notes = without_run_folders(files.entries)
        return with_decoded_names(replace(files, entries=kept, notes=(*files.notes, *notes)), encoding, where)

    name = utf8_name(os.fsencode(source.name))  # whatever the locale
    return replace(source, name=name, identity=[source.identity, encoding], collect=collect)


def _find(given: str | Path) -> DataSource:
    if ADDRESS.match(str(given)):
        raise DataError(_about_address(str(given)))
    path = Path(os.path.abspath(Path(given).expanduser()))  # noqa: PTH100 - not resolve(): a link's own name is the name
    try:
        if path.is_dir():
            return _folder(path, path.name or "data", lambda _: True)
        status = path.stat()
    except FileNotFoundError as error:
        fix = did_you_mean(str(given), NAMES, "Check the path.")
        raise DataError(f"{given}: there is no such file or folder, nor a data set of that name. {fix}") from error
    except OSError as error:
        where = error.filename or given
        raise DataError(f"{where}: cannot be read ({error.strerror}). Check its permissions.") from error
    if path.suffix.lower() in (*TABLES, JSON):  # its pictures are beside or below it; other tables there are not meant
        return _folder(path.parent, path.stem, lambda entry: entry.may_be_picture or entry.source == str(path))
    identity = (status.st_size, status.st_mtime_ns)
    if path.suffix.lower() in (".parquet", ".npz"):
        return DataSource(path, path.stem, identity, lambda: SourceFiles([SourceFile((path.name,), str(path))]))
    return DataSource(path, stem(path), identity, lambda: read_archive(path))


def _about_address(given: str) -> str:
    scheme, _, rest = given.partition(":")
    if scheme.casefold() == "file":
        return f"{given}: give the path instead of the address: /{rest.lstrip('/')}"
    address = f"{scheme}://{rest.lstrip('/')}"
    how = f" (curl -LO {shlex.quote(address)})" if scheme.casefold() in ("http", "https") else ""
    return f"{address}: addresses are not read here. Download it{how} and give the file or folder."


def _folder(path: Path, name: str, wanted: Callable[[SourceFile], bool]) -> DataSource:
    listing = list_folder(path)
    entries = [file for file in listing.files if wanted(file)]
    kept, _ = without_run_folders(entries)  # what a training writes changes nothing
    notes = listing.notes()
    identity = [[(file.source, *file.stamp) for file in kept], [item.name for item in listing.skipped], notes]
    collected = SourceFiles(entries, notes, listing.skipped)
    return DataSource(path, name, identity, lambda: collected)


def _with_inner_archives(files: SourceFiles, where: str) -> SourceFiles:
    """Read archives that lie among the files in place of folders of their names, if there are no pictures beside them.

    One level deep: archives within those are left out.
    """
    archives = [file for file in files.entries if file.parts[-1].lower().endswith(SUFFIXES)]
    if not archives:
        return files
    if any(file.may_be_picture for file in files.entries):
        example = f"Left out {counted(len(archives), 'archive')} beside the pictures, like {archives[0].name}"
        return replace(files, notes=(*files.notes, f"{example}: unpack such files if they belong to the data set."))
    sizes = [
        len(file.source) if isinstance(file.source, bytes) else Path(file.source).stat().st_size for file in archives
    ]
    budget = UnpackBudget(where, sum(sizes))
    entries = [file for file in files.entries if not file.parts[-1].lower().endswith(SUFFIXES)]
    skipped = list(files.skipped)
    for file, size in zip(archives, sizes, strict=True):
        above = (*file.parts[:-1], CLASS_OF_ARCHIVE.sub("", stem(Path(file.parts[-1]))))
        with io.BytesIO(file.source) if isinstance(file.source, bytes) else Path(file.source).open("rb") as opened:
            inner = unpack(opened, size, f"{where}: {file.name}", budget)
        entries += [SourceFile((*above, *entry.parts), entry.source) for entry in inner.entries]
        skipped += inner.skipped
    return SourceFiles(entries, files.notes, skipped)


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
            raise DataError(_which_encoding(where, [(r.encoding, r.names) for r in readings], undecoded))
        if encoding is None:  # names of files only: they tell no class
            return files
        examples = _examples(readings[0].names)
        notes = [f"Names not in UTF-8 were read as {encoding}, like {examples}. If that is wrong, set {ENCODING}."]
    try:
        decoded = name_decoder(encoding)
    except LookupError as error:
        raise DataError(f"{encoding}: is no encoding that is known. Give one like cp850, cp1252 or cp932.") from error
    entries = [
        file._replace(parts=tuple([decoded(part) if is_undecoded(part) else part for part in file.parts]))
        for file in files.entries
    ]
    return replace(files, entries=entries, notes=(*files.notes, *notes))


def _which_encoding(where: str, readings: Sequence[tuple[str, tuple[str, ...]]], names: Iterable[str]) -> str:
    if not readings:
        return f"{where}: names in no known encoding: {len(set(names)):,}. Rename them, or set {ENCODING}."
    ways = "; ".join(f"{encoding}: {_examples(read)}" for encoding, read in readings[:4])
    first = readings[0][0]
    return (
        f"{where}: its names are not in UTF-8, and can be read in several ways ({ways}). Set the right one, like "
        f"{ENCODING}={first}, or look at it first: pupila data {shlex.quote(where)} --name-encoding {first}"
    )


def _examples(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:SHOWN])
