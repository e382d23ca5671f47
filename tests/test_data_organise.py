"""The split written out as class folders: the same cut that training makes, and nothing of the user's changed."""

from pathlib import Path

import numpy as np
import pytest
from data_kit import cifar10_files, files_of, make_folder, make_tar, make_zip, picture, write_files

from pupila.data import load_dataset, split
from pupila.data.quality.organise import organise
from pupila.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "pets", {"cat": 12, "dog": 25, "eel/deep": 11})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUPILA_CACHE", str(tmp_path / "cache"))


def counts(folder: Path) -> dict[str, list[int]]:
    return {
        part.name: [sum(p.is_file() for p in kind.rglob("*")) for kind in sorted(part.iterdir())]
        for part in sorted(folder.iterdir())
    }


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_share_of_each_class_goes_to_valid(root: Path, tmp_path: Path) -> None:
    done = organise(root, tmp_path / "out", 0.2, seed=3)
    assert counts(tmp_path / "out") == {"train": [10, 20, 9], "valid": [2, 5, 2]}
    assert done.counts == {"train": 39, "valid": 9}


def test_equal_counts_are_a_share_of_the_smallest_class(root: Path, tmp_path: Path) -> None:
    organise(root, tmp_path / "out", 0.2, equal=True)
    assert counts(tmp_path / "out") == {"train": [10, 23, 9], "valid": [2, 2, 2]}


def test_equal_counts_are_at_least_one(root: Path, tmp_path: Path) -> None:
    organise(root, tmp_path / "out", 0.01, equal=True)
    assert counts(tmp_path / "out")["valid"] == [1, 1, 1]


def test_cut_is_the_one_that_training_makes(root: Path, tmp_path: Path) -> None:
    organise(root, tmp_path / "out", 0.3, seed=5)
    written = load_dataset(tmp_path / "out", 32)
    train, validation = split(load_dataset(root, 32).train, 0.3, seed=5)
    assert written.validation is not None
    assert np.array_equal(written.train.images, train.images)
    assert np.array_equal(written.validation.images, validation.images)


def test_files_are_links_and_the_originals_stay(root: Path, tmp_path: Path) -> None:
    before = files_of(root)
    done = organise(root, tmp_path / "out")
    assert files_of(root) == before
    assert done.linked == 48
    assert all(path.stat().st_nlink == 2 for path in (tmp_path / "out").rglob("*.png"))


def test_own_validation_and_test_are_kept(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", {"train/cat": 2, "train/dog": 2, "val/cat": 1, "test/dog": 3})
    organise(root, tmp_path / "out")
    assert counts(tmp_path / "out") == {"train": [2, 2], "valid": [1], "test": [3]}


def test_unreadable_pictures_are_left_out(root: Path, tmp_path: Path) -> None:
    (root / "cat" / "000.png").write_bytes(b"broken")
    assert sum(organise(root, tmp_path / "out").counts.values()) == 47


def test_archive_is_written_as_files(root: Path, tmp_path: Path) -> None:
    done = organise(make_zip(tmp_path / "pets.zip", files_of(root)), tmp_path / "out")
    assert (done.linked, sum(done.counts.values())) == (0, 48)


def test_published_cifar10_becomes_pictures_without_loss(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "cifar.tar", cifar10_files())
    organise(archive, tmp_path / "out", 0.5)
    written, original = load_dataset(tmp_path / "out", 32), load_dataset(archive)
    assert written.test is not None and original.test is not None
    assert sorted(p.tobytes() for p in written.test.images) == sorted(p.tobytes() for p in original.test.images)


def test_labels_of_a_table_never_leave_the_folder(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "b.png": picture(2), "c.png": picture(3), "d.png": picture(4)}
    table = "a.png,../../up\nb.png,../../up\nc.png,.hidden\nd.png,.hidden\n"
    organise(write_files(tmp_path / "pets", {**files, "labels.csv": table}), tmp_path / "here" / "out", 0.5)
    assert listed(tmp_path) == ["cache", "here", "pets"]
    assert listed(tmp_path / "here" / "out" / "train") == ["_.._.._up", "_.hidden"]


def test_folder_with_something_in_it_is_refused(root: Path, tmp_path: Path) -> None:
    write_files(tmp_path / "out", {"mine.txt": "keep"})
    with pytest.raises(DataError, match="out: is there already"):
        organise(root, tmp_path / "out")
    assert listed(tmp_path / "out") == ["mine.txt"]


def test_folder_within_the_data_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match="would then hold every picture twice"):
        organise(root, root / "out")


def test_folder_beside_the_table_that_is_given_is_refused(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "b.png": picture(2), "labels.csv": "a.png,cat\nb.png,dog\n"}
    with pytest.raises(DataError, match="would then hold every picture twice"):
        organise(write_files(tmp_path / "pets", files) / "labels.csv", tmp_path / "pets" / "out")


@pytest.mark.parametrize("name", ["é" * 130, "x" * 256])
def test_label_that_no_folder_can_be_called_by_is_named(name: str, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", {"a": 5})
    files = sorted((root / "a").iterdir())
    lines = [f"{path.name},{label}" for path, label in zip(files, [name, name, "cat", "cat", "cat"], strict=True)]
    (root / "labels.csv").write_text("\n".join(["file,label", *lines]))
    with pytest.raises(DataError, match=r"^'[éx]+…?' has over 255 bytes, as no folder or file has"):
        organise(root, tmp_path / "out")


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", {"cat": 1, "dog": 3})
    with pytest.raises(DataError, match="'cat' has 1 picture"):
        organise(root, tmp_path / "out")
    assert listed(tmp_path) == ["cache", "pets"]
