"""Files that are written, and addresses that are read: permissions, formulas in tables, paths in answers."""

import csv
import json
import os
import re
import select
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from server_kit import serving, wait_until, write_model

from pupila._files import BEGINNING, FORMULA, CsvWriter, copy_file, escaped, text_table, unescaped
from pupila.batch import predict_all
from pupila.batch.job import About, BatchJob, to_line
from pupila.batch.listing import shown_path, walk_address
from pupila.batch.run import _verified
from pupila.batch.table import SUBMISSION, submission_rows, write_csv
from pupila.errors import DataError
from pupila.prediction import Choice, Prediction

SOURCE = Path(__file__).parents[2] / "src" / "pupila"
FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\tx", "\rx", "=cmd|' /C calc'!A0", "\uff1d1", "\uff0b1", "\uff0d1"]
WITHIN = ["a;=HYPERLINK(A1)|'", "a\t=1", "\t=1", "a, @x", 'b;"=1', "c|\uff1d1", "d;'=1", "e\n-1", ";;=1", "=1;=2"]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_looks_like_a_formula_gets_an_apostrophe(text: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ["path", "confidence"], [[text, -0.5]])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file))[1] == [f"'{text}", "-0.5"]


@pytest.mark.parametrize("delimiter", ";,|\t")
@pytest.mark.parametrize("text", WITHIN)
def test_formula_within_a_cell_is_none_wherever_a_program_splits(text: str, delimiter: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ["path", "category"], [["a", text]])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert not [cell for row in csv.reader(file, delimiter=delimiter) for cell in row if cell.startswith(FORMULA)]
    split = re.split(r"[;,|\t\n]", (tmp_path / "t.csv").read_text())
    assert not [cell for cell in split if cell.lstrip(' "').startswith(FORMULA)]


@pytest.mark.parametrize("text", [*FORMULAS, *WITHIN, "'=1", "''-x", "'", "'-5", "-5"])
def test_what_was_written_is_read_back(text: str) -> None:
    assert unescaped(escaped(text)) == text


STRANGE = {
    "a trigger": "CREATE TRIGGER a AFTER INSERT ON now BEGIN INSERT INTO files VALUES ('secret', '-', NULL); END",
    "another table": "CREATE TABLE more (path)",
    "a view": "DROP TABLE now; CREATE VIEW now AS SELECT path, stamp FROM files",
}


@pytest.mark.parametrize("kind", STRANGE)
def test_job_of_tables_that_are_not_ours_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "7.png").touch()
    with BatchJob(tmp_path / "t.csv") as job:
        job.begin([tmp_path / "7.png"], [], About("m", "v", 1))
        job.answer([str(tmp_path / "7.png")], b"[0,0,1.0]\n")
    with closing(sqlite3.connect(job.folder / "job.sqlite")) as sql:
        sql.executescript(STRANGE[kind])
    with pytest.raises(DataError, match="no job that you began"), BatchJob(tmp_path / "t.csv"):
        pass


@pytest.mark.parametrize("begun", [True, False])
def test_job_answers_only_what_its_paths_hold(begun: bool, tmp_path: Path) -> None:
    (tmp_path / "7.png").touch()
    with BatchJob(tmp_path / "t.csv") as job:
        about = job.begin([tmp_path / "7.png"], [], About("m", "v", 1))
        job.answer([str(tmp_path / "7.png")], b"[0,0,1.0]\n")
    with closing(sqlite3.connect(job.folder / "job.sqlite")) as sql:
        sql.execute("INSERT INTO now VALUES (CAST('/home/ana/secret' AS BLOB), x'2d')")
        sql.execute("INSERT INTO files SELECT path, stamp, NULL FROM now")
        sql.execute("UPDATE files SET answer = '[0,0,1.0]'")
        sql.execute("UPDATE about SET files = 2" if begun else "DELETE FROM about")
        sql.commit()
    with BatchJob(tmp_path / "t.csv") as job:
        if begun:
            with pytest.raises(DataError, match="files that are gone: '/home/ana/secret'"):
                job.begin([tmp_path / "7.png"], [], About("m", "v", 1))
        else:
            assert job.begin([tmp_path / "7.png"], [], About("m", "v", 1)) == about
            assert list(job.paths()) == [os.fsencode(tmp_path / "7.png")] and job.answered() == 0


WRONG = ["[0,999,0.9]", "[0,-1,0.9]", "[0,3]", "[0]", "{}", "5", '["a"]', '["a",5]', '[0,0,"x"]', "[0,0,1,1,0]"]
DAMAGE = [f"UPDATE files SET answer = '{answer}'" for answer in [*WRONG, "[" * 9999]]  # noqa: S608
DAMAGE += [f"UPDATE about SET {column} = 'abc'" for column in ("top", "files", "hidden")]  # noqa: S608
DAMAGE += ["UPDATE about SET files = 1000000000000000, model = x'61'"]


@pytest.mark.parametrize("damage", DAMAGE, ids=[text[:70] for text in DAMAGE])
def test_damaged_job_is_refused_in_a_sentence(damage: str, tmp_path: Path) -> None:
    (tmp_path / "7.png").touch()
    model, out = write_model(tmp_path / "m.onnx"), tmp_path / "t.jsonl"
    with BatchJob(out) as job:
        job.begin([tmp_path / "7.png"], [], _verified(model, 1)[1])
        job.answer([str(tmp_path / "7.png")], b"[0,0,1.0]\n")
    with closing(sqlite3.connect(job.folder / "job.sqlite")) as sql, sql:
        sql.execute(damage)
    with pytest.raises(DataError, match=r"no job that you began|answers of this job are damaged"):
        predict_all(model, [tmp_path / "7.png"], out)


