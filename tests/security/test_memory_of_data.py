"""A stranger's data set takes memory by its bytes: what is only listed, counted or looked at takes little."""

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from data_kit import make_folder, make_zip, picture

from pupila.data import dataset, load_dataset
from pupila.data.dataset import SkippedFiles
from pupila.data.layouts import tables
from pupila.data.layouts.masks import masks_beside
from pupila.data.quality.duplicates import copies_of
from pupila.data.quality.inspection import inspect_dataset
from pupila.data.sources import archive
from pupila.data.sources.files import SourceFile, composed, list_folder
from pupila.errors import DataError
from pupila.evaluation.pages.data_report import data_text

MIB = 2**20


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Fail if Python allocates so many bytes more meanwhile."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_large_file_that_is_named_as_a_mask_is_not_read(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", {"cat": 2, "dog": 2})
    with (root / "cat" / "000_mask.png").open("wb") as file:
        file.truncate(200 * MIB)
    with memory_below(10 * MIB):
        assert masks_beside(list_folder(root).entries) == []


DEEP = "/".join(["d" * 250] * 15)


@pytest.mark.parametrize("row", [f"{DEEP}/gone.png,cat", "0.png,"])
def test_rows_that_name_no_picture_or_no_label_are_listed_in_part(row: str) -> None:
    found = [SourceFile((*DEEP.split("/"), f"{number}.png"), b"") for number in range(2)]
    rows = ["0.png,a", "1.png,b"]
    table = SourceFile(("t.csv",), "\n".join(["path,label", *(rows * 6_000), *([row] * 10_000)]).encode())
    [made], _ = tables.find_tables([*found, table])
    with memory_below(10 * MIB):
        skipped = tables.by_tables([made], found, "pets").skipped
    assert len(skipped) + skipped.more == 10_000
    assert 100 < len(skipped) < dataset.MAX_LISTED_LETTERS / len(DEEP)


def test_skipped_pictures_that_are_not_listed_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "MAX_LISTED", 3)
    files = {f"{kind}/{number}.png": picture(number) for kind in ("cat", "dog") for number in range(2)}
    files |= {f"cat/{number}.png": b"damaged" for number in range(10, 15)}
    path = make_zip(tmp_path / "pets.zip", {**files, "cat/" + "a" * 300 + ".png": b"", "stray.png": picture(5)})
    for _ in range(2):  # the second comes out of the cache
        splits = load_dataset(path, 32, cache=tmp_path / "cache")
        assert [item.name for item in splits.skipped] == ["cat/10.png", "cat/11.png", "cat/12.png"]
        assert splits.skipped_count() == 7
    found = inspect_dataset(path, 32, cache=tmp_path / "cache")
    assert found.survey is not None and found.survey.formats.total() == 4
    assert "Files that cannot be used: 7\n" in data_text(found) and "  and 4 more: see" in data_text(found)


def test_long_reasons_are_counted_too() -> None:
    skipped = SkippedFiles()
    for _ in range(3):
        skipped.add("1.png", "It is none." * 100_000)
    assert (len(skipped), skipped.more) == (1, 2)


def test_json_of_a_report_lists_the_first_pairs_and_pictures_and_counts_all(tmp_path: Path) -> None:
    labels = np.array(["\U0001f600" * 999 + letter for letter in "ab"])[np.arange(3_000) % 2]
    np.savez_compressed(tmp_path / "plain.npz", x=np.zeros((3_000, 32, 32), np.uint8), y=labels)
    found = inspect_dataset(tmp_path / "plain.npz", cache=tmp_path / "cache")
    with memory_below(100 * MIB):
        text = json.dumps(found.to_json())
    said = json.loads(text)
    assert (said["twins_count"], said["uniform_count"]) == (len(found.twins), 3_000)
    assert 100 < len(said["twins"]) < 2_000 < len(found.twins) and 100 < len(said["uniform"]) < 3_000
    assert said["twins"][0]["first"]["category"] in labels


def test_long_cells_of_tables_are_not_kept_as_names() -> None:
    tracemalloc.start()
    for number in range(50):
        composed("\U0001f600" * 250_000 + str(number))
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < MIB


def test_memory_for_copies_is_asked_for_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.zeros((3, 64, 64, 3), np.uint8)
    monkeypatch.setattr(archive, "free_memory", lambda: 3 * 32 * 32 * 3 * 5)
    with pytest.raises(DataError, match=r"^The copies of 6 pictures need"):
        copies_of(pictures, pictures)


def test_pictures_that_are_compared_are_not_copied_whole() -> None:
    pictures = np.zeros((200, 224, 224, 3), np.uint8)
    with memory_below(20 * MIB):
        assert copies_of(pictures[:1], pictures).all()


def test_decoded_pictures_count_as_used_memory_in_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are shared memory, which the kernel counts apart from what else a process has of its own."""
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{1_000 * MIB}\n")
    (group / "memory.stat").write_text(f"anon {100 * MIB}\nfile {500 * MIB}\nshmem {300 * MIB}\n")
    monkeypatch.setattr(archive, "Path", lambda path: tmp_path / path.lstrip("/"))
    assert archive.free_memory() == 600 * MIB
