"""Finds every file that a job answers, below folders and addresses; reads files from addresses.

Folders are walked; hidden files, what systems leave behind, and run folders are passed over. A name says nothing else
about its content: every other file is listed, so that none is left out without a reason.

An address is one of a store that pyarrow opens, with its options: s3://bucket/photos/ is Amazon's,
s3://bucket/photos/?endpoint_override=host:9000&scheme=http any that speaks S3's language. Keys come from the
environment, as AWS's own tools take them. A file of a store is listed as `root NUL path`, whichever address led to it:
the root, with the options that the person gave, says which store is opened, and a path that others chose is only looked
up in it, never read as part of an address.
"""

import functools
import importlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pupila._files import DEEPEST_FOLDER, RUN_FILES, Identity, Ways, is_hidden
from pupila.errors import DataError, MissingExtraError, PupilaError

STORES = ("s3", "gs", "gcs", "abfs", "hdfs")
Waiting = tuple[bytes, Identity, frozenset[Identity]]
"""A folder still to be looked into, its identity, and those of the folders above it."""
BETWEEN = "\0"
"""Stands between the root of a store and a path in it; no path of a disk holds it."""
PASSWORD = re.compile(":[^@]*@")
"""In an address, before the bucket."""


def identities(paths: Sequence[Path | str]) -> frozenset[Identity]:
    """Return the identity of each path that exists."""
    found = [_status(os.fsencode(path)) for path in paths]
    return frozenset((status.st_dev, status.st_ino) for status in found if status is not None)


class Walk:
    """Yields (path, stamp) of each file at or below the given paths, in no particular order.

    The stamp changes with the file's size or time of change. A dangling link, and a folder that cannot be listed or is
    in over DEEPEST_FOLDER others, are yielded too: they get a row with the reason. Links to folders are followed, but
    not in circles; DataError is raised if they lead on and on.
    """

    def __init__(self, paths: Sequence[Path | str], without: frozenset[Identity] = frozenset()) -> None:
        """`without` are files and folders to pass over: a job's own output, where it lies among the pictures.

        A text among the paths is an address, as s3://bucket/photos/.
        """
        self.hidden = 0
        """Files and folders passed over so far: hidden ones, litter, and folders that Pupila wrote."""
        self._paths = paths
        self._without = without
        self._ways = Ways()

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        folders: list[Waiting] = []
        for path in self._paths:
            if isinstance(path, str):
                yield from walk_address(path)
                continue
            if not os.path.lexists(path):
                raise DataError(f"{path}: there is no such file or folder. Check the path.")
            yield from self._visit(os.fsencode(path), frozenset(), folders)
        while folders:
            folder, here, above = folders.pop()
            if not self._ways.enters(here, above, folder):
                continue
            if above and _is_ours(folder):
                self.hidden += 1
                continue
            within = above | {here}
            for name in self._names(folder):
                self._ways.lists(here, folder)
                yield from self._visit(os.path.join(folder, name), within, folders)  # noqa: PTH118 - bytes

    def _names(self, folder: bytes) -> Iterator[bytes]:
        with os.scandir(folder) as found:
            for item in found:
                if is_hidden(os.fsdecode(item.name)):
                    self.hidden += 1
                else:
                    yield item.name

    def _visit(self, path: bytes, above: frozenset[Identity], folders: list[Waiting]) -> Iterator[tuple[bytes, bytes]]:
        status = _status(path)
        here = (status.st_dev, status.st_ino) if status else None
        if here is not None and here in self._without:
            return
        entered = status is not None and stat.S_ISDIR(status.st_mode) and len(above) <= DEEPEST_FOLDER
        if here is not None and entered and os.access(path, os.R_OK):
            folders.append((path, here, above))
        else:
            yield path.removeprefix(b"./"), _stamp(status)


def _is_ours(folder: bytes) -> bool:
    """Return whether Pupila wrote the folder: what a run draws is no picture to answer."""
    return any(all(os.path.exists(os.path.join(folder, os.fsencode(n))) for n in known) for known in RUN_FILES)  # noqa: PTH110, PTH118 - bytes


