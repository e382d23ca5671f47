"""Answered pictures, kept until somebody says what they really show: rows in SQLite, and a file a picture.

Several threads and processes may use one store. All writing, of files too, happens inside a write transaction of the
database: there is one writer at a time, and its lock goes with its process, however that ends. Files are whole and on
the disk before the rows that name them. So a process killed at any instruction leaves at most files without a row,
which `recover` deletes.
"""

import contextlib
import math
import re
import shlex
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pupila._files import check_pages, locked, read_bytes, refuse_link, sync, write_file
from pupila.errors import DataError
from pupila.feedback.schema import (
    COLUMNS,
    LOG_BYTES,
    LOG_MOST,
    WAIT,
    Answered,
    Counts,
    Kept,
    connect,
    on_disk,
    row_bytes,
)
from pupila.images.strip import Clean, clean

DATABASE = "feedback.sqlite"
DELETED = "deleted"
"""A file that is there while the database's log may hold what was deleted."""
CORRECTED_SHARE = 0.75
"""Of the bytes that a store may have: beyond, the oldest corrections of the key that takes the most are deleted."""
EVICTED_TOGETHER = 512
"""Answers that one transaction deletes when room is needed: others wait some 0.1 s, and the log grows by a megabyte."""
ROOM_STEPS = 32
"""Transactions that make room for what is to be kept, one after the other; what needs more is not kept."""
ROOM_PAUSE = 0.05
"""Seconds between two of them, in which others write."""
LEFT_FREE = 0.25
"""Share of the time that adding took for which the write lock is then left to others, ROOM_PAUSE at most."""
REPEATED = 20
"""How often pictures may have been sent on average before a sample of different ones gets smaller than wanted."""
SAME_PICTURE = 50
"""Answers of one key about one picture that are kept: each more looks at all of them."""
SAME_REQUEST = 100
"""Answers of one request id that are listed."""
STEPS = 10_000
"""Of SQLite's between two looks at the clock: a millisecond."""
MAX_FILE = 256 * 2**20
"""Bytes of a picture's file that are read; a server takes 20 MiB, unless told otherwise."""
FILE = re.compile(r"\w{1,64}\.\w{1,16}", re.ASCII)
"""What a picture's file is called: the names come from the database, which may be a stranger's."""
FORGET_REPEATED = """
WITH same AS (SELECT id, corrected FROM answers WHERE sha256 = :sha256 AND owner = :owner),
last AS (SELECT id FROM same WHERE corrected IS NOT NULL ORDER BY corrected DESC, id DESC LIMIT 1)
DELETE FROM answers WHERE id IN (
    SELECT id FROM same ORDER BY id IN (SELECT id FROM last) DESC, id DESC LIMIT -1 OFFSET :most
)
"""
"""Deletes the oldest answers of a key about a picture, and never its last correction, which counts."""
OLDEST_OF_LARGEST = """
SELECT id, sha256 FROM answers WHERE corrected IS NOT NULL
    AND owner IS (SELECT owner FROM owners ORDER BY bytes DESC LIMIT 1) ORDER BY corrected LIMIT 1
"""
"""The first correction of who takes the most: one row, as that may be another once it is deleted."""
OLDEST = "SELECT id, sha256 FROM answers WHERE corrected IS NULL ORDER BY id LIMIT 1"
ROWS = f"SELECT {', '.join(COLUMNS)} FROM answers CROSS JOIN pictures USING (sha256)"
PAGE = "LIMIT :limit OFFSET :offset"


