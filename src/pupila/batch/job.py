"""The state of one batch job: an SQLite database in a folder beside the output, so that a killed job goes on.

    predictions.csv.unfinished/
        job.sqlite    what the job is about, every file with its stamp, and the answers so far
        result        the finished table, before it gets its name
        lock          held by the running process; others may read the database meanwhile

Answers are committed a chunk at a time: a kill loses at most what was not committed. A job goes on only with the same
model, choices and files; any difference is an error that names it.
"""

import contextlib
import fcntl
import itertools
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pupila._files import check_pages, few_steps, open_own, refuse_link, tables_of
from pupila.batch.listing import Walk, identities, shown_name, shown_path
from pupila.errors import DataError, ImageError
from pupila.prediction import Choice, Prediction

SUFFIX = ".unfinished"
NAMES = ("job.sqlite", "job.sqlite-wal", "job.sqlite-shm", "result", "lock")
SCHEMA = """
CREATE TABLE IF NOT EXISTS about (model TEXT, version TEXT, top INTEGER, files INTEGER, hidden INTEGER);
CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, stamp BLOB, answer BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS now (path BLOB PRIMARY KEY, stamp BLOB) WITHOUT ROWID;
"""
DIFFERENCES = {
    "new files": "SELECT path FROM now WHERE path NOT IN (SELECT path FROM files) ORDER BY path",
    "files that are gone": "SELECT path FROM files WHERE path NOT IN (SELECT path FROM now) ORDER BY path",
    "changed files": "SELECT path FROM now JOIN files USING (path) WHERE now.stamp != files.stamp ORDER BY path",
}
NAMED_AT_MOST = 3
DIGITS = 6
"""Decimals of a confidence: more than float32 holds."""
FileAnswer = Prediction | ImageError
DAMAGED = "The answers of this job are damaged. Remove the folder that ends in .unfinished, to begin anew."


def to_line(answer: FileAnswer) -> bytes:
    """Return what stands for an answer between processes and in the database: a line of JSON, its end included.

    [unknown, index, confidence, index, confidence, ...], or ["code", "reason"] for a file that is no picture.
    """
    fields: list[object]
    if isinstance(answer, ImageError):
        fields = [answer.code, str(answer)]
    else:
        pairs = ((choice.category_index, round(choice.confidence, DIGITS)) for choice in answer.top)
        fields = [int(answer.unknown), *itertools.chain(*pairs)]
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes, classes: Sequence[str]) -> FileAnswer:
    """Read a line; raises DataError for one that no job has written."""
    try:
        first, *rest = json.loads(line)
        if isinstance(first, str):
            code, reason = (text.encode(errors="backslashreplace").decode() for text in (first, *rest))
            return ImageError(code, reason)
        pairs = zip(rest[::2], rest[1::2], strict=True)
        top = tuple(Choice(classes[index], index, float(confidence)) for index, confidence in pairs)
        if not top or min(rest[::2]) < 0:
            raise ValueError
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise DataError(DAMAGED) from error
    return Prediction(top, bool(first))


@dataclass(frozen=True)
class About:
    """What must not change while a job is interrupted, and how many files it is about."""

    model: str
    version: str
    top: int
    files: int = 0
    hidden: int = 0


def _are_plain(row: tuple[Any, ...]) -> bool:
    """Return whether the columns of `about` are of their types: SQLite keeps any text where a number is asked for."""
    return tuple(map(type, row)) == (str, str, int, int, int)


