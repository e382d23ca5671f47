"""Files that are written, and addresses that are read: permissions, formulas in tables, paths in answers, redirects."""

import contextlib
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

from pupila._files import FORMULA, CsvWriter, escaped, unescaped
from pupila.batch import listing
from pupila.batch.job import About, BatchJob, FileAnswer
from pupila.batch.listing import read_address, walk_address
from pupila.batch.table import SUBMISSION, submission_rows, write_csv
from pupila.errors import DataError

SOURCE = Path(__file__).parents[2] / "src" / "pupila"
FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0"]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_looks_like_a_formula_gets_an_apostrophe(text: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ["path", "confidence"], [[text, -0.5]])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file))[1] == [f"'{text}", "-0.5"]


@pytest.mark.parametrize("text", [*FORMULAS, "'=1", "''-x", "'", "'-5", "-5"])
def test_what_was_written_is_read_back(text: str) -> None:
    assert unescaped(escaped(text)) == text


@pytest.mark.parametrize("text", [*FORMULAS, 'a,"b"', "a\nb"])
def test_submission_is_a_table_like_the_others(text: str, tmp_path: Path) -> None:
    (tmp_path / "7.png").touch()
    with BatchJob(tmp_path / "t.csv") as job:
        job.begin([tmp_path / "7.png"], [], About("m", "v", 1))
        job.answer([str(tmp_path / "7.png")], FileAnswer(((0, 1.0),)).to_line())
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
    signs = "".join(FORMULA).encode("unicode_escape").decode().replace("-", r"\-")
    assert re.findall(r"/\^\[(.+?)\]/", page) == [signs]


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


class Silent(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def answering(handler: type[Silent]) -> Iterator[str]:
    """Run a web server until the block ends; yield its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def web() -> Iterator[str]:
    """A web server; /to/ADDRESS redirects there, everything else is a file of two bytes."""

    class Handler(Silent):
        def do_GET(self) -> None:  # the name that http.server asks for
            to = self.path.partition("/to/")[2]
            self.send_response(302 if to else 200)
            self.send_header("Location", to) if to else self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"" if to else b"ok")

    with answering(Handler) as url:
        yield url


def test_redirect_on_the_same_server_is_followed(web: str) -> None:
    assert read_address(f"{web}/to/{web}/a.jpg", 10) == b"ok"
    assert read_address(f"{web}/to//a.jpg", 10) == b"ok"


ELSEWHERE = ["http://localhost:{port}/a", "http://127.0.0.1:1/a", "http://169.254.169.254/", "ftp://127.0.0.1/"]


@pytest.mark.parametrize("target", ELSEWHERE)
def test_redirect_to_another_server_is_not_followed(web: str, target: str) -> None:
    target = target.format(port=web.rpartition(":")[2])
    with pytest.raises(OSError, match=r"redirects to .*, which is not followed|server answers 302"):
        read_address(f"{web}/to/{target}", 10)


PAGES = {
    "/photos/": """<a href="../">up</a> <a href="?C=N;O=D">Name</a> <A class="x" HREF='a.jpg'>a</A> <a href=./>here</a>
        <a href="/photos/deep/">deep</a> <a href="b%20b.jpg#top">b</a> <a href="/other/c.jpg">c</a>
        <a href="http://127.0.0.1:1/photos/d.jpg">d</a> <a href="//169.254.169.254/photos/e.jpg">e</a>
        <a href="deep/../../other/f.jpg">f</a> <a href="%2e%2e/other/g.jpg">g</a>
        <a href=".hidden/">i</a> <a href="ftp://127.0.0.1/photos/j.jpg">j</a> <a href="http://[::1/k.jpg">k</a>
        <a href="..\\other\\l.jpg">l</a> <a href="javascript:m()">m</a> <a href="%64eep/">deep</a>""",
    "/photos/deep/": """<a href="/photos/">up</a> <a href="z&amp;y.jpg">z</a> <a href="/photos/a.jpg">a</a>""",
    "/loop/": """<a href="loop/">on</a>""",
    "/many/": "".join(f'<a href="{number}/">on</a>' for number in range(2000)),
    "/hostile/": "<a " * 300_000 + "<a href" + " " * 300_000,
    "/empty/": "nothing",
}


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    """A web server whose pages link everywhere. What is asked of it beyond its pages is answered by the last folder."""

    class Handler(Silent):
        def do_GET(self) -> None:
            parts = self.path.split("/")
            page = PAGES.get(self.path) or PAGES.get(f"/{parts[-2]}/", "")
            if parts[1] == "moved":
                self.send_response(302)
                self.send_header("Location", "/photos/")
            else:
                self.send_response(200)
            self.end_headers()
            self.wfile.write(page.encode())

    with answering(Handler) as url:
        yield url


def test_listing_stays_on_the_server_and_below_the_folder(pages: str) -> None:
    found = sorted(address.decode().removeprefix(pages) for address, _ in walk_address(f"{pages}/photos/"))
    assert found == ["/photos/a.jpg", "/photos/b%20b.jpg", "/photos/deep/z&y.jpg"]


@pytest.mark.parametrize("folder", ["loop", "many"])
def test_listing_without_an_end_is_given_up(pages: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_PAGES", 50)
    with pytest.raises(DataError, match="its folders lead on and on"):
        list(walk_address(f"{pages}/{folder}/"))


def test_listing_of_too_many_bytes_is_given_up(pages: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_PAGE_BYTES", 500)
    with pytest.raises(DataError, match="its folders lead on and on"):
        list(walk_address(f"{pages}/photos/"))


@pytest.mark.parametrize("folder", ["hostile", "empty"])
def test_page_without_links_has_no_files(pages: str, folder: str) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        list(walk_address(f"{pages}/{folder}/"))


def test_folder_that_has_moved_is_said_and_not_followed(pages: str) -> None:
    with pytest.raises(DataError, match=r"redirects to http://.*/photos/\. Give that address"):
        list(walk_address(f"{pages}/moved/"))


def test_answer_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(Silent):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            for _ in range(600):
                self.wfile.write(b"x")
                time.sleep(0.1)

    monkeypatch.setattr(listing, "MAX_SECONDS", 0.5)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with pytest.raises(OSError, match="too slowly"):
            read_address(f"http://127.0.0.1:{server.server_address[1]}/a.jpg", 1000)
        server.shutdown()
        thread.join()
