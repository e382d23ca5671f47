"""What was decoded is kept, and is never trusted when it should not be."""

import os
import resource
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from data_kit import as_a_plain_user, files_of, make_folder, make_tar, picture

from pupila._files import locked
from pupila.data import Splits, cache, load_dataset

COUNTS = {"train/cat": 2, "train/dog": 2, "test/dog": 1}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "pets", COUNTS)


def load(source: Path, size: int | None = 32) -> Splits:
    return load_dataset(source, size, cache=source.parent / "cache")


def kept(root: Path, pattern: str) -> list[Path]:
    return sorted((root.parent / "cache").rglob(pattern))


def spoil_pictures_in_place(root: Path) -> None:
    """Replace all content but neither size nor time, so that only a read of the files themselves would notice."""
    for path in root.rglob("*.png"):
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def same(one: Splits, other: Splits) -> bool:
    pairs = zip(one.parts().values(), other.parts().values(), strict=True)
    equal = all(np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels) for a, b in pairs)
    return equal and (one.name, one.fingerprint, one.skipped) == (other.name, other.fingerprint, other.skipped)


def test_second_start_reads_the_cache_and_not_the_pictures(root: Path) -> None:
    (root / "train" / "cat" / "bad.png").write_bytes(b"broken")
    first = load(root)
    spoil_pictures_in_place(root)
    assert same(first, load(root))


def test_chosen_size_is_remembered(root: Path) -> None:
    first = load(root, size=None)
    spoil_pictures_in_place(root)
    assert same(first, load(root, size=None))
    assert same(first, load(root, size=first.train.size))


def test_each_size_is_kept_for_itself(root: Path) -> None:
    assert [load(root, size).train.size for size in (8, 16, 8)] == [8, 16, 8]
    assert len(kept(root, "*.db")) == 2


def test_changed_picture_is_noticed(root: Path) -> None:
    before = load(root).fingerprint
    (root / "train" / "cat" / "000.png").write_bytes(picture(99))
    assert load(root).fingerprint != before


def test_picture_that_may_be_read_again_is_taken(root: Path) -> None:
    """Permissions, and disks that come back, change neither the size nor the time of a file."""
    closed = root / "train" / "cat" / "000.png"
    code = "import sys; from pathlib import Path; from pupila.data import load_dataset\n"
    code += "splits = load_dataset(sys.argv[1], 32, cache=Path(sys.argv[2]))\n"
    code += "print(len(splits.train), *(item.name for item in splits.skipped))"
    closed.chmod(0)
    told = [as_a_plain_user(code, root, root.parent / "cache").strip() for _ in range(2)]
    assert told == ["3 train/cat/000.png"] * 2
    closed.chmod(0o644)
    assert (len(load(root).train), load(root).skipped) == (4, ())


def test_changed_archive_is_noticed(root: Path) -> None:
    path = make_tar(root.parent / "pets.tar", files_of(root))
    before = load(path).fingerprint
    make_tar(path, {**files_of(root), "train/cat/000.png": picture(99)})
    os.utime(path, (1, 1))
    assert load(path).fingerprint != before


@pytest.mark.parametrize("array", ["about", "train", "train-labels", "test"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "missing"])
def test_damaged_cache_is_made_again(root: Path, array: str, damage: str) -> None:
    first = load(root)
    [path] = kept(root, "*.db")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo(f"{array}.npy")
    data[place.header_offset + place.file_size] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    assert same(first, load(root))
    spoil_pictures_in_place(root)
    assert same(first, load(root))


def test_cache_that_cannot_be_written_is_one_line_and_no_error(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root.parent / "cache").write_text("a file in the way")
    assert len(load(root).train) == 4
    assert len(caplog.messages) == 1


def test_full_disk_is_one_line_and_leaves_nothing(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with no_file_longer_than(1000):
        assert len(load(root).train) == 4
    said = caplog.text
    assert "Warning: the decoded pictures were not cached" in said and "(File too large)" in said
    assert kept(root, "*.db") == []
    assert len(load(root).train) == 4


def test_what_a_killed_process_left_is_removed(root: Path) -> None:
    load(root, 8)
    [folder] = (root.parent / "cache" / "datasets").iterdir()
    (folder / ".unfinished").write_bytes(b"half")
    load(root, 16)
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "16.db", "8.db"]


def test_two_processes_that_keep_one_data_set_take_turns(root: Path) -> None:
    load(root, 8)
    [folder] = (root.parent / "cache" / "datasets").iterdir()
    code = "import sys; from pupila import load_dataset; load_dataset(sys.argv[1], 16, cache=sys.argv[2])"
    arguments = [sys.executable, "-c", code, str(root), str(root.parent / "cache")]
    with locked(folder / ".lock"):
        other = subprocess.Popen(arguments)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(3)
        assert not (folder / ".unfinished").exists()
    assert other.wait(60) == 0 and (folder / "16.db").exists()


def test_setting_names_the_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUPILA_CACHE", str(root.parent / "elsewhere"))
    load_dataset(root, 32)
    assert list((root.parent / "elsewhere").rglob("*.db"))


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """Let the system refuse writes, as it does when a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_disk_that_would_be_full_keeps_no_pictures(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache, "ROOM", 2**80)
    assert len(load(root).train) == 4
    assert "were not cached" in caplog.text and not kept(root, "*.db")
