"""Records of a feedback store, its SQLite tables, and their migration from earlier versions."""

import contextlib
import functools
import logging
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any

from pupila._files import check_database, check_pages, few_steps, tables_of
from pupila.errors import DataError

log = logging.getLogger("pupila.feedback")

WAIT = 5.0
"""Seconds to wait for another process that is writing."""
LONGEST_WAIT = 600.0
"""Seconds to wait for another process that brings the database to this version."""
MAX_VALUE_BYTES = 2**16
"""Bytes of one value or row: the longest that a server writes, and its longest statement, have a third of it."""
PER_SECOND = 50_000
"""Answers that are brought to the next version in a second, or more."""
LOG_BYTES = 4 * 2**20
"""Bytes that the write-ahead log keeps once its content is in the database; these are not counted."""
LOG_MOST = 4 * LOG_BYTES
"""Bytes of the log at which lists end: it cannot begin anew while anybody reads."""
BLOCK_BYTES = 4096
"""What a file takes at least: file systems give room in blocks."""
ROW_BYTES = 512
"""What a row, its index entries and a file's name are counted as: a picture's take some 160 bytes, and those of an
answer 350, or 750 if all ids and names are as long as they may be."""

NAME_BYTES = 100
"""Of the model's answer and of its correction, each, that are in those: what is longer counts twice."""

