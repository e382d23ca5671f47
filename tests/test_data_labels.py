"""Corrected labels: taken by name, refused where they fit nothing, and seen in the fingerprint."""

import time
import tracemalloc

import numpy as np
import pytest
from data_kit import make_folder

from pupila._arguments import nearest
from pupila.data import load_dataset
from pupila.data.dataset import assemble
from pupila.data.quality.labels import relabelled
from pupila.errors import DataError


@pytest.fixture
def splits(tmp_path):
    counts = {"train/cat": 3, "train/dog": 3, "test/cat": 1, "test/dog": 2}
    return load_dataset(make_folder(tmp_path / "pets", counts), 8, cache=tmp_path / "cache")


def table(tmp_path, *lines):
    path = tmp_path / "fixes.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_labels_change_and_the_fingerprint_with_them(splits, tmp_path):
    fixed = relabelled(splits, table(tmp_path, "path,label", "dog/002.png,cat"))
    assert np.bincount(splits.train.labels).tolist() == [3, 3]
    assert np.bincount(fixed.train.labels).tolist() == [4, 2]
    assert fixed.fingerprint != splits.fingerprint
    assert fixed.notes[-1] == "fixes.csv changed the labels of 1 picture."


def test_table_that_changes_nothing_leaves_the_fingerprint(splits, tmp_path):
    assert relabelled(splits, table(tmp_path, "path,label", "dog/002.png,dog")).fingerprint == splits.fingerprint


def test_table_without_rows_changes_nothing(splits, tmp_path):
    assert relabelled(splits, table(tmp_path, "path,label,suggested,score")).fingerprint == splits.fingerprint


def test_suggested_label_is_taken_where_there_is_one(splits, tmp_path):
    fixed = relabelled(splits, table(tmp_path, "path,label,suggested,score", "dog/002.png,dog,cat,0.9"))
    assert np.bincount(fixed.train.labels).tolist() == [4, 2]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8-sig", "utf-16"])
def test_table_may_be_saved_by_a_spreadsheet(tmp_path, encoding):
    splits = load_dataset(make_folder(tmp_path / "pets", {"cão": 3, "gato": 3}), 8, cache=tmp_path / "cache")
    path = tmp_path / "fixes.csv"
    path.write_bytes("path;label;suggested;score\r\ncão/002.png;cão;gato;0,9\r\n;;;\r\n".encode(encoding))
    assert np.bincount(relabelled(splits, path).train.labels).tolist() == [2, 4]


def test_name_in_two_parts_is_told_apart_by_the_part(tmp_path):
    counts = {"train/cat": 2, "train/dog": 2}
    root = make_folder(tmp_path / "pets", counts)
    for category in ("cat", "dog"):
        (root / "test" / category).mkdir(parents=True)
        (root / "test" / category / "000.png").write_bytes((root / "train" / "cat" / "000.png").read_bytes())
    splits = load_dataset(root, 8, cache=tmp_path / "cache")
    fixed = relabelled(splits, table(tmp_path, "path,label", "test/cat/000.png,dog"))
    assert fixed.train.labels.tolist() == splits.train.labels.tolist()
    assert fixed.test.labels.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["path,label", "dog/02.png,cat"], r"no picture 'dog/02.png' \(did you mean 'dog/002.png'\?\)"),
        (["path,label", "dog/002.png,cta"], r"no class 'cta' \(did you mean 'cat'\?\)"),
        (["path,label", "dog/002.png,cat", "dog/002.png,dog"], "has 2 rows"),
        (["path,label,suggested", "dog/002.png,cat,dog"], "was 'cat' and is 'dog' by now"),
        (["file,label", "dog/002.png,cat"], "has no column 'path'"),
        ([""], "has no column 'path'"),
        (["path,label", *(f"no{n},cat" for n in range(7))], "'no4'.* and 2 more"),
    ],
)
def test_row_that_fits_nothing_is_named(splits, tmp_path, lines, words):
    with pytest.raises(DataError, match=words):
        relabelled(splits, table(tmp_path, *lines))


@pytest.mark.parametrize("row", ["dog/{long},dog", "dog/002.png,{long}", "dog/002.png,cat,{long}"])
def test_of_what_a_row_holds_few_letters_are_quoted(splits, tmp_path, row):
    lines = ["path,suggested,label" if row.count(",") > 1 else "path,label", row.format(long="x" * 100_000)]
    with pytest.raises(DataError) as refused:
        relabelled(splits, table(tmp_path, *lines))
    assert "xxx" in str(refused.value) and len(str(refused.value)) < 1_000


def test_table_that_is_missing_is_named(splits, tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: cannot be read"):
        relabelled(splits, tmp_path / "none.csv")


def test_nearest_name_is_looked_for_only_for_the_rows_that_are_named(tmp_path):
    names = [f"cat/{'picture-of-something-nice-' * 5}{row:03d}.png" for row in range(300)]
    images, labels = np.zeros((300, 8, 8, 3), np.uint8), np.arange(300, dtype=np.int64) % 2
    splits = assemble("pets", ("cat", "dog"), {"train": (images, labels, names)})
    path = table(tmp_path, "path,label", *(f"{name}.jpeg,cat" for name in names), *["dog/1.png,cow"] * 200)
    begun = time.process_time()
    with pytest.raises(DataError, match=r"there is no picture '.*000\.png\.jpeg' \(did you mean .* and 696 more"):
        relabelled(splits, path)
    assert time.process_time() - begun < 5


def test_nearest_of_many_long_names_is_looked_for_among_the_first():
    names = [f"{'picture-of-something-nice-' * 5}{row:05d}" for row in range(10_000)]
    begun = time.process_time()
    assert nearest(names[7], names)
    assert time.process_time() - begun < 4


def test_sentences_are_made_for_the_rows_that_are_named_alone(tmp_path):
    category = "\U0001f600" * 900
    images, labels = np.zeros((2, 8, 8, 3), np.uint8), np.arange(2, dtype=np.int64)
    splits = assemble("pets", (category, "dog"), {"train": (images, labels, ["0.png", "1.png"])})
    path = table(tmp_path, "path,suggested,label", *["0.png,dog,cat"] * 40_000)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"'0.png' has 40000 rows; .* and 39,996 more") as refused:
            relabelled(splits, path)
        assert tracemalloc.get_traced_memory()[1] < 80 * 2**20  # 64 MiB are made ready to read a table
    finally:
        tracemalloc.stop()
    assert len(str(refused.value)) < 2_000