def test_journal_beside_a_job_is_not_played_back(tmp_path: Path) -> None:
    (tmp_path / "7.png").touch()
    (tmp_path / "t.csv.unfinished").mkdir()
    (tmp_path / "t.csv.unfinished" / "job.sqlite-journal").write_bytes(bytes(600))
    with BatchJob(tmp_path / "t.csv") as job:
        assert not (job.folder / "job.sqlite-journal").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_job_in_a_folder_of_another_account_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv.unfinished").mkdir()
    os.chown(tmp_path / "t.csv.unfinished", 12_345, 12_345)
    with pytest.raises(DataError, match="no job that you began"), BatchJob(tmp_path / "t.csv"):
        pass


def test_addresses_are_shown_without_what_opens_their_store() -> None:
    pytest.importorskip("pyarrow")
    for address in ("s3://me:secret@bucket/a/?nonsense=secret", "ftp://me:secret@host/a?key=secret"):
        with pytest.raises(DataError) as caught:
            list(walk_address(address))
        assert "secret" not in str(caught.value) and "/a" in str(caught.value)
    assert shown_path("s3://me:secret@bucket/a/?nonsense=secret") == "s3://me@bucket/a/"
    assert shown_path(Path("a:secret@b")) == "a:secret@b"


def test_long_cell_of_a_printed_table_widens_no_other() -> None:
    assert max(map(len, text_table([["a", "b"], ["x" * 1000, ""], ["y", "z"]]).splitlines()[::2])) == 103


@pytest.mark.parametrize("text", [*FORMULAS, 'a,"b"', "a\nb"])
def test_submission_is_a_table_like_the_others(text: str, tmp_path: Path) -> None:
    (tmp_path / "7.png").touch()
    with BatchJob(tmp_path / "t.csv") as job:
        job.begin([tmp_path / "7.png"], [], About("m", "v", 1))
        job.answer([str(tmp_path / "7.png")], to_line(Prediction((Choice(text, 0, 1.0),), False)))
        write_csv(tmp_path / "t.csv", SUBMISSION, submission_rows(job, [text]))
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["id", "label"], ["7", escaped(text)]]


@pytest.mark.parametrize("text", ["cat", "-0.25", "+1e-3", "", "a=b", "'quoted'"])
def test_other_text_stays(text: str) -> None:
    assert escaped(text) == unescaped(text) == text


def test_no_csv_is_written_without_that() -> None:
    writers = [path.name for path in SOURCE.rglob("*.py") if re.search(r"csv\.(Dict)?[Ww]riter", path.read_text())]
    assert writers == ["_files.py"]
    assert CsvWriter.__doc__
    page = (SOURCE / "server" / "api" / "page" / "save.js").read_text()
    for part in (r"[ '\x22]*[=+@\uff1d\uff0b\uff0d\uff20-])", r"(?='*[\t\r])", r";,|\t\r\n])"):
        assert part in page and part in BEGINNING


def test_access_log_is_not_for_everybody_and_readyz_names_no_folder(tmp_path: Path) -> None:
    model, log = write_model(tmp_path / "colours.onnx"), tmp_path / "access.log"
    before = os.umask(0o022)
    try:
        settings = {"port": 0, "workers": 1, "access_log": str(log)}
        with serving(model, tmp_path / "log", json.dumps(settings)) as server:
            assert log.stat().st_mode & 0o777 == 0o640
            time.sleep(0.1)  # the next file must have another time
            (tmp_path / "new").write_bytes(b"no model")
            (tmp_path / "new").replace(model)
            wait_until(lambda: "refused" in server.get("/readyz").json(), 30)
            refused = server.get("/readyz").json()["refused"]
            assert refused.startswith("colours.onnx: ")
            assert str(tmp_path) not in refused and "/" not in refused
    finally:
        os.umask(before)


@pytest.mark.parametrize("scheme", ["http", "https", "HTTP"])
def test_web_server_is_refused_and_not_asked(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(DataError, match="fetch the pictures first"):
            list(walk_address(f"{scheme}://127.0.0.1:{server.getsockname()[1]}/photos/"))
        assert not select.select([server], [], [], 0)[0]


def test_copy_is_no_program_that_runs_as_its_owner(tmp_path: Path) -> None:
    source, target = tmp_path / "cat.jpg", tmp_path / "copy.jpg"
    source.write_bytes(b"x")
    os.utime(source, ns=(1_600_000_000_000_000_000,) * 2)
    source.chmod(0o6751)
    copy_file(source, target)
    assert (target.stat().st_mode & 0o7777, target.stat().st_mtime_ns) == (0o751, 1_600_000_000_000_000_000)
    assert target.read_bytes() == b"x"


def test_unfinished_copy_is_for_its_owner_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cat.jpg")  # is not copied
    with pytest.raises(shutil.SpecialFileError):
        copy_file(tmp_path / "cat.jpg", tmp_path / "copy.jpg")
    assert (tmp_path / "copy.jpg").stat().st_mode & 0o777 == 0o600


def test_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    os.mkfifo(tmp_path / "photos" / "pipe.png")
    command = [
        sys.executable,
        "-m",
        "pupila",
        "predict",
        str(write_model(tmp_path / "m.onnx")),
        str(tmp_path / "photos"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "pipe.png: " in done.stdout and "not a regular file" in done.stdout
