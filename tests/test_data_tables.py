"""Labels from tables: Kaggle's, any CSV of path and label, and what is refused."""

import time
from pathlib import Path

import pytest
from data_kit import files_of, make_tar, picture, write_files

from pupila.data import Splits, load_dataset
from pupila.data.layouts.tables import find_tables
from pupila.data.sources.files import SourceFile
from pupila.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pets"


def load(source: Path, root: Path) -> Splits:
    return load_dataset(source, 8, cache=root.parent / "cache")


def names(splits: Splits) -> dict[str, list[str]]:
    return {name: list(part.names) for name, part in splits.parts().items()}


def pictures(*paths: str) -> dict[str, bytes | str]:
    return {path: picture(seed) for seed, path in enumerate(paths)}


def test_kaggle_cifar10_is_recognised(root: Path) -> None:
    files = pictures(*(f"train/{n}.png" for n in range(1, 5)), "test/1.png", "test/2.png", "test/3.png")
    write_files(root, {**files, "trainLabels.csv": "id,label\n1,frog\n2,truck\n3,truck\n4,deer\n"})
    splits = load(root, root)
    assert splits.train.classes == ("deer", "frog", "truck")
    assert names(splits) == {
        "train": ["deer/train/4.png", "frog/train/1.png", "truck/train/2.png", "truck/train/3.png"]
    }
    assert splits.layout == "labels from trainLabels.csv"
    assert splits.notes == ("test: left out 3 pictures without a label.",)
    assert splits.skipped == ()


def test_table_in_an_archive_is_read_as_in_a_folder(root: Path) -> None:
    files = pictures("train/1.png", "train/2.png")
    write_files(root, {**files, "trainLabels.csv": "id,label\n1,frog\n2,truck\n"})
    archive = make_tar(root.parent / "pets.tar", {f"pets/{name}": data for name, data in files_of(root).items()})
    assert load(archive, root).train.classes == load(root, root).train.classes == ("frog", "truck")


@pytest.mark.parametrize("head", ["", "path,label\n", "\ufefffilename,class\n", "label,file\n"])
def test_heading_may_be_anything_usual_or_missing(root: Path, head: str) -> None:
    rows = "cat,a/1.png\ndog,b/2.png\n" if head.startswith("label") else "a/1.png,cat\nb/2.png,dog\n"
    write_files(root, {**pictures("a/1.png", "b/2.png"), "labels.csv": head + rows})
    assert names(load(root, root)) == {"train": ["cat/a/1.png", "dog/b/2.png"]}


@pytest.mark.parametrize(("mark", "ending"), [(";", "csv"), ("\t", "tsv"), (",", "csv")])
def test_columns_may_be_parted_by_any_usual_mark(root: Path, mark: str, ending: str) -> None:
    text = f"path{mark}label\r\n1.png{mark}cat\r\n2.png{mark}dog\r\n"
    write_files(root, {**pictures("1.png", "2.png"), f"labels.{ending}": text})
    assert load(root, root).train.classes == ("cat", "dog")


def test_each_split_may_have_a_table(root: Path) -> None:
    files = pictures("a.png", "b.png", "c.png", "d.png")
    write_files(
        root, {**files, "train.csv": "a.png,cat\nb.png,dog\n", "val.csv": "c.png,dog\n", "test.csv": "d.png,cat\n"}
    )
    assert names(load(root, root)) == {
        "train": ["cat/a.png", "dog/b.png"],
        "test": ["cat/d.png"],
        "validation": ["dog/c.png"],
    }


def test_column_of_splits_that_is_not_understood_is_refused(root: Path) -> None:
    table = "path,label,split\na.png,cat,train\nb.png,dog,\nc.png,dog,Fold 2\nd.png,cat,extra\n"
    write_files(root, {**pictures("a.png", "b.png", "c.png", "d.png"), "labels.csv": table})
    with pytest.raises(DataError, match=r"labels.csv has a column of splits that says Fold 2, extra. Write train, val"):
        load(root, root)


def test_splits_of_fer2013_are_understood_and_an_empty_one_is_train(root: Path) -> None:
    table = "path,label,split\na.png,cat,Training\nb.png,dog,\nc.png,dog,PublicTest\nd.png,cat,PrivateTest\n"
    write_files(root, {**pictures("a.png", "b.png", "c.png", "d.png"), "labels.csv": table})
    assert names(load(root, root)) == {
        "train": ["cat/a.png", "dog/b.png"],
        "validation": ["dog/c.png"],
        "test": ["cat/d.png"],
    }


def test_split_may_be_a_column(root: Path) -> None:
    table = "path,label,split\na.png,cat,train\nb.png,dog,train\nc.png,dog,valid\n"
    write_files(root, {**pictures("a.png", "b.png", "c.png"), "all.csv": table})
    assert names(load(root, root)) == {"train": ["cat/a.png", "dog/b.png"], "validation": ["dog/c.png"]}