VERSION_1 = """
CREATE TABLE pictures (
    sha256 TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    bytes INTEGER NOT NULL
);
CREATE TABLE answers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    request TEXT NOT NULL,
    picture INTEGER NOT NULL,
    sha256 TEXT NOT NULL REFERENCES pictures,
    category TEXT NOT NULL,
    confidence REAL NOT NULL,
    unknown INTEGER NOT NULL,
    model TEXT NOT NULL,
    time REAL NOT NULL,
    corrected REAL,
    correction TEXT
);
CREATE INDEX answers_by_request ON answers (request, picture);
CREATE INDEX answers_by_picture ON answers (sha256, id);
CREATE INDEX answers_uncertain ON answers (unknown DESC, confidence, id) WHERE corrected IS NULL;
CREATE INDEX answers_corrected ON answers (corrected DESC) WHERE corrected IS NOT NULL;
CREATE TABLE size (bytes INTEGER NOT NULL, evicted INTEGER NOT NULL);
INSERT INTO size VALUES (0, 0);
CREATE TRIGGER picture_in AFTER INSERT ON pictures BEGIN UPDATE size SET bytes = bytes + new.bytes; END;
CREATE TRIGGER picture_out AFTER DELETE ON pictures BEGIN UPDATE size SET bytes = bytes - old.bytes; END;
CREATE TRIGGER answer_in AFTER INSERT ON answers BEGIN UPDATE size SET bytes = bytes + ROW_BYTES; END;
CREATE TRIGGER answer_out AFTER DELETE ON answers BEGIN UPDATE size SET bytes = bytes - ROW_BYTES; END;
"""
"""`corrected` is when somebody said what the picture shows; `correction` then is a class, or NULL for none of them.
`evicted` is the highest id that was deleted for want of room: what is left of those up to it is no fair sample."""
VERSION_2 = """
ALTER TABLE answers ADD COLUMN owner TEXT;
ALTER TABLE size ADD COLUMN corrected INTEGER NOT NULL DEFAULT 0;
UPDATE size SET corrected = (
    SELECT coalesce(sum(bytes + ROW_BYTES), 0) FROM answers JOIN pictures USING (sha256) WHERE corrected IS NOT NULL
);
CREATE INDEX answers_corrected_by_owner ON answers (owner, corrected) WHERE corrected IS NOT NULL;
CREATE TRIGGER correction_in AFTER UPDATE OF corrected ON answers WHEN old.corrected IS NULL BEGIN
    UPDATE size SET corrected = corrected + ROW_BYTES + (SELECT bytes FROM pictures WHERE sha256 = new.sha256);
END;
CREATE TRIGGER correction_out BEFORE DELETE ON answers WHEN old.corrected IS NOT NULL BEGIN
    UPDATE size SET corrected = corrected - ROW_BYTES - (SELECT bytes FROM pictures WHERE sha256 = old.sha256);
END;
"""
"""`owner` is the name of the API key that sent the picture, empty without keys, and NULL in rows of version 1.
`size.corrected` is the size of the corrected answers, each counted with its picture."""
VERSION_3 = """
UPDATE pictures SET bytes = (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES + ROW_BYTES;
UPDATE size SET
    bytes = (SELECT coalesce(sum(bytes), 0) FROM pictures) + ROW_BYTES * (SELECT count(*) FROM answers),
    corrected = (
        SELECT coalesce(sum(bytes + ROW_BYTES), 0) FROM answers JOIN pictures USING (sha256) WHERE corrected IS NOT NULL
    );
"""
"""`pictures.bytes` is what a picture takes on the disk: see on_disk(). It was the length of its file."""
VERSION_4 = """
DROP TRIGGER correction_in;
DROP TRIGGER correction_out;
CREATE TABLE owners (owner TEXT UNIQUE, bytes INTEGER NOT NULL);
INSERT INTO owners SELECT owner, sum(each) FROM (
    SELECT owner, pictures.bytes + ROW_BYTES * count(*) AS each
    FROM answers JOIN pictures USING (sha256) WHERE corrected IS NOT NULL GROUP BY owner, sha256
) GROUP BY owner;
UPDATE size SET corrected = (SELECT coalesce(sum(bytes), 0) FROM owners);
CREATE TRIGGER owner_change AFTER UPDATE ON owners BEGIN
    UPDATE size SET corrected = corrected + new.bytes - old.bytes;
END;
CREATE TRIGGER correction_in AFTER UPDATE OF corrected ON answers WHEN old.corrected IS NULL BEGIN
    INSERT INTO owners SELECT new.owner, 0 WHERE NOT EXISTS (SELECT 1 FROM owners WHERE owner IS new.owner);
    UPDATE owners SET bytes = bytes + ROW_BYTES + (SELECT bytes FROM pictures WHERE sha256 = new.sha256) * NOT EXISTS (
        SELECT 1 FROM answers
        WHERE sha256 = new.sha256 AND id != new.id AND +owner IS new.owner AND corrected IS NOT NULL
    ) WHERE owner IS new.owner;
END;
CREATE TRIGGER correction_out BEFORE DELETE ON answers WHEN old.corrected IS NOT NULL BEGIN
    UPDATE owners SET bytes = bytes - ROW_BYTES - (SELECT bytes FROM pictures WHERE sha256 = old.sha256) * NOT EXISTS (
        SELECT 1 FROM answers
        WHERE sha256 = old.sha256 AND id != old.id AND +owner IS old.owner AND corrected IS NOT NULL
    ) WHERE owner IS old.owner;
    DELETE FROM owners WHERE owner IS old.owner AND bytes = 0;
END;
"""
"""`owners.bytes` is what the corrected answers of an owner are counted as: ROW_BYTES each, and each picture once,
however many of them are about it. `size.corrected` is the sum. Before, a picture was counted for each answer.
`+owner` is no column to SQLite: else it looks through all corrections of the owner, not those of the picture."""
ANSWER_BYTES = """(ROW_BYTES
    + 2 * max(0, length(CAST(row.category AS BLOB)) - NAME_BYTES)
    + 2 * max(0, coalesce(length(CAST(row.correction AS BLOB)), 0) - NAME_BYTES)
)"""
VERSION_5 = """
DROP TRIGGER answer_in;
DROP TRIGGER answer_out;
DROP TRIGGER correction_in;
DROP TRIGGER correction_out;
DELETE FROM owners;
INSERT INTO owners SELECT owner, sum(each) FROM (
    SELECT owner, pictures.bytes + sum(ANSWER_BYTES(answers)) AS each
    FROM answers JOIN pictures USING (sha256) WHERE corrected IS NOT NULL GROUP BY owner, sha256
) GROUP BY owner;
UPDATE size SET
    bytes = (SELECT coalesce(sum(bytes), 0) FROM pictures)
        + (SELECT coalesce(sum(ANSWER_BYTES(answers)), 0) FROM answers),
    corrected = (SELECT coalesce(sum(bytes), 0) FROM owners);
CREATE TRIGGER answer_in AFTER INSERT ON answers BEGIN UPDATE size SET bytes = bytes + ANSWER_BYTES(new); END;
CREATE TRIGGER answer_out AFTER DELETE ON answers BEGIN UPDATE size SET bytes = bytes - ANSWER_BYTES(old); END;
CREATE TRIGGER answer_change AFTER UPDATE OF correction ON answers BEGIN
    UPDATE size SET bytes = bytes + ANSWER_BYTES(new) - ANSWER_BYTES(old);
END;
CREATE TRIGGER correction_change AFTER UPDATE OF correction ON answers WHEN old.corrected IS NOT NULL BEGIN
    UPDATE owners SET bytes = bytes + ANSWER_BYTES(new) - ANSWER_BYTES(old) WHERE owner IS new.owner;
END;
CREATE TRIGGER correction_in AFTER UPDATE OF corrected ON answers WHEN old.corrected IS NULL BEGIN
    INSERT INTO owners SELECT new.owner, 0 WHERE NOT EXISTS (SELECT 1 FROM owners WHERE owner IS new.owner);
    UPDATE owners SET bytes = bytes + ANSWER_BYTES(new) + (
        SELECT bytes FROM pictures WHERE sha256 = new.sha256
    ) * NOT EXISTS (
        SELECT 1 FROM answers
        WHERE sha256 = new.sha256 AND id != new.id AND +owner IS new.owner AND corrected IS NOT NULL
    ) WHERE owner IS new.owner;
END;
CREATE TRIGGER correction_out BEFORE DELETE ON answers WHEN old.corrected IS NOT NULL BEGIN
    UPDATE owners SET bytes = bytes - ANSWER_BYTES(old) - (
        SELECT bytes FROM pictures WHERE sha256 = old.sha256
    ) * NOT EXISTS (
        SELECT 1 FROM answers
        WHERE sha256 = old.sha256 AND id != old.id AND +owner IS old.owner AND corrected IS NOT NULL
    ) WHERE owner IS old.owner;
    DELETE FROM owners WHERE owner IS old.owner AND bytes = 0;
END;
CREATE INDEX answers_uncorrected ON answers (id) WHERE corrected IS NULL;
"""
"""An answer was ROW_BYTES, however long its names. The oldest uncorrected one was looked for behind all others."""
CHOOSE = """
    UPDATE answers SET own = (id = (
        SELECT id FROM answers WHERE sha256 = new.sha256 AND owner IS new.owner ORDER BY corrected DESC, id DESC LIMIT 1
    )) WHERE id IN (new.id, (
        SELECT id FROM answers WHERE sha256 = new.sha256 AND owner IS new.owner AND id != new.id
        ORDER BY corrected DESC, id DESC LIMIT 1
    ));
    UPDATE answers SET shown = (id = (
        SELECT id FROM answers WHERE sha256 = new.sha256 ORDER BY corrected DESC, id DESC LIMIT 1
    )) WHERE id IN (new.id, (
        SELECT id FROM answers WHERE sha256 = new.sha256 AND id != new.id ORDER BY corrected DESC, id DESC LIMIT 1
    ));
"""
"""After a change of one answer: only that one, and the first of the others, can begin or cease to be the first."""
VERSION_6 = """
DROP INDEX answers_by_request;
DROP INDEX answers_by_picture;
DROP INDEX answers_uncertain;
DROP INDEX answers_corrected;
ALTER TABLE answers ADD COLUMN own INTEGER NOT NULL DEFAULT 0;
ALTER TABLE answers ADD COLUMN shown INTEGER NOT NULL DEFAULT 0;
CREATE INDEX answers_by_request ON answers (request, picture, owner);
CREATE INDEX answers_by_picture ON answers (sha256, corrected);
UPDATE answers SET own = 1, shown = (id = (
    SELECT other.id FROM answers AS other WHERE other.sha256 = answers.sha256
    ORDER BY other.corrected DESC, other.id DESC LIMIT 1
)) WHERE id IN (
    SELECT id FROM (
        SELECT id, row_number() OVER (PARTITION BY sha256, owner ORDER BY corrected DESC, id DESC) AS place FROM answers
    ) WHERE place = 1
);
CREATE INDEX answers_uncertain ON answers (unknown DESC, confidence, id) WHERE shown AND corrected IS NULL;
CREATE INDEX answers_uncertain_by_owner ON answers (owner, unknown DESC, confidence, id)
    WHERE own AND corrected IS NULL;
CREATE INDEX answers_corrected ON answers (corrected) WHERE shown AND corrected IS NOT NULL;
CREATE TABLE counts (
    owner TEXT UNIQUE,
    answers INTEGER NOT NULL DEFAULT 0,
    own INTEGER NOT NULL DEFAULT 0,
    shown INTEGER NOT NULL DEFAULT 0,
    corrected INTEGER NOT NULL DEFAULT 0,
    none INTEGER NOT NULL DEFAULT 0
);
INSERT INTO counts SELECT
    owner, count(*), sum(own), sum(shown), count(corrected), count(corrected) - count(correction)
FROM answers GROUP BY owner;
CREATE TRIGGER counted_in AFTER INSERT ON answers BEGIN
    INSERT INTO counts (owner) SELECT new.owner WHERE NOT EXISTS (SELECT 1 FROM counts WHERE owner IS new.owner);
    UPDATE counts SET
        answers = answers + 1,
        corrected = corrected + (new.corrected IS NOT NULL),
        none = none + (new.corrected IS NOT NULL AND new.correction IS NULL)
    WHERE owner IS new.owner;
    CHOOSE
END;
CREATE TRIGGER counted_change AFTER UPDATE OF corrected, correction ON answers BEGIN
    UPDATE counts SET
        corrected = corrected + (new.corrected IS NOT NULL) - (old.corrected IS NOT NULL),
        none = none + (new.corrected IS NOT NULL AND new.correction IS NULL)
            - (old.corrected IS NOT NULL AND old.correction IS NULL)
    WHERE owner IS new.owner;
    CHOOSE
END;
CREATE TRIGGER counted_choice AFTER UPDATE OF own, shown ON answers BEGIN
    UPDATE counts SET own = own + new.own - old.own, shown = shown + new.shown - old.shown WHERE owner IS new.owner;
END;
CREATE TRIGGER counted_out AFTER DELETE ON answers BEGIN
    UPDATE counts SET
        answers = answers - 1,
        own = own - old.own,
        shown = shown - old.shown,
        corrected = corrected - (old.corrected IS NOT NULL),
        none = none - (old.corrected IS NOT NULL AND old.correction IS NULL)
    WHERE owner IS old.owner;
    UPDATE answers SET own = 1 WHERE old.own AND id = (
        SELECT id FROM answers WHERE sha256 = old.sha256 AND owner IS old.owner ORDER BY corrected DESC, id DESC LIMIT 1
    );
    UPDATE answers SET shown = 1 WHERE old.shown AND id = (
        SELECT id FROM answers WHERE sha256 = old.sha256 ORDER BY corrected DESC, id DESC LIMIT 1
    );
    DELETE FROM counts WHERE owner IS old.owner AND answers = 0;
END;
""".replace("CHOOSE", CHOOSE.strip())
"""Of an owner's answers about a picture its lists show one, `own`: the last correction, or else the last answer. Of
all owners' it is `shown`. `counts` has a row for each owner. Lists and counts looked at all that anybody had sent."""
SCRIPTS = (VERSION_1, VERSION_2, VERSION_3, VERSION_4, VERSION_5, VERSION_6)
"""A database of version N has been made by the first N of these."""
VERSION = len(SCRIPTS)


