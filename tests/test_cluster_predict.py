"""Batch prediction of pictures that lie elsewhere, in stores that speak S3."""

import select
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from batch_kit import fill
from click.testing import CliRunner
from server_kit import CLASSES, write_model

from pupila.batch import predict_all
from pupila.batch.job import About, BatchJob
from pupila.batch.listing import shown_name, walk_address
from pupila.cli import main
from pupila.errors import DataError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "colours.onnx")


def table(path: Path) -> list[dict[str, Any]]:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return rows


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["a.png", "--cluster"], "--cluster needs --out"),
        (["s3://bucket/photos/"], "Addresses need --out"),
        (["s3://bucket/photos/", "--out", "a.csv", "--sort-into", "b"], "cannot be sorted"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], fault: str) -> None:
    result = CliRunner().invoke(main, ["predict", "m.onnx", *options])
    assert result.exit_code == 2
    assert fault in result.output


# From elsewhere


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    fill(tmp_path / "bucket" / "photos" / "deep", 6)
    return tmp_path / "bucket"


class Store(BaseHTTPRequestHandler):
    """As much of S3's interface as reading needs: HEAD, GET of a range, and ListObjectsV2."""

    root: Path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        file = self.root / unquote(parts.path).lstrip("/")
        if "list-type" in parts.query:
            self.answer(200, self.listing(file, parse_qs(parts.query)), "application/xml")
        elif not file.is_file():
            self.answer(404, b"", "text/plain")
        else:
            first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            data = file.read_bytes()
            part = data[int(first) : int(last) + 1 if last else None]
            self.answer(206 if "Range" in self.headers else 200, part, "image/png", len(data), int(first))

    def listing(self, bucket: Path, query: dict[str, list[str]]) -> bytes:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        keys = sorted(str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file())
        keys = [key for key in keys if key.startswith(prefix)]
        below = {key[: key.index("/", len(prefix)) + 1] for key in keys if delimiter and "/" in key[len(prefix) :]}
        keys = [key for key in keys if not delimiter or "/" not in key[len(prefix) :]]
        content = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{(bucket / key).stat().st_size}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key in keys
        ) + "".join(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in sorted(below))
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{content}</ListBucketResult>".encode()

    def answer(self, status: int, body: bytes, kind: str, whole: int = 0, first: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{whole}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def serve() -> Iterator[Any]:
    """Return what starts a web server on a free loopback port; all end with the test."""
    running = []

    def begin(handler: Any) -> int:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        running.append((server, threading.Thread(target=server.serve_forever)))
        running[-1][1].start()
        return server.server_port

    yield begin
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


def answered_from(address: str, model: Path, out: Path) -> list[tuple[str, str]]:
    """Return file name and class of each row, after checking that there is no error among them."""
    predict_all(model, [address], out, say=lambda _: None)
    rows = table(out)
    assert [row["error"] for row in rows] == [None] * len(rows)
    assert all(row["path"].startswith(address.partition("?")[0]) for row in rows)
    return [(row["path"].rpartition("/")[2], row["category"]) for row in rows]


EXPECTED = [(f"{i:04d}.png", CLASSES[i % len(CLASSES)]) for i in range(6)]


@pytest.fixture
def store(pictures: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of a store's root, with the options by which it is reached."""
    pytest.importorskip("pyarrow")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    Store.root = pictures.parent
    return f"s3://bucket/?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:{serve(Store)}"


def test_pictures_of_a_store_that_speaks_s3_are_answered(store: str, model: Path, tmp_path: Path) -> None:
    address = store.replace("/?", "/photos/?")
    assert answered_from(address, model, tmp_path / "a.parquet") == EXPECTED


def test_name_of_an_object_never_says_which_server_is_asked(
    store: str, pictures: Path, model: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        elsewhere = f"endpoint_override=127.0.0.1:{other.getsockname()[1]}&scheme=http&tls_ca_dir_path="
        names = [f"0.png?{elsewhere}", "#1.png", "2%2F.png", "%3F3.png", "a ?#%41&=+.png"]
        (pictures / "odd").mkdir()
        for name in names:
            shutil.copy(pictures / "photos" / "deep" / "0000.png", pictures / "odd" / name)
        found = answered_from(store.replace("/?", "/odd/?"), model, tmp_path / "a.parquet")
        assert sorted(found) == sorted((name, CLASSES[0]) for name in names)
        assert not select.select([other], [], [], 0)[0]


def test_folder_of_a_store_may_have_signs_of_an_address_in_its_name(
    store: str, pictures: Path, model: Path, tmp_path: Path
) -> None:
    (pictures / "photos").rename(pictures / "a#b%20c")
    assert answered_from(store.replace("/?", "/a#b%20c/?"), model, tmp_path / "a.parquet") == EXPECTED


def test_file_below_several_addresses_has_one_row(store: str, model: Path, tmp_path: Path) -> None:
    addresses = [store.replace("/?", path) for path in ("/photos/?", "/photos/deep/?", "/photos/deep/0000.png?", "?")]
    assert predict_all(model, addresses, tmp_path / "a.parquet", say=lambda _: None).files == len(EXPECTED)
    assert [row["category"] for row in table(tmp_path / "a.parquet")] == [category for _, category in EXPECTED]


def interrupted(address: str, out: Path) -> About:
    """Leave a job with one answer; return what it is about."""
    with BatchJob(out) as job:
        about = job.begin([address], [], About("model", "1", 1))
        job.answer(next(job.unanswered(1)), b"[0,0,1.0]\n")
    return about


def test_job_goes_on_with_another_address_of_the_same_files(store: str, tmp_path: Path) -> None:
    about = interrupted(store.replace("/?", "/photos/?"), tmp_path / "a.csv")
    with BatchJob(tmp_path / "a.csv") as job:
        assert job.begin([store.replace("/?", "/photos?")], [], About("model", "1", 1)) == about
        assert job.answered() == 1


def test_table_and_messages_do_not_tell_the_key_to_a_store() -> None:
    assert shown_name(b"s3://ID:SECRET@bucket/a/?scheme=http\0/a/b?c.png") == "s3://ID@bucket/a/b?c.png"
    assert shown_name(b"abfs://box@name.dfs.core.windows.net/\0/b.png") == "abfs://box@name.dfs.core.windows.net/b.png"


def test_address_where_nothing_is_ends_in_one_sentence(store: str) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        list(walk_address(store.replace("/?", "/nowhere/?")))


@pytest.mark.parametrize("address", ["gopher://host/photos/", "file:///photos/", "s3://bucket/\0/x"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(DataError, match="fetch the pictures first"):
        list(walk_address(address))
