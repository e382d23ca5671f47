"""Files that are written, and addresses that are read: permissions, formulas in tables, paths in answers, redirects."""

import csv
import http.server
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_kit import serving, wait_until, write_model

from pupila._files import CsvWriter, escaped, unescaped
from pupila.batch.listing import read_address
from pupila.batch.table import write_csv

SOURCE = Path(__file__).parents[2] / "src" / "pupila"
FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0"]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_looks_like_a_formula_gets_an_apostrophe(text: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ["path", "confidence"], [[text, -0.5]])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file))[1] == [f"'{text}", "-0.5"]
    assert unescaped(escaped(text)) == text


@pytest.mark.parametrize("text", ["cat", "-0.25", "+1e-3", "", "a=b", "'quoted'"])
def test_other_text_stays(text: str) -> None:
    assert escaped(text) == unescaped(text) == text


def test_no_csv_is_written_without_that() -> None:
    writers = [path.name for path in SOURCE.rglob("*.py") if re.search(r"csv\.(Dict)?[Ww]riter", path.read_text())]
    assert writers == ["_files.py"]
    assert CsvWriter.__doc__


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


@pytest.fixture
def web() -> Iterator[str]:
    """A web server; /to/ADDRESS redirects there, everything else is a file of two bytes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server asks for
            to = self.path.partition("/to/")[2]
            self.send_response(302 if to else 200)
            self.send_header("Location", to) if to else self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"" if to else b"ok")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_redirect_on_the_same_server_is_followed(web: str) -> None:
    assert read_address(f"{web}/to/{web}/a.jpg", 10) == b"ok"
    assert read_address(f"{web}/to//a.jpg", 10) == b"ok"


ELSEWHERE = ["http://localhost:{port}/a", "http://127.0.0.1:1/a", "http://169.254.169.254/", "ftp://127.0.0.1/"]


@pytest.mark.parametrize("target", ELSEWHERE)
def test_redirect_to_another_server_is_not_followed(web: str, target: str) -> None:
    target = target.format(port=web.rpartition(":")[2])
    with pytest.raises(OSError, match=r"redirects to .*, which is not followed|server answers 302"):
        read_address(f"{web}/to/{target}", 10)