@dataclass(frozen=True)
class Answered:
    """One picture that was answered, as it came."""

    request: str
    """The request's id."""
    picture: int
    """Its place in the request, from 0."""
    data: bytes
    category: str
    confidence: float
    unknown: bool
    model: str
    """Version of the model that answered."""
    time: float
    """Seconds since 1970, UTC."""
    owner: str = ""
    """Name of the API key that sent it; empty on a server without keys."""
    line: str = ""
    """With whom it takes turns until it is written."""


@dataclass(frozen=True)
class Kept:
    """One picture in the store."""

    id: int
    request: str
    picture: int
    sha256: str
    """Of its file, without metadata."""
    kind: str
    category: str
    """What the model answered."""
    confidence: float
    unknown: bool
    model: str
    time: float
    corrected: float | None
    """When somebody said what it shows; None if nobody has."""
    correction: str | None
    """What it shows; None, where `corrected` is a time, means none of the classes."""
    owner: str | None
    """As above; None for what was kept by version 0.1, which did not say."""

    @classmethod
    def of(cls, row: Sequence[Any]) -> "Kept":
        """Read a row of COLUMNS; raises DataError for values that no Pupila has written."""
        values = list(row)
        if not all(map(isinstance, values, KINDS)):
            raise DataError("An answer in the database is damaged. Restore the database from a copy.")
        values[COLUMNS.index("unknown")] = bool(values[COLUMNS.index("unknown")])
        return cls(*values)


