"""The page about a data set: leaks first, nothing fetched, whatever a class or file is called."""

from pathlib import Path

import pytest
from data_kit import encode, scene, write_files

from pupila.data.quality.inspection import Inspection, inspect_dataset
from pupila.errors import DataError
from pupila.evaluation.pages.data_report import data_text, write_data_report


@pytest.fixture
def inspection(tmp_path: Path) -> Inspection:
    names = ("train/cat/1.png", "train/cat/2.png", "train/<b>dog/3.png", "test/cat/1 again.png")
    files = {name: encode(scene(seed)) for name, seed in zip(names, (1, 2, 3, 1), strict=True)}
    files["train/cat/bad.jpg"] = b"<script>alert(1)</script>"
    return inspect_dataset(write_files(tmp_path / "pets", files), 32, cache=tmp_path / "cache")


def test_page_names_leaks_before_all_else(inspection: Inspection, tmp_path: Path) -> None:
    write_data_report(tmp_path / "out" / "data.html", inspection)
    text = (tmp_path / "out" / "data.html").read_text(encoding="utf-8")
    assert "LEAK: 1 of 1 picture of test (100.00%) found in another part too, 1 of them bit for bit." in text
    assert text.index("Leaks") < text.index("Files that cannot be used") < text.index("What the network sees")
    assert "test: cat/1 again.png" in text


def test_names_and_reasons_stand_left_and_figures_right(inspection: Inspection, tmp_path: Path) -> None:
    write_data_report(tmp_path / "data.html", inspection)
    text = (tmp_path / "data.html").read_text(encoding="utf-8")
    assert '<td class="text">train/cat/bad.jpg</td><td class="text">Not a picture' in text
    assert '<td class="text">train: cat/1.png</td><td class="text">test: cat/1 again.png</td><td>' in text


def test_page_fetches_nothing_and_escapes_names(inspection: Inspection, tmp_path: Path) -> None:
    write_data_report(tmp_path / "data.html", inspection)
    text = (tmp_path / "data.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;dog" in text and "<b>dog" not in text and "<script" not in text
    assert "http://" not in text and "https://" not in text


def test_text_is_the_summary(inspection: Inspection) -> None:
    lines = data_text(inspection).splitlines()
    assert lines[0] == "pets: class folders in train/, test/"
    assert lines[1].startswith("LEAK: 1 of 1 picture of test")
    assert lines[2].startswith("test has no picture of <b>dog: ")
    assert lines[3] == "Files that cannot be used: 1"
    assert lines[4].startswith("  train/cat/bad.jpg: Not a picture")
    assert lines[-1].endswith("2.0 times the pictures of the smallest: balanced enough.")


def test_page_that_cannot_be_written_is_an_error(inspection: Inspection, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        write_data_report(tmp_path / "file" / "data.html", inspection)


def test_copy_in_another_class_is_named(tmp_path: Path) -> None:
    names = ("cat/1.png", "cat/2.png", "dog/3.png", "dog/1 again.png")
    files = {name: encode(scene(seed)) for name, seed in zip(names, (1, 2, 3, 1), strict=True)}
    lines = data_text(inspect_dataset(write_files(tmp_path / "pets", files), 32, cache=tmp_path / "cache")).splitlines()
    assert lines[2] == "1 pair of pictures within one part are the same, or nearly."
    assert lines[3].startswith("One such pair is in different classes (cat/1.png, dog/1 again.png): one label is wr")