class Store:
    """One folder of collected pictures. Raises DataError where the folder or its database cannot be used."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if not create and not (path / DATABASE).exists():
            named = shlex.quote(str(path))
            raise DataError(
                f"{path}: holds no collected pictures. Collect some with: pupila serve --feedback-dir {named}"
            )
        self.path = path
        self.pictures = path / "pictures"
        self._log = path / f"{DATABASE}-wal"
        self._deleted = path / DELETED
        if create:
            self._make_folder()
        self._database = connect(path / DATABASE)
        self._lock = threading.Lock()

    def _make_folder(self) -> None:
        """Make the folder, for its owner only. Raises DataError if it cannot be, or if it holds something else."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (self.path / DATABASE).exists() and any(self.path.iterdir()):
                raise DataError(f"{self.path}: holds other files. Give a folder of its own for collected pictures.")
            (self.path / DATABASE).touch(0o600)  # first: a folder that holds it is known as ours after a kill
            self.pictures.mkdir(mode=0o700, exist_ok=True)
            self.path.chmod(0o700)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be used ({error.strerror}). Give a folder that can be.") from error

    def close(self) -> None:
        """Close the database; waits for readers of what was deleted, for seconds at most."""
        until = time.monotonic() + WAIT
        while self._deleted.exists() and time.monotonic() < until:
            self.empty_log()
            time.sleep(0.05)
        with self._lock:
            self._database.close()

    # Writing

    def add(
        self,
        answered: Sequence[Answered],
        max_bytes: int | None = None,
        cleaner: Callable[[bytes], Clean | None] = clean,
    ) -> int:
        """Keep pictures and their answers, all or none, durably; return how many.

        Left out are pictures that cannot be read, and answers whose confidence is not finite, as of a damaged model.
        Beyond `max_bytes` on the disk the oldest uncorrected ones are deleted, and corrected ones beyond their share of
        it; a picture that does not fit beside the corrected ones is left out, as all others would be deleted for it in
        vain. Nothing is kept where ROOM_STEPS transactions do not make the room. `cleaner` does what clean() does.
        Raises sqlite3.Error or OSError if the disk is full or does not answer, and DataError, as everything here, if
        the database is damaged.
        """
        cleaned = [(item, cleaner(item.data)) for item in answered]
        good = [(item, one) for item, one in cleaned if one is not None and math.isfinite(item.confidence)]
        for step in range(ROOM_STEPS):
            if step:
                time.sleep(ROOM_PAUSE)
            try:
                with self._in_line():
                    kept, unused = self._add_or_make_room(good, max_bytes)
            except (OSError, sqlite3.Error, DataError):
                self._delete_files([(picture.sha256, picture.kind) for _, picture in good])
                raise
            self._delete_files(unused)
            if kept is not None:
                return kept
        return 0

    def _add_or_make_room(
        self, good: Sequence[tuple[Answered, Clean]], max_bytes: int | None
    ) -> tuple[int | None, list[tuple[str, str]]]:
        """Add pictures, or, where more must be deleted for them than in one transaction, delete as much as that.

        Returns how many were added, None for the latter, and the files that nobody needs.
        """
        with self._writing() as database:
            if max_bytes is not None:
                room = _room_for_uncorrected(database, max_bytes)
                good = [(item, one) for item, one in good if on_disk(len(one.data)) + row_bytes(item.category) <= room]
            numbers = [_insert(database, item, picture) for item, picture in good]
            for name, owner in {(picture.sha256, item.owner) for item, picture in good}:
                database.execute(FORGET_REPEATED, {"sha256": name, "owner": owner, "most": SAME_PICTURE})
            unused = [] if max_bytes is None else _make_room(database, max_bytes)
            if max_bytes is not None and good and _size(database, "bytes") > max_bytes:
                database.executemany("DELETE FROM answers WHERE id = ?", [(number,) for number in numbers])
                return None, unused + [file for _, one in good for file in _forget(database, one.sha256)]
            self._write_files([picture for _, picture in good])
        return len(good), unused

    def correct(self, number: int, category: str | None, time: float, max_bytes: int | None = None) -> Kept | None:
        """Write down durably what a picture shows (None: no class); return it as it was, or None if it is not here.

        The last correction counts. Room is made as by add(), in the same transaction: about one goes for one that
        comes, and what a larger picture is still short of goes with the next ones.
        """
        with self._writing() as database:
            row = database.execute(f"{ROWS} WHERE id = ?", (number,)).fetchone()
            if row is None:
                return None
            change = "UPDATE answers SET corrected = ?, correction = ? WHERE id = ?"
            database.execute(change, (time, category, number))
            unused = [] if max_bytes is None else _make_room(database, max_bytes)
        self._delete_files(unused)
        return Kept.of(row)

    def delete(
        self,
        request: str | None = None,
        picture: int | None = None,
        *,
        number: int | None = None,
        owner: str | None = None,
    ) -> int:
        """Delete the pictures that all of this is true of, with nothing given everything; return how many answers.

        The same picture goes wherever else it was sent, by this owner if one is given. Unless it is one answer's, by
        its number, files that an interrupted write has left go, too: nobody can say whose they are, and to find them
        takes a look at all files. What the database's log holds of it goes as `empty_log` says.
        """
        chosen = {"request": request, "picture": picture, "id": number, "owner": owner}
        wanted = " AND ".join(["TRUE", *(f"{name} = :{name}" for name, value in chosen.items() if value is not None)])
        self._deleted.touch(0o600)
        with self._writing() as database:
            query = f"SELECT DISTINCT sha256 FROM answers WHERE {wanted}"
            names = database.execute(query, chosen).fetchall()
            remove = f"DELETE FROM answers WHERE sha256 = :sha256 AND {_of(owner)}"
            gone = sum(database.execute(remove, {"sha256": name, "owner": owner}).rowcount for (name,) in names)
            unused = [file for name in names for file in _forget(database, *name)]
        self._delete_files(unused)
        if number is None:
            self.recover()
        with self._lock:
            self._cut_log()
        return gone

    def empty_log(self) -> None:
        """Empty the database's log where it is long or holds what was deleted; while anybody reads: later.

        Nobody waits for it: SQLite would wait for readers, and all writers for SQLite.
        """
        if self._deleted.exists() or self._log_bytes() > LOG_BYTES:
            with self._lock:
                self._cut_log()

    def _cut_log(self) -> bool:
        """Bring the log into the database and cut it to nothing; return whether that was possible at once."""
        self._deleted.unlink(missing_ok=True)  # first: what is deleted from now on may miss this
        try:
            self._database.execute("PRAGMA busy_timeout = 0")
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)")  # the most of it, while others write
            (busy, *_) = self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error:  # the disk's fault
            busy = True
        finally:
            self._database.execute(f"PRAGMA busy_timeout = {int(1000 * WAIT)}")
        if busy:
            self._deleted.touch(0o600)
        return not busy

    def _log_bytes(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def recover(self) -> tuple[int, int]:
        """Delete files without a row, and rows without a file; return how many.

        Others may write meanwhile: nothing is deleted before the write lock is held, and a file without a row is then
        nobody's, as who writes it would hold the lock.
        """
        before = self._files()
        with self._reading() as database:
            known = {f"{name}.{kind}": name for name, kind in database.execute("SELECT sha256, kind FROM pictures")}
        orphans, lost = sorted(before - known.keys()), sorted(known.keys() - self._files())
        for file in orphans:
            with self._writing() as database:
                if not database.execute("SELECT 1 FROM pictures WHERE sha256 = ?", (Path(file).stem,)).fetchone():
                    (self.pictures / file).unlink(missing_ok=True)
        for file in lost:
            with self._writing() as database:
                if not (self.pictures / file).exists():
                    database.execute("DELETE FROM answers WHERE sha256 = ?", (known[file],))
                    _forget(database, known[file])
        return len(orphans), len(lost)

    def _delete_files(self, unused: Sequence[tuple[str, str]]) -> None:
        """Delete the files of pictures that have no row; those that have got one again meanwhile stay."""
        if not unused:
            return
        with self._writing() as database:
            for name, kind in unused:
                if not database.execute("SELECT 1 FROM pictures WHERE sha256 = ?", (name,)).fetchone():
                    self.file(name, kind).unlink(missing_ok=True)

    def file(self, sha256: str, kind: str) -> Path:
        """Return where the picture of this hash lies; raises DataError if that is no plain name."""
        name = f"{sha256}.{kind}"
        if not FILE.fullmatch(name):
            raise DataError(f"{self.path}: its database is damaged ({name[:100]!r}). Restore it from a copy.")
        return self.pictures / name

    def _files(self) -> set[str]:
        """Return the names of all picture files, unfinished ones among them."""
        return {path.name for path in self.pictures.iterdir()}

    def _write_files(self, pictures: Sequence[Clean]) -> None:
        """Write those that are not there yet, each whole or not at all, and return when all are on the disk."""
        for one in pictures:
            path = self.file(one.sha256, one.kind)
            if not path.exists():
                write_file(path, one.data, 0o600)
        sync(self.pictures)  # their names, and also those that a process which was killed has not flushed

    @contextlib.contextmanager
    def _in_line(self) -> Iterator[None]:
        """Wait until no other process adds pictures, and leave the write lock free for a while afterwards.

        That lock has no queue: beside many who add, a correction would find it free by chance only.
        """
        with locked(self.path / "line", 0o600):
            begun = time.monotonic()
            yield
            time.sleep(min(ROOM_PAUSE, LEFT_FREE * (time.monotonic() - begun)))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Hold the one write lock; what was done is durable after the block, or undone if it raises."""
        with self._lock, self._sound():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                if self._database.in_transaction:  # SQLite ends it itself after some faults
                    self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextlib.contextmanager
    def _sound(self) -> Iterator[None]:
        """Raise DataError where the database turns out to be damaged; not where it is busy, or the disk full."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if type(error) not in (sqlite3.DatabaseError, sqlite3.DataError):  # the rest have other reasons
                raise
            raise DataError(f"{self.path}: its database is damaged ({error}). Restore it from a copy.") from error

    # Reading

    def find(self, number: int, owner: str | None = None) -> Kept | None:
        """Return the answer of this id, if it is the owner's or none is given."""
        return next(self._rows(f"WHERE id = :number AND {_of(owner)}", number=number, owner=owner), None)

    def of_request(self, request: str, picture: int, owner: str | None = None) -> list[Kept]:
        """Return the answers of this request id and place, the first one first.

        Clients choose the ids: another request may have the same one, of the same owner or of another. Where none is
        given, those of several owners come one owner after the other.
        """
        condition = f"WHERE request = :request AND picture = :picture AND {_of(owner)} ORDER BY owner, id LIMIT :limit"
        return list(self._rows(condition, request=request, picture=picture, owner=owner, limit=SAME_REQUEST))

    def owners_of(self, request: str, picture: int) -> list[str | None]:
        """Return whose answers have this request id and place: two of them where they are more."""
        named = "SELECT owner FROM answers WHERE request = ?1 AND picture = ?2 ORDER BY owner"
        query = f"SELECT * FROM ({named} LIMIT 1) UNION SELECT * FROM ({named} DESC LIMIT 1)"
        with self._reading() as database:
            return [owner for (owner,) in database.execute(query, (request, picture))]

    def uncertain(self, limit: int, offset: int = 0, owner: str | None = None, until: float = math.inf) -> list[Kept]:
        """Return pictures that nobody has corrected: unknown ones first, then by confidence, the lowest first.

        Lists and counts end with sqlite3.OperationalError at a time of time.monotonic(), `until`.
        """
        condition = f"WHERE corrected IS NULL AND {_listed(owner)} ORDER BY unknown DESC, confidence, id {PAGE}"
        return list(self._rows(condition, until, limit=limit, offset=offset, owner=owner))

    def corrected(
        self, limit: int = -1, offset: int = 0, owner: str | None = None, until: float = math.inf
    ) -> list[Kept]:
        """Return the corrected pictures, the last correction first: one a picture, however often it was sent."""
        condition = f"WHERE corrected IS NOT NULL AND {_listed(owner)} ORDER BY corrected DESC, id DESC {PAGE}"
        return list(self._rows(condition, until, limit=limit, offset=offset, owner=owner))

    def served(self, model: str, last: int) -> list[Kept]:
        """Return the newest different pictures that this model answered, at most `last`: a sample without selection.

        Answers from before room was made for others are left out: of them the corrected ones are left over.
        """
        found: dict[str, Kept] = {}
        fair = "WHERE model = :model AND id > (SELECT evicted FROM size) ORDER BY id DESC LIMIT :limit"
        for kept in self._rows(fair, model=model, limit=REPEATED * last):
            if len(found) < last:
                found.setdefault(kept.sha256, kept)
        return list(found.values())

    def models(self) -> dict[str, int]:
        """Return how many answers there are of each model version, the newest first."""
        with self._reading() as database:
            return dict(database.execute("SELECT model, count(*) FROM answers GROUP BY model ORDER BY max(id) DESC"))

    def counts(self, owner: str | None = None, until: float = math.inf) -> Counts:
        """Count what is here, of all owners or of one; the bytes are those of all."""
        columns = ("answers", "shown" if owner is None else "own", "corrected", "none")
        sums = ", ".join(f"ifnull(sum({column}), 0)" for column in columns)
        query = f"SELECT {sums}, (SELECT bytes FROM size) FROM counts WHERE {_of(owner)}"
        with self._reading(until) as database:
            return Counts(*database.execute(query, {"owner": owner}).fetchone())

    def check_pages(self) -> None:
        """Raise DataError for a database, perhaps a stranger's, that is damaged so that a list had no end."""
        with self._reading() as database:
            check_pages(database)

    def read(self, kept: Kept) -> bytes | None:
        """Return the picture file, None if it has been deleted meanwhile; raises OSError, also for a link."""
        path = self.file(kept.sha256, kept.kind)
        refuse_link(path)
        try:
            return read_bytes(path, MAX_FILE)
        except FileNotFoundError:
            return None

    def _rows(self, condition: str, until: float = math.inf, **values: object) -> Iterator[Kept]:
        with self._reading(until) as database:
            rows = database.execute(f"{ROWS} {condition}", values).fetchall()
        return map(Kept.of, rows)

    @contextlib.contextmanager
    def _reading(self, until: float = math.inf) -> Iterator[sqlite3.Connection]:
        """Look things up. What may end early, a list, does so at its time, or when the log becomes too long."""
        is_list = until < math.inf
        if not self._lock.acquire(timeout=min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX)):
            raise sqlite3.OperationalError("interrupted")
        try:
            if is_list and self._log_bytes() > LOG_MOST and not self._cut_log():
                raise sqlite3.OperationalError("interrupted")
            if is_list:
                self._database.set_progress_handler(
                    lambda: time.monotonic() > until or self._log_bytes() > LOG_MOST, STEPS
                )
            with self._sound():
                yield self._database
        finally:
            self._database.set_progress_handler(None, 0)
            self._lock.release()
            if is_list:  # which has kept others from it
                self.empty_log()


