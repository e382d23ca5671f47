"""Kept pictures that came with a folder of runs: no file outside is touched or read, and no list goes on for ever."""

import os
import sqlite3
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from feedback_kit import correct

from pupila import images
from pupila.errors import DataError
from pupila.feedback import Answered, Store, corrections
from pupila.feedback.corrections import Corrections, read_corrections
from pupila.models import bundled_model

PNG = images.encode_png(np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8))
JOURNAL_END = bytes.fromhex("d9d505f920a163d7")
MANY = 300
"""Answers that take several pages of the database."""


def answered(owner: str) -> Answered:
    return Answered("r", 0, PNG, "red", 0.5, False, "m1", 0.0, owner)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The folder of a store with one corrected picture."""
    folder = tmp_path / "runs" / "kept"
    store = Store(folder, create=True)
    store.add([answered("a")])
    correct(store, "r", 0, "blue", 1.0)
    store.close()
    return folder


def change(folder: Path, script: str) -> None:
    """Change a store's database as a stranger may."""
    with closing(sqlite3.connect(folder / "feedback.sqlite")) as database:
        database.executescript(script)


def read(folder: Path) -> Corrections:
    return read_corrections(folder, ("red", "blue"), 32, [])


def journal_of_several(victim: Path) -> bytes:
    """Return what is a journal of several databases to SQLite, which deletes the file that it names."""
    name = os.fsencode(victim)
    record = struct.pack(">I", 2**30 // 4096 + 1) + name + struct.pack(">II", len(name), sum(name))
    return b"x" * 16 + record + JOURNAL_END


def test_journal_beside_a_store_has_no_file_deleted(kept: Path, tmp_path: Path) -> None:
    victim = tmp_path / "precious.txt"
    victim.write_text("the only copy\n")
    (kept / "feedback.sqlite-journal").write_bytes(journal_of_several(victim))
    command = [sys.executable, "-m", "pupila", "feedback", "show", str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert victim.exists()
    assert done.returncode == 1 and "its journal names another file, to be deleted" in done.stderr, done.stderr


def test_journal_of_the_store_alone_is_left_to_sqlite(kept: Path) -> None:
    (kept / "feedback.sqlite-journal").write_bytes(bytes(600))
    assert len(read(kept)) == 1


@pytest.mark.parametrize("name", ["feedback.sqlite", "feedback.sqlite-wal", "feedback.sqlite-journal", "pictures"])
def test_link_in_a_store_is_refused(name: str, kept: Path, tmp_path: Path) -> None:
    if (kept / name).exists():
        (kept / name).rename(tmp_path / "elsewhere")
    (kept / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"cannot be used .{name} is a link"):
        Store(kept)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to(path.parents[3] / "mine.png")


@pytest.mark.parametrize("odd", [link, pipe])
def test_picture_that_is_no_plain_file_is_left_out(odd: Callable[[Path], None], kept: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(PNG)
    (file,) = (kept / "pictures").iterdir()
    file.unlink()
    odd(file)
    found = read(kept)
    assert (len(found), found.unreadable) == (0, 1)


def test_names_in_a_database_lead_out_of_no_store(kept: Path, tmp_path: Path) -> None:
    victim = tmp_path / "mine.png"
    victim.write_bytes(PNG)
    path = victim.with_suffix("")
    change(kept, f"UPDATE pictures SET sha256 = '{path}'; UPDATE answers SET sha256 = '{path}'")  # noqa: S608
    with pytest.raises(DataError, match="its database is damaged"):
        read(kept)
    store = Store(kept)
    with pytest.raises(DataError, match="its database is damaged"):
        store.delete()
    store.close()
    assert victim.exists()


STRANGE = {
    "a view": "ALTER TABLE answers RENAME TO others; CREATE VIEW answers AS SELECT * FROM others",
    "a trigger": "CREATE TRIGGER more AFTER INSERT ON answers BEGIN DELETE FROM pictures; END",
    "another table": "CREATE TABLE more (path)",
}


@pytest.mark.parametrize("kind", STRANGE)
def test_store_of_other_tables_is_refused(kind: str, kept: Path) -> None:
    change(kept, STRANGE[kind])
    with pytest.raises(DataError, match="has other tables than a server makes"):
        Store(kept)


def test_store_of_an_earlier_version_and_other_tables_is_not_migrated(tmp_path: Path) -> None:
    with zipfile.ZipFile(Path(__file__).parents[1] / "store_version1.zip") as archive:
        archive.extractall(tmp_path)
    change(tmp_path, STRANGE["a trigger"])
    with pytest.raises(DataError, match="has other tables than a server makes"):
        Store(tmp_path)
    with closing(sqlite3.connect(tmp_path / "feedback.sqlite")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)


@pytest.mark.parametrize("values", ["category = x'00'", "unknown = 'a'", "confidence = 'a'"])
def test_answer_of_other_types_is_named(values: str, kept: Path) -> None:
    change(kept, f"UPDATE answers SET {values}")  # noqa: S608
    with pytest.raises(DataError, match="damaged"):
        read(kept)


def test_pages_that_lead_in_circles_are_not_followed(kept: Path) -> None:
    """A page that is its parent's only child, however often, makes a table without an end out of a few kilobytes."""
    path = kept / "feedback.sqlite"
    store = Store(kept)
    store.add([answered(f"o{number}") for number in range(MANY)])
    store.close()
    with closing(sqlite3.connect(path)) as database:
        (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'answers'").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    data, page = bytearray(path.read_bytes()), (root - 1) * size
    assert data[page] == 5  # a page above others
    first = page + int.from_bytes(data[page + 12 : page + 14])
    data[page + 8 : page + 12] = data[first : first + 4]
    path.write_bytes(data)
    with pytest.raises(DataError, match="its database is damaged"):
        read(kept)


@pytest.mark.parametrize(
    ("look", "behind"),
    [("feedback show", ""), ("drift", ""), ("feedback review", "--port 0"), ("feedback delete", "--request r")],
)
def test_pages_are_checked_before_all_answers_are_counted(look: str, behind: str, kept: Path) -> None:
    """Of all these commands, as of a training: a chain of pages that name the next one often has rows without end."""
    data = bytearray((kept / "feedback.sqlite").read_bytes())
    with closing(sqlite3.connect(kept / "feedback.sqlite")) as database:
        (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'answers'").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    data[(root - 1) * size + 3 : (root - 1) * size + 5] = b"\x00\x09"  # nine cells, of which one is there
    (kept / "feedback.sqlite").write_bytes(data)
    model = [str(bundled_model())] if look == "drift" else []
    command = [sys.executable, "-m", "pupila", *look.split(), *model, str(kept), *behind.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "its database is damaged" in done.stderr, done.stderr


def test_value_that_no_server_writes_is_not_read(kept: Path) -> None:
    change(kept, "UPDATE answers SET correction = printf('%.*c', 100000, 'b')")
    with pytest.raises(DataError, match="its database is damaged"):
        read(kept)


def test_rows_without_end_are_not_kept_in_memory(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All about one picture: only then are they one."""
    store = Store(kept)
    store.add([answered(f"o{number}") for number in range(4)])
    store.close()
    with closing(sqlite3.connect(kept / "feedback.sqlite")) as database:
        triggers = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    away = "".join(f"DROP TRIGGER {name}; " for name, _ in triggers)
    again = "".join(f"{sql}; " for _, sql in triggers)
    for script in (away, "UPDATE answers SET corrected = 1.0, correction = 'blue', shown = 1", again):
        change(kept, script)
    assert len(read(kept)) == 1
    monkeypatch.setattr(corrections, "MAX_CORRECTED", 4)
    with pytest.raises(DataError, match="more corrected pictures than the limit of 4"):
        read(kept)