@dataclass(frozen=True)
class Counts:
    """What is in a store."""

    answers: int
    pictures: int
    """Different ones."""
    corrected: int
    none: int
    """Of those corrected: none of the classes."""
    bytes: int
    """On the disk, as they are counted."""


COLUMNS = tuple(field.name for field in fields(Kept))
"""As the store's tables call them."""
KINDS: tuple[type | tuple[type, ...], ...] = (
    int, str, int, str, str, str, float, int, str, float, (float, NoneType), (str, NoneType), (str, NoneType),
)  # fmt: skip
"""Of their values: SQLite keeps any others, too."""


def on_disk(length: int) -> int:
    """Return how many bytes a picture whose file has this length is counted as."""
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES + ROW_BYTES


def row_bytes(category: str) -> int:
    """Return how many bytes an answer is counted as before anybody corrects it."""
    return ROW_BYTES + 2 * max(0, len(category.encode()) - NAME_BYTES)


def connect(path: Path) -> sqlite3.Connection:
    """Open the database, brought to this version; raises DataError if it is damaged, or of a later version.

    It may be a stranger's: one of other tables, or beside links, is refused before anything is done with it.

    Commits are durable when they return: SQLite's write-ahead log, flushed at each commit. What is deleted is
    overwritten, not only forgotten. The connection begins no transaction by itself.
    """
    connection = None
    try:
        check_database(path)
        connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        with few_steps(connection):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")
            _check_tables(connection)
        if 0 < _version(connection) < VERSION:
            check_pages(connection)  # the next version is made by a look at all rows
        version = _prepare(connection)
    except (sqlite3.DatabaseError, OSError) as error:
        if connection is not None:
            connection.close()
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be used ({reason}). Restore it, or give another folder.") from error
    if version != VERSION:
        connection.close()
        raise DataError(f"{path}: is of version {version}; this Pupila reads {VERSION}. Upgrade Pupila.")
    return connection