def _of(owner: str | None) -> str:
    """Return the condition for the answers of an owner, or of all."""
    return "TRUE" if owner is None else "owner = :owner"


def _listed(owner: str | None) -> str:
    """Return the condition for the one answer about each picture that lists of an owner show, or those of all."""
    return "shown" if owner is None else "own AND owner = :owner"


def _insert(database: sqlite3.Connection, item: Answered, picture: Clean) -> int | None:
    """Add a picture, if it is not here, and an answer about it; return the answer's id."""
    entry = (picture.sha256, picture.kind, on_disk(len(picture.data)))
    database.execute("INSERT OR IGNORE INTO pictures VALUES (?, ?, ?)", entry)
    answer = (item.request, item.picture, picture.sha256, item.category, item.confidence, item.unknown)
    return database.execute(
        "INSERT INTO answers (request, picture, sha256, category, confidence, unknown, model, time, owner) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*answer, item.model, item.time, item.owner),
    ).lastrowid


def _size(database: sqlite3.Connection, column: str) -> int:
    return int(database.execute(f"SELECT {column} FROM size").fetchone()[0])


def _room_for_uncorrected(database: sqlite3.Connection, max_bytes: int) -> int:
    """Return how many bytes the corrected answers leave to others at least, once room has been made."""
    return max_bytes - min(_size(database, "corrected"), int(CORRECTED_SHARE * max_bytes))


