"""Downloads from a real server on this machine: whole, cut off, resumed, wrong, and not at all."""

import hashlib
import socket
from pathlib import Path

import numpy as np
import pytest
from data_kit import serving

from pupila.data.sources.download import cache_folder, download
from pupila.errors import DownloadError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "file.bin"


def part_of(target: Path) -> Path:
    return target.with_name("file.bin.part")


@pytest.mark.parametrize("check", [{"sha256": SHA256}, {"sha256": SHA256[:8].upper()}, {"md5": MD5}, {}])
def test_file_is_fetched_whole_and_leaves_no_part(target: Path, check: dict[str, str]) -> None:
    with serving(CONTENT) as server:
        assert download(server.url, target, **check) == target
    assert target.read_bytes() == CONTENT
    assert not part_of(target).exists()


def test_server_that_sends_without_end_fills_no_disk(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pupila.data.sources.download.MAX_BYTES", 200_000)
    with serving(CONTENT) as server, pytest.raises(DownloadError, match="sends more than"):
        download(server.url, target, sha256=SHA256)
    assert not target.exists() and not part_of(target).exists()


def test_file_that_is_there_is_not_fetched_again(target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    with serving(b"") as server:
        download(server.url, target, sha256=SHA256)
    assert server.ranges == []


def test_file_with_another_hash_is_replaced(target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"an older edition")
    with serving(CONTENT) as server:
        download(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_broken_connection_is_resumed_where_it_broke(target: Path) -> None:
    with serving(CONTENT) as server:
        server.cut_after = 120_000
        download(server.url, target, sha256=SHA256)
    assert server.ranges == [None, "bytes=120000-", "bytes=240000-"]
    assert target.read_bytes() == CONTENT


def test_download_goes_on_where_an_earlier_run_ended(target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT[:1000])
    with serving(CONTENT) as server:
        download(server.url, target, md5=MD5)
    assert server.ranges == ["bytes=1000-"]


def test_server_that_does_not_resume_sends_it_all(target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT[:1000])
    with serving(CONTENT) as server:
        server.resumes = False
        download(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("left_over", [b"x" * 1000, CONTENT + b"more"])
def test_left_over_part_of_another_file_is_given_up(target: Path, left_over: bytes) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(left_over)
    with serving(CONTENT) as server:
        download(server.url, target, sha256=SHA256)
    assert server.ranges == [f"bytes={len(left_over)}-", None]
    assert target.read_bytes() == CONTENT


def test_part_that_was_already_whole_is_only_checked(target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    with serving(CONTENT) as server:
        download(server.url, target, sha256=SHA256)
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


def test_left_over_part_is_not_trusted_without_a_hash(target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(b"x" * 1000)
    with serving(CONTENT) as server:
        download(server.url, target)
    assert target.read_bytes() == CONTENT


def test_wrong_hash_is_an_error_and_leaves_nothing(target: Path) -> None:
    with (
        serving(b"<html>Please log in</html>") as server,
        pytest.raises(DownloadError, match="published file has") as e,
    ):
        download(server.url, target, sha256=SHA256)
    assert server.url in str(e.value) and SHA256 in str(e.value)
    assert not target.exists() and not part_of(target).exists()


def test_server_that_always_breaks_off_is_an_error_and_keeps_what_came(target: Path) -> None:
    with serving(CONTENT) as server:
        server.cut_after = 0
        with pytest.raises(DownloadError, match="breaks off after 0 bytes"):
            download(server.url, target, sha256=SHA256)


def test_no_server_is_an_error_that_names_the_address(target: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=rf"http://127.0.0.1:{port}/x: cannot be reached \(.*refused\)"):
        download(f"http://127.0.0.1:{port}/x", target)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_server_that_refuses_is_an_error_with_its_answer(target: Path, status: int) -> None:
    with serving(CONTENT) as server, pytest.raises(DownloadError, match=f"the server answers {status}"):
        server.status = status
        download(server.url, target)


def test_address_that_is_none_is_an_error(target: Path) -> None:
    with pytest.raises(DownloadError, match="nonsense: cannot be reached"):
        download("nonsense", target)


def test_folder_that_cannot_be_written_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with serving(CONTENT) as server, pytest.raises(DownloadError, match=r"cannot be written .* set PUPILA_CACHE"):
        download(server.url, tmp_path / "file" / "x.bin")


def test_cache_folder_is_the_argument_then_the_setting_then_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUPILA_CACHE", "~/elsewhere")
    assert cache_folder(Path("/given")) == Path("/given")
    assert cache_folder() == Path.home() / "elsewhere"
    monkeypatch.delenv("PUPILA_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "pupila"
