"""Files: atomic writes, tables as CSV that a spreadsheet can open or as text, walks along links, and litter.

Atomic: the content goes to a temporary file beside the target, is flushed to the disk (fsync), and is renamed into
place. Readers see the old file or the new one.
"""

import csv
import errno
import fcntl
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import UnionType
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TypeVar, get_args, get_origin, get_type_hints

from pupila._language import cell, translated
from pupila.errors import DataError

if TYPE_CHECKING:
    import sqlite3

FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\t", "\r")
"""What a cell begins with that spreadsheets take for a formula: full-width signs, too."""
BEGINNING = r"(?:(?<![^;,|\t\r\n])%s(?=[ '\x22]*[=+@\uff1d\uff0b\uff0d\uff20-])|\A%s(?='*[\t\r]))"
"""Where a formula begins in a text: at its start, and after a sign at which another program may split the line."""
PLAIN, ESCAPED = re.compile(BEGINNING.replace("%s", "")), re.compile(BEGINNING.replace("%s", "'"))

Fields = TypeVar("Fields")
Identity = tuple[int, int]
"""Device and inode: tells a file or folder from all others, however its path is spelled."""
WAYS_AT_MOST = 100
"""Paths to one folder that a walk follows: a few folders that link to each other make millions."""
DEEPEST_FOLDER = 64
"""Folders within each other that a file may lie in: each costs memory and time for every file."""
AGAIN_AT_MOST = 250_000
"""Files and folders that are listed again, by another path: as many as an archive may hold."""
Stamp = tuple[int, int, int]
"""Inode, size and time of change: differ whenever a file was renamed into place or written to."""
SMALL = 8 * 2**20
"""Bytes of a file that describes something: of the metrics of 10,000 epochs, or of a sweep's results."""
DEEPEST_JSON = 20
"""Lists and objects within each other in such a file: what nests deeper cannot always be shown or written again."""
LARGEST = 1e12
"""Of a run's losses, seconds and counts."""
NAME_BYTES = 255
"""The longest name that a file can have on nearly all file systems."""
LONGEST_NAME = 200
"""Bytes of the target's name in a temporary name: most file systems take 255 in all."""
JOURNAL_END = bytes.fromhex("d9d505f920a163d7")
"""Of an SQLite journal that names another file: that of a transaction in several databases."""
TABLES = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"

WIDEST = 100
"""Letters of a column in a table of text."""

LITTER = frozenset(
    (
        "__macosx", "@eadir", "@recycle", "@recently-snapshot", "@tmp", "@sharebin", "#recycle", "#snapshot",
        "lost+found", "$recycle.bin", "recycler", "system volume information", "network trash folder",
        "temporary items", "thevolumesettingsfolder", "__pycache__", "node_modules", "_gsdata_", "_vti_cnf",
        "found.000", "~snapshot", "aquota.user", "aquota.group", "thumbs.db", "thumbs.db:encryptable",
        "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "picasa.ini",
    )
)  # fmt: skip
"""What systems, packers, NAS boxes and cloud drives leave behind, in small letters."""
LITTER_ENDINGS = (
    ".lrdata", ".photoslibrary", ".photolibrary", ".swp", "~", ":zone.identifier", "\uf03azone.identifier",
    ":afp_afpinfo", ":afp_resource",
)  # fmt: skip
"""The last ones: what Windows and macOS write beside a file where the disk has no place within it."""
RUN_FILES = (
    frozenset(("recipe.json", "run.json")), frozenset(("recipe.json", "metrics.jsonl")),
    frozenset(("report.html", "confusion.png")), frozenset(("mislabelled.html", "fixes.csv")),
    frozenset(("table.csv", "results.json", "curves.png")), frozenset(("feedback.sqlite",)),
)  # fmt: skip
"""Files by which a folder is known as one that Pupila wrote: a run, a report, doubts, a sweep, pictures of a server."""


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Yield the path of an empty temporary file; when the block ends without an error, it becomes `path`.

    After an error the temporary file is removed and `path` stays as it was. mode: permissions, less the umask.
    Raises OSError.
    """
    name = os.fsencode(path.name)[:LONGEST_NAME].decode(errors="ignore")
    temporary = path.with_name(f".{name}.{os.getpid()}.{secrets.token_hex(4)}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_file(path: Path, content: bytes | str, mode: int = 0o666) -> None:
    """Write the file atomically, text as UTF-8; raises OSError."""
    with replacing(path, mode) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def open_own(path: Path, flags: int, mode: int = 0o666) -> int:
    """Return a descriptor of a file of Pupila's own, made if it is not there and never opened through a link.

    Raises OSError that names the link: in a folder that came from somebody else, it may lead to any file of the user.
    """
    try:
        return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
    except OSError:
        refuse_link(path)
        raise


def refuse_link(path: Path) -> None:
    """Raise OSError if the path is a link."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, f"{path.name} is a link, and nothing is written through it: remove it", str(path))