def _make_room(database: sqlite3.Connection, max_bytes: int) -> list[tuple[str, str]]:
    """Delete corrected answers beyond their share, and then the oldest uncorrected ones until the rest fits.

    Deletes EVICTED_TOGETHER answers at most; returns the files that nobody needs.
    """
    unused: list[tuple[str, str]] = []
    for _ in range(EVICTED_TOGETHER):
        if _size(database, "corrected") > int(CORRECTED_SHARE * max_bytes):
            query = OLDEST_OF_LARGEST
        elif _size(database, "bytes") > max_bytes:
            query = OLDEST
        else:
            break
        row = database.execute(query).fetchone()
        if row is None:
            break
        number, name = row
        database.execute("DELETE FROM answers WHERE id = ?", (number,))
        database.execute("UPDATE size SET evicted = max(evicted, ?)", (number,))
        unused += _forget(database, name)
    return unused


def _forget(database: sqlite3.Connection, name: str) -> list[tuple[str, str]]:
    """Forget a picture that no answer is about; return it if it was forgotten."""
    unused = "DELETE FROM pictures WHERE sha256 = ?1 AND NOT EXISTS (SELECT 1 FROM answers WHERE sha256 = ?1)"
    return database.execute(f"{unused} RETURNING sha256, kind", (name,)).fetchall()