def test_table_itself_may_be_given(root: Path) -> None:
    files = pictures("a.png", "b.png")
    write_files(root, {**files, "one.csv": "a.png,cat\nb.png,dog\n", "two.csv": "a.png,eel\nb.png,fox\n"})
    assert load(root / "two.csv", root).train.classes == ("eel", "fox")
    assert load(root / "one.csv", root).train.classes == ("cat", "dog")


def test_rows_without_picture_or_label_are_listed(root: Path) -> None:
    files = pictures("a.png", "b.png", "c.png")
    write_files(root, {**files, "l.csv": "a.png,cat\nb.png,dog\nc.png,\ngone.png,dog\n"})
    assert [(item.name, item.reason) for item in load(root, root).skipped] == [
        ("c.png", "l.csv gives it no label."),
        ("gone.png", "l.csv names it, and there is no such picture."),
    ]


def test_table_that_names_no_pictures_is_passed_over(root: Path) -> None:
    files = pictures("cat/1.png", "dog/2.png")
    write_files(root, {**files, "class_names.csv": "n01,cat\nn02,dog\n"})
    assert load(root, root).layout == "class folders"


def test_picture_with_two_labels_is_refused(root: Path) -> None:
    write_files(root, {**pictures("a.png", "b.png"), "l.csv": "a.png,cat\nb.png,dog\na.png,dog\n"})
    with pytest.raises(DataError, match=r"l\.csv calls a\.png both 'cat' and 'dog'"):
        load(root, root)


def test_test_table_with_another_class_is_refused(root: Path) -> None:
    files = pictures("a.png", "b.png", "c.png")
    write_files(root, {**files, "train.csv": "a.png,cat\nb.png,dog\n", "test.csv": "c.png,Dog\n"})
    with pytest.raises(DataError, match=r"test has classes that train lacks: Dog\. It lacks cat, dog"):
        load(root, root)


def test_table_of_the_test_split_alone_is_refused(root: Path) -> None:
    write_files(root, {**pictures("a.png", "b.png"), "test.csv": "a.png,cat\nb.png,dog\n"})
    with pytest.raises(DataError, match=r"test\.csv is no table of training pictures"):
        load(root, root)


def test_splits_without_labels_are_refused_and_not_taken_for_classes(root: Path) -> None:
    write_files(root, pictures("train/1.png", "train/2.png", "test/1.png"))
    with pytest.raises(DataError, match="test/ and train/ hold pictures without labels"):
        load(root, root)


def test_split_may_stand_at_the_end_of_a_tables_name_or_be_its_folder(root: Path) -> None:
    files = pictures("a.png", "b.png", "c.png", "train/a.png", "train/b.png", "test/c.png")
    tables = {
        "pets_train.csv": "a.png,cat\nb.png,dog\n",
        "pets_test.csv": "c.png,dog\n",
        "names.csv": "x,1\ny,2\nz,3\n",
    }
    flat = {name: files[name] for name in ("a.png", "b.png", "c.png")}
    expected = {"train": ["cat/a.png", "dog/b.png"], "test": ["dog/c.png"]}
    assert names(load(write_files(root / "flat", {**flat, **tables}), root)) == expected
    deep = {name: files[name] for name in ("train/a.png", "train/b.png", "test/c.png")}
    deep |= {"train/labels.csv": "a.png,cat\nb.png,dog\n", "test/labels.csv": "c.png,dog\n"}
    assert names(load(write_files(root / "deep", deep), root))["test"] == ["dog/test/c.png"]


def test_heading_in_other_words_is_no_picture(root: Path) -> None:
    write_files(root, {**pictures("a.png", "b.png", "c.png"), "l.csv": "id,breed\na,pug\nb,fox\nc,fox\n"})
    splits = load(root, root)
    assert splits.skipped == () and splits.train.classes == ("fox", "pug")


def test_first_row_without_a_picture_is_listed_all_the_same(root: Path) -> None:
    write_files(
        root, {**pictures("a.png", "b.png", "c.png"), "l.csv": "gone.png,eel\na.png,cat\nb.png,dog\nc.png,dog\n"}
    )
    assert [item.name for item in load(root, root).skipped] == ["gone.png"]


def test_table_of_something_else_among_many_folders_costs_little() -> None:
    entries = [SourceFile((f"class{n % 2000:04d}", f"{n}.jpg"), "") for n in range(20_000)]
    table = SourceFile(("prices.csv",), "".join(f"item{n},{n}\n" for n in range(1000)).encode())
    started = time.process_time()
    assert find_tables([*entries, table]) == ([], [])
    assert time.process_time() - started < 2  # 0.02 s where no folder is looked into, 6 s if each of them is


@pytest.mark.parametrize("row", ["{n},cat", "/home/ana/{n}.jpg,cat"])
def test_many_tables_beside_many_pictures_cost_little(row: str) -> None:
    pictures = [SourceFile((f"class{n % 20:02d}", f"{n}.jpg"), "") for n in range(10_000)]
    text = "".join(row.format(n=n) + "\n" for n in range(3)).encode()
    started = time.process_time()
    find_tables([*pictures, *(SourceFile((f"{n}.csv",), text) for n in range(300))])
    assert (
        time.process_time() - started < 5
    )  # half a second where pictures are indexed once, a minute if for each table