def check_database(path: Path) -> None:
    """Raise OSError where SQLite would touch other files with a database of Pupila's that may be a stranger's.

    No file in its folder is a link, and its journal names no other one, which SQLite would delete: no transaction of
    Pupila's is about several files.
    """
    for other in path.parent.iterdir():
        refuse_link(other)
    with suppress(FileNotFoundError), open_file(path.with_name(f"{path.name}-journal")) as journal:
        journal.seek(max(0, os.fstat(journal.fileno()).st_size - len(JOURNAL_END)))
        if journal.read() == JOURNAL_END:
            raise OSError(errno.EINVAL, "its journal names another file, to be deleted: remove the journal", str(path))


FEW_STEPS = 100_000
"""Of SQLite's machine: enough to open a database and look at its tables, where its pages do not lead in circles."""


@contextmanager
def few_steps(database: "sqlite3.Connection") -> Iterator[None]:
    """Raise sqlite3.OperationalError in the block for a database, perhaps a stranger's, of endless tables."""
    database.set_progress_handler(lambda: True, FEW_STEPS)
    yield
    database.set_progress_handler(None, 0)


def check_pages(database: "sqlite3.Connection") -> None:
    """Raise sqlite3.DatabaseError for pages in circles, and for indices with other rows than their tables.

    A list from such a database may have no end. Takes time by the database's size, some seconds for 1 GB.
    """
    (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise database.DatabaseError(found)


def tables_of(database: "sqlite3.Connection") -> list[Any]:
    """Return what an SQLite database consists of: tables, indices, views and triggers, as they were written."""
    return database.execute(TABLES).fetchall()


@contextmanager
def locked(path: Path, mode: int = 0o666) -> Iterator[None]:
    """Hold the lock file at this path: other processes wait. Some network file systems know no locks."""
    with os.fdopen(open_own(path, os.O_RDWR, mode), "rb") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def publish(ready: Path, target: Path) -> None:
    """Give the file `ready` the name `target`; raises FileExistsError if there is one of that name.

    `ready` stays where the file system has hard links, and can be removed; elsewhere it is renamed.
    """
    try:
        os.link(ready, target)
    except FileExistsError:
        raise
    except OSError:  # FAT and some network file systems have no links, and no way to rename that refuses to overwrite
        if os.path.lexists(target):
            raise FileExistsError(str(target)) from None
        ready.rename(target)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file with its times and permissions, without the bits by which a program runs as its owner.

    The target must not be there. Until it is complete, its owner alone may read it.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    shutil.copyfile(source, target)
    status = source.stat()
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    target.chmod(status.st_mode & 0o777)


def stamp_of(path: Path) -> Stamp | None:
    """Return what tells one file from the next in its place; None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  # called often
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def sync(path: Path) -> None:
    """Return when what was written to a file, or the names in a folder, are on the disk; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class CsvWriter:
    """Writes rows as RFC 4180 with line ends of \\n. What looks like a formula gets an apostrophe in front."""

    def __init__(self, file: IO[str], delimiter: str = ",") -> None:
        self._file = file
        self._writer = csv.writer(self, delimiter=delimiter)

    def write(self, line: str) -> None:
        """Write a line that csv has made: it quotes carriage returns only if they are in its own line end."""
        self._file.write(line.removesuffix("\r\n") + "\n")

    def writerow(self, values: Iterable[object]) -> None:
        """Write one row."""
        self._writer.writerow([escaped(value) if isinstance(value, str) else value for value in values])

    def writerows(self, rows: Iterable[Iterable[object]]) -> None:
        """Write several rows."""
        for row in rows:
            self.writerow(row)


def escaped(text: str) -> str:
    """Return a cell's text; a number is none of a formula's beginnings, whatever its sign."""
    return text if is_number(text) else PLAIN.sub("'", text)


def unescaped(text: str) -> str:
    """Return what `escaped` was given."""
    return ESCAPED.sub("", text)


def is_number(text: str) -> bool:
    """Return whether a text is a plain number."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text and text.strip() == text


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of equally many cells as lines whose columns are aligned, translated; the first row has the heads.

    A cell of over WIDEST letters stands out alone: all others would take as many.
    """
    rows = [[translated(head) for head in rows[0]], *([cell(text) for text in row] for row in rows[1:])]
    widths = [min(WIDEST, max(map(len, column))) for column in zip(*rows, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


class Ways:
    """Says which folders a walk enters that follows links: not in circles, and not without end."""

    def __init__(self) -> None:
        self._ways: Counter[Identity] = Counter()
        self._again = 0

    def enters(self, folder: Identity, above: Container[Identity], path: str | bytes) -> bool:
        """Return whether a folder does not lie within itself; to be asked before it is listed.

        Raises DataError if too many paths lead to it.
        """
        if folder in above:
            return False
        self._ways[folder] += 1
        if self._ways[folder] > WAYS_AT_MOST:
            raise DataError(
                f"{os.fsdecode(path)}: links to folders lead on and on, to this one by over {WAYS_AT_MOST:,} paths. "
                "Remove such links."
            )
        return True

    def lists(self, folder: Identity, path: str | bytes, count: int = 1) -> None:
        """Count what was found in a folder; raises DataError if too much of all folders was found by other paths."""
        self._again += count if self._ways[folder] > 1 else 0
        if self._again > AGAIN_AT_MOST:
            raise DataError(
                f"{os.fsdecode(path)}: links lead to folders again, and in them to over {AGAIN_AT_MOST:,} files. "
                "Remove such links."
            )


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or left behind by a system, a packer or an editor."""
    small = name.casefold()
    return small.startswith((".", "~$")) or small in LITTER or small.endswith(LITTER_ENDINGS)


def open_file(path: Path | str) -> BinaryIO:
    """Open a file that may be a stranger's, to read; never waits for a pipe. Raises OSError, also if it is no file."""
    file = open(path, "rb", opener=_at_once)  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return file


def read_bytes(path: Path, most: int) -> bytes:
    """Return the content of a file that may be a stranger's, of at most so many bytes; never waits for a pipe.

    Raises OSError, also if it is no file or larger, and ValueError for a path with a zero byte.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, over the limit of {most:,}", str(path))
        return file.read(most)


def read_small(path: Path, most: int = SMALL) -> str:
    """Return the text of a small file in UTF-8 that may be a stranger's; raises OSError or ValueError."""
    return read_bytes(path, most).decode()


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def json_object(text: str) -> dict[str, Any]:
    """Return what a small text in JSON says; raises ValueError if it is long, nests too deeply or is no object."""
    if len(text) > SMALL:
        raise ValueError(f"it has {len(text):,} letters, over the limit of {SMALL:,}")
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("it is no object in JSON")
    if not _nests(found, DEEPEST_JSON):
        raise ValueError("it nests too deeply")
    return found


def _nests(value: Any, levels: int) -> bool:
    """Return whether lists and tables lie in so many levels at most."""
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return within is None or (levels > 0 and all(_nests(one, levels - 1) for one in within))


def is_figure(name: str, value: Any) -> bool:
    """Return whether a value of a file that may be a stranger's is a number that such a figure of a run may be."""
    return isinstance(value, int | float) and 0 <= value <= (1 if name.endswith("accuracy") else LARGEST)


def from_json(kind: type[Fields], values: Mapping[str, Any]) -> Fields:
    """Return the dataclass whose fields JSON gives, each of its type; raises ValueError that names the one that is not.

    A whole number is a fraction, too, and a text a path. What lists and tables hold is not looked at.
    """
    kinds = get_type_hints(kind)
    for name, value in values.items():
        if name not in kinds or not _is_of(value, kinds[name]):
            raise ValueError(f"it has no valid {name[:100]}")
    try:
        return kind(**{name: _as(value, kinds[name]) for name, value in values.items()})
    except TypeError as error:
        raise ValueError(str(error)) from error


def _kinds(kind: Any) -> list[Any]:
    """Return the types of a union, or the one that is none, without what they hold."""
    parts = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    return [get_origin(part) or part for part in parts]


def _is_of(value: Any, kind: Any) -> bool:
    kinds = _kinds(kind)
    if isinstance(value, bool | None):
        return type(value) in kinds
    if isinstance(value, float):
        return float in kinds and math.isfinite(value)
    if isinstance(value, int):
        return int in kinds or (float in kinds and abs(value) < 2**53)
    return isinstance(value, tuple(kinds)) or (isinstance(value, str) and Path in kinds)


def _as(value: Any, kind: Any) -> Any:
    return Path(value) if isinstance(value, str) and Path in _kinds(kind) else value
