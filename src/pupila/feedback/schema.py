"""The store's tables. Knows SQLite's language, nothing of pictures."""

import sqlite3
from pathlib import Path

from pupila.errors import DataError

VERSION = 1
WAIT = 5.0
"""Seconds to wait for another process that is writing."""
ROW_BYTES = 512
"""What a row and its index entries are counted as: without it, one picture sent for ever would fill the disk."""

TABLES = """
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


def connect(path: Path) -> sqlite3.Connection:
    """Open the database, with its tables; raises DataError if it is damaged, or of another version.

    Commits are durable when they return: SQLite's write-ahead log, flushed at each commit. What is deleted is
    overwritten, not only forgotten. The connection begins no transaction by itself.
    """
    connection = None
    try:
        connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        version = _prepare(connection)
    except sqlite3.DatabaseError as error:
        if connection is not None:
            connection.close()
        raise DataError(f"{path}: cannot be used ({error}). Restore it, or give another folder.") from error
    if version != VERSION:
        connection.close()
        raise DataError(f"{path}: is of version {version}; this Pupila reads {VERSION}. Upgrade Pupila.")
    return connection


def _prepare(connection: sqlite3.Connection) -> int:
    """Make the tables if there are none; return the version of those that there are."""
    if not _version(connection):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not _version(connection):  # or another process has just made them
                for statement in statements_of(TABLES.replace("ROW_BYTES", str(ROW_BYTES))):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    return _version(connection)


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def statements_of(script: str) -> list[str]:
    """Split a script into its statements: `executescript` would commit before it begins."""
    statements, pending = [], ""
    for line in script.splitlines():
        pending += f"{line}\n"
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return statements
