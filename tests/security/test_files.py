"""Files that are written, and addresses that are read: permissions, formulas in tables, paths in answers."""

import csv
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from server_kit import serving, wait_until, write_model

from pupila._files import BEGINNING, FORMULA, CsvWriter, escaped, unescaped
from pupila.batch.job import About, BatchJob, to_line
from pupila.batch.listing import walk_address
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