class BatchJob:
    """The open database: `with BatchJob(output) as job: about = job.begin(...)`. Paths are bytes, sorted bytewise."""

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(output.name + SUFFIX)
        self.result = self.folder / "result"

    def __enter__(self) -> "BatchJob":
        try:
            self.folder.mkdir(0o700)
        except FileExistsError:
            refuse_link(self.folder)
            with tempfile.TemporaryFile(dir=self.folder) as made:  # some network disks call our files another user's
                self._check_own(self.folder.stat().st_uid == os.fstat(made.fileno()).st_uid)
        for path in (self.folder, *(self.folder / name for name in NAMES)):
            refuse_link(path)
        self._lock = os.fdopen(open_own(self.folder / "lock", os.O_RDWR), "rb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise DataError(f"{self.folder}: another process works on it. Wait for it, or end it.") from None
        (self.folder / "job.sqlite-journal").unlink(missing_ok=True)  # is never ours, and can have any file removed
        self._sql = sqlite3.connect(self.folder / "job.sqlite")
        try:
            with few_steps(self._sql):
                self._sql.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {SCHEMA}")
                self._check_tables()
            check_pages(self._sql)
        except (sqlite3.Error, DataError):  # no database, or not ours
            self._close()
            raise
        return self

    def _check_tables(self) -> None:
        """Raise DataError for a database that may have come with the pictures: its triggers could add any file."""
        with contextlib.closing(sqlite3.connect(":memory:")) as ours:
            ours.executescript(SCHEMA)
            self._check_own(tables_of(ours) == tables_of(self._sql))

    def _check_own(self, own: bool) -> None:
        if not own:
            raise DataError(f"{self.folder}: is no job that you began. Remove that folder to begin anew.")

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(sqlite3.Error):
            if not self.answered():  # stopped before there was an answer to go on with, or removed
                self.remove()
        self._close()

    def _close(self) -> None:
        self._sql.close()
        self._lock.close()

    def begin(self, paths: Sequence[Path | str], without: Sequence[Path], about: About) -> About:
        """List the files and return what the job is about; if it was begun before, it must be about the same."""
        walk = Walk(paths, identities([*without, self.folder]))
        row = self._sql.execute("SELECT * FROM about").fetchone()
        with self._sql:
            table = "files" if row is None else "now"
            self._sql.execute(f"DELETE FROM {table}")  # noqa: S608 - one of two; only what the walk finds is answered
            self._sql.executemany(f"INSERT OR IGNORE INTO {table} (path, stamp) VALUES (?, ?)", walk)  # noqa: S608
            if row is None:
                files = self._number("SELECT count(*) FROM files")
                row = (about.model, about.version, about.top, files, walk.hidden)
                self._sql.execute("INSERT INTO about VALUES (?, ?, ?, ?, ?)", row)
                found = []
            else:
                self._check_own(row[3] == self._number("SELECT count(*) FROM files") and _are_plain(row))
                found = self._differences(About(*row), about)
                self._sql.execute("DELETE FROM now")
        if not row[3]:
            raise DataError(
                f"{', '.join(map(shown_path, paths))}: holds no file that is not hidden. Give another folder."
            )
        if found:
            raise DataError(
                f"{self.folder}: the job was begun with something else ({'; '.join(found)}). "
                "Go on with what it was begun with, or remove that folder to begin anew."
            )
        return About(*row)

    def _differences(self, before: About, now: About) -> list[str]:
        found = []
        if before.version != now.version:
            found.append(f"model: {before.model!r} {before.version} then, {now.model!r} {now.version} now")
        if before.top != now.top:
            found.append(f"choices a row (--top): {before.top} then, {now.top} now")
        for kind, query in DIFFERENCES.items():
            count = self._number(f"SELECT count(*) FROM ({query})")  # noqa: S608 - one of three
            names = [repr(shown_name(path)) for (path,) in self._sql.execute(f"{query} LIMIT {NAMED_AT_MOST}")]
            if names:
                more = f" and {count - len(names):,} more" if count > len(names) else ""
                found.append(f"{kind}: {', '.join(names)}{more}")
        return found

    def paths(self) -> Iterator[bytes]:
        """Yield the path of each file, sorted."""
        for (path,) in self._sql.execute("SELECT path FROM files ORDER BY path"):
            yield path

    def answered(self) -> int:
        """Return how many files have an answer."""
        return self._number("SELECT count(*) FROM files WHERE answer IS NOT NULL")

    def unanswered(self, size: int) -> Iterator[list[str]]:
        """Yield the paths without an answer, in order and in chunks; answers may be given meanwhile."""
        last = b""
        query = "SELECT path FROM files WHERE path > ? AND answer IS NULL ORDER BY path LIMIT ?"
        while chunk := [path for (path,) in self._sql.execute(query, (last, size))]:
            yield [os.fsdecode(path) for path in chunk]
            last = chunk[-1]

    def answer(self, paths: Sequence[str], lines: bytes) -> None:
        """Keep the answers to these paths, a line each."""
        rows = zip(lines.splitlines(), map(os.fsencode, paths), strict=True)
        with self._sql:
            self._sql.executemany("UPDATE files SET answer = ? WHERE path = ?", rows)

    def answers(self, classes: Sequence[str]) -> Iterator[tuple[bytes, FileAnswer]]:
        """Yield each path and its answer, sorted by path."""
        for path, line in self._sql.execute("SELECT path, answer FROM files ORDER BY path"):
            yield path, from_line(line, classes)

    def sorted_by(self, key: Callable[[bytes, bytes], Any]) -> Iterator[tuple[Any, bytes, bytes]]:
        """Yield key, path and line of answer of each file, sorted by key and path; without those whose key is None.

        key: takes path and line, and returns a number or bytes. It must not raise: SQLite calls it.
        """
        self._sql.create_function("sort_key", 2, key, deterministic=True)
        keys = "SELECT sort_key(path, answer) AS key, path, answer FROM files"
        yield from self._sql.execute(f"SELECT * FROM ({keys}) WHERE key IS NOT NULL ORDER BY key, path")  # noqa: S608

    def published_as(self, output: Path) -> bool:
        """True if the output is there, and is this job's result: the process was stopped after giving it its name."""
        return self.result.exists() and output.exists() and os.path.samefile(self.result, output)  # noqa: PTH121

    def remove(self) -> None:
        """Remove what the job wrote, and the folder if nothing else is in it."""
        self._sql.close()
        for name in NAMES:  # the database first: without it, the rest counts as nothing
            (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _number(self, query: str) -> int:
        return int(self._sql.execute(query).fetchone()[0])