def _check_tables(connection: sqlite3.Connection) -> None:
    """Raise DatabaseError for other tables than those of the database's version: a list of a view may have no end."""
    connection.execute("BEGIN")  # both are of one moment: another process may bring it to the next version
    version, found = _version(connection), tables_of(connection)
    connection.execute("COMMIT")
    if version <= VERSION and found != _tables(version):
        raise sqlite3.DatabaseError("it has other tables than a server makes")


@functools.cache
def _tables(version: int) -> list[Any]:
    """Return what a database of this version consists of."""
    with contextlib.closing(sqlite3.connect(":memory:")) as made:
        made.executescript("".join(map(_script, range(version))))
        return tables_of(made)


def _prepare(connection: sqlite3.Connection) -> int:
    """Make what is missing of the tables, or wait for another process that does; return their version."""
    until = time.monotonic() + LONGEST_WAIT
    while (version := _version(connection)) < VERSION:
        _announce(connection, version)
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE; {_script(version)} PRAGMA user_version = {version + 1}; COMMIT;"
            )
        except sqlite3.OperationalError as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            waits = error.sqlite_errorcode == sqlite3.SQLITE_BUSY and time.monotonic() < until
            if not waits and _version(connection) == version:  # else another process was faster
                raise
    return version


def _announce(connection: sqlite3.Connection, version: int) -> None:
    """Log how long it takes, in one transaction, to bring a large database to the next version."""
    answers = connection.execute("SELECT count(*) FROM answers").fetchone()[0] if version else 0
    if answers >= PER_SECOND:
        seconds = answers // PER_SECOND
        log.warning("%d kept answers of version %d are brought to the next one: some %d s", answers, version, seconds)


def _script(version: int) -> str:
    """Return what brings a database of this version to the next one, with the figures above."""
    script = SCRIPTS[version]
    for row in ("old", "new", "answers"):
        script = script.replace(f"ANSWER_BYTES({row})", ANSWER_BYTES.replace("row.", f"{row}."))
    figures = {"ROW_BYTES": ROW_BYTES, "BLOCK_BYTES": BLOCK_BYTES, "NAME_BYTES": NAME_BYTES}
    for name, figure in figures.items():
        script = script.replace(name, str(figure))
    return script


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
