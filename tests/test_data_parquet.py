"""Parquet in the style of Hugging Face, where pyarrow is installed; and what is said where it is not."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from data_kit import picture, write_files

from pupila.data import decode, load_dataset
from pupila.data.layouts import parquet as layout
from pupila.data.sources.archive import free_memory
from pupila.errors import DataError, MissingExtraError


def write_parquet(path: Path, labels: list[Any], names: list[str] | None = None, **columns: list[Any]) -> None:
    """Write pictures and labels as the `datasets` package does: a pair of bytes and path, class names in metadata."""
    reason = "pyarrow is not installed: pip install 'pupila[parquet]'"
    arrow, parquet = (
        pytest.importorskip("pyarrow", reason=reason),
        pytest.importorskip("pyarrow.parquet", reason=reason),
    )
    cells = [{"bytes": picture(seed), "path": f"{seed}.png"} for seed in range(len(labels))]
    table = arrow.table({"image": cells, "label": labels, **columns})
    if names is not None:
        feature = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps(feature).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)


def test_splits_and_class_names_are_those_of_the_files(tmp_path: Path) -> None:
    data = tmp_path / "pets" / "data"
    write_parquet(data / "train-00000-of-00002.parquet", [1, 0], ["dog", "cat"])
    write_parquet(data / "train-00001-of-00002.parquet", [1], ["dog", "cat"])
    write_parquet(data / "test-00000-of-00001.parquet", [0, -1], ["dog", "cat"])
    splits = load_dataset(tmp_path / "pets", 8, cache=tmp_path / "cache")
    assert splits.layout == "parquet"
    assert {name: part.counts().tolist() for name, part in splits.parts().items()} == {"train": [2, 1], "test": [0, 1]}
    assert splits.train.classes == ("cat", "dog")
    assert [item.reason for item in splits.skipped] == ["Its row holds no label."]


def test_labels_may_be_texts_and_one_file_may_be_all(tmp_path: Path) -> None:
    write_parquet(tmp_path / "pets.parquet", ["dog", "cat"])
    assert load_dataset(tmp_path / "pets.parquet", 8, cache=tmp_path / "cache").train.classes == ("cat", "dog")


def test_name_of_the_data_set_may_stand_before_that_of_the_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "pets" / "pets-train-00000-of-00001.parquet", ["dog", "cat"])
    write_parquet(tmp_path / "pets" / "pets-test-00000-of-00001.parquet", ["dog"])
    assert list(load_dataset(tmp_path / "pets", 8, cache=tmp_path / "cache").parts()) == ["train", "test"]


def test_file_of_no_known_split_beside_others_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "pets" / "train.parquet", ["dog", "cat"])
    write_parquet(tmp_path / "pets" / "unsupervised.parquet", ["dog"])
    with pytest.raises(DataError, match=r"the names of unsupervised\.parquet tell no split"):
        load_dataset(tmp_path / "pets", 8, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["dog", "cat"], ("cat", "dog")), ([0.5, 1.0], ("0.5", "1.0")), ([True, False], ("cat", "dog")),
        ([{"a": 1}, {"a": 2}], ("{'a': 1}", "{'a': 2}")), ([b"dog", b"cat"], ("cat", "dog")),
    ],
)  # fmt: skip
def test_labels_that_are_no_numbers_are_the_names(tmp_path: Path, labels: list[Any], classes: tuple[str, ...]) -> None:
    write_parquet(tmp_path / "a" / "train.parquet", labels, ["dog", "cat"])
    assert load_dataset(tmp_path / "a", 8, cache=tmp_path / "cache").train.classes == classes


def test_labels_beyond_the_names_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "pets.parquet", [0, 2], ["dog", "cat"])
    with pytest.raises(DataError, match="labels beyond its 2 class names"):
        load_dataset(tmp_path / "pets.parquet", 8, cache=tmp_path / "cache")


def test_damaged_parquet_says_so(tmp_path: Path) -> None:
    write_parquet(tmp_path / "pets.parquet", [0, 1])
    (tmp_path / "pets.parquet").write_bytes((tmp_path / "pets.parquet").read_bytes()[:-9])
    with pytest.raises(DataError, match=r"pets\.parquet.* is cut off or damaged"):
        load_dataset(tmp_path / "pets.parquet", 8, cache=tmp_path / "cache")


def test_shards_may_take_what_memory_is_free() -> None:
    free = free_memory()
    if 4 * 2**30 < free < float("inf"):
        assert free / 2 < layout.Budget("pets", 2**40).bytes < free


def test_shards_that_need_more_memory_than_is_free_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "LEAST_BYTES", 2**60)
    monkeypatch.setattr(layout, "RATIO_FROM", 2**10)
    for number in range(4):
        write_parquet(tmp_path / "pets" / f"train-{number}.parquet", ["dog", "cat"])
    with pytest.raises(DataError, match=r"pets: its pictures need over 0 MiB .*fewer of them, or a machine with more"):
        load_dataset(tmp_path / "pets", 8, cache=tmp_path / "cache")


def test_too_many_rows_are_those_of_all_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_ROWS", 5)
    for number in range(3):
        write_parquet(tmp_path / "pets" / f"train-{number}.parquet", ["dog", "cat"])
    with pytest.raises(DataError, match=r"/pets has over 5 rows"):
        load_dataset(tmp_path / "pets", 8, cache=tmp_path / "cache")


def test_without_pyarrow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    write_files(tmp_path / "pets", {"train.parquet": b"PAR1"})
    with pytest.raises(MissingExtraError, match=r"pip install -e '.*\[parquet\]'"):
        load_dataset(tmp_path / "pets", 8, cache=tmp_path / "cache")