def _status(path: bytes) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - bytes
    except OSError:
        return None


def _stamp(status: os.stat_result | None) -> bytes:
    return b"-" if status is None else b"%d:%d" % (status.st_size, status.st_mtime_ns)


def files_below(paths: Sequence[Path]) -> list[Path]:
    """Return the paths in the order given, folders replaced by their files, in memory: for a person's few pictures."""
    files: list[Path] = []
    for path in paths:
        found = sorted(record[0] for record in Walk([path])) if path.is_dir() else [os.fsencode(path)]
        files += [Path(os.fsdecode(name)) for name in found]
    return files


def is_stored(path: str) -> bool:
    """Tell a listed file of a store from a path of this machine."""
    return BETWEEN in path


def shown_name(path: bytes) -> str:
    """Return a listed file's name for tables and messages: what is no UTF-8 escaped, and no options of an address."""
    address, between, key = path.decode("utf-8", "backslashreplace").partition(BETWEEN)
    return _without_secrets(address, key) if between else address


def shown_path(path: Path | str) -> str:
    """Return a path or address as a person gave it, without what opens a store."""
    return str(path) if isinstance(path, Path) else _without_secrets(path, _split(path).path)


def _without_secrets(url: str, key: str) -> str:
    parts = _split(url)
    return f"{parts.scheme}://{PASSWORD.sub('@', parts.netloc)}{key}"


def read_stored(path: str, most: int) -> bytes:
    """Return the content of a listed file of a store, but no more than `most` bytes; raises OSError."""
    address, _, key = path.partition(BETWEEN)
    try:
        store, root = _store(address)
        with store.open_input_stream(root + key, compression=None) as file:
            return bytes(file.read(most))
    except OSError:
        raise
    except Exception as error:  # pyarrow's own
        raise OSError(0, _reason(error)) from error


def walk_address(url: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the listed name and the stamp of the file, or of each file below the folder that is not hidden.

    Raises DataError if there is none, or if it is of a kind that is not read.
    """
    parts = _split(url)
    shown = shown_path(url)
    if parts.scheme not in STORES or BETWEEN in url:
        known = ", ".join(f"{scheme}://" for scheme in STORES)
        raise DataError(f"{shown}: is not read. Use one of {known}, or fetch the pictures first and give their folder.")
    try:
        store, root = _store(_root(url))
        found = [store.get_file_info(root + parts.path.rstrip("/"))]
        if not found[0].is_file:
            selector = importlib.import_module("pyarrow.fs").FileSelector
            found = store.get_file_info(selector(found[0].path, allow_not_found=True, recursive=True))
    except PupilaError:
        raise
    except Exception as error:  # pyarrow's own
        reason = _reason(error).replace(_root(url), shown)
        raise DataError(f"{shown}: cannot be listed ({reason}). Check the address and your rights.") from error
    files = [file for file in found if file.is_file and not is_hidden(file.base_name)]
    if not files:
        raise DataError(f"{shown}: there is no such file or folder. Check the address; a folder ends in a slash.")
    for file in files:
        name = f"{_root(url)}{BETWEEN}{file.path.removeprefix(root)}"
        yield name.encode(), f"{file.size}:{file.mtime_ns}".encode()


def _split(url: str) -> SplitResult:
    """Split an address; # is a letter of its path."""
    return urlsplit(url, allow_fragments=False)


def _root(url: str) -> str:
    """Return the address of a store's root, with the options: all that says which store is opened, and how."""
    return _split(url)._replace(path="/").geturl()


@functools.cache
def _store(url: str) -> tuple[Any, str]:
    """Return pyarrow's view of the store with this root, and what paths in it begin with.

    It is opened once a process: a client keeps its connections. Raises MissingExtraError, and what pyarrow does.
    """
    try:
        files = importlib.import_module("pyarrow.fs")
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"Reading {urlsplit(url).scheme}://", "parquet") from error
    store, root = files.FileSystem.from_uri(url)
    return store, root.rstrip("/")


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or getattr(error, "reason", None) or error).splitlines()[0]
