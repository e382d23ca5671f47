"""A folder becomes a table: one row a file, bad ones with the reason, in order, in every format."""

import csv
import json
import os
import socket
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_kit import fill, link_to_each_other
from PIL import Image
from server_kit import CLASSES, encode, picture, write_model

from pupila import _files
from pupila.batch import files_below, predict_all
from pupila.batch.listing import Walk
from pupila.batch.run import CHUNK
from pupila.batch.table import columns
from pupila.errors import DataError, MissingExtraError, ModelError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "colours.onnx")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_file_has_one_row_sorted_by_path(model: Path, tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", 2 * CHUNK + 5)
    summary = predict_all(model, [folder], tmp_path / "out.csv")
    rows = rows_of(tmp_path / "out.csv")
    assert [row["path"] for row in rows] == [str(path) for path in sorted(folder.iterdir())]
    assert [row["category"] for row in rows] == [CLASSES[index % 4] for index in range(len(rows))]
    assert [int(row["category_index"]) for row in rows] == [index % 4 for index in range(len(rows))]
    assert {row["unknown"] for row in rows} == {"false"} and 0.25 < float(rows[0]["confidence"]) <= 1
    assert summary.files == len(rows) and summary.categories["red"] == sum(row["category"] == "red" for row in rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "photos"]


@pytest.fixture
def troubled(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder of good and bad files, and the code that each must get."""
    root = fill(tmp_path / "photos", 3)
    good, whole = picture(), picture("green", "JPEG", (300, 300))
    bomb = encode(Image.new("1", (10_000, 10_000)), "PNG")
    contents = {
        "empty.png": (b"", "image_empty"),
        "cut.jpg": (whole[: len(whole) // 2], "image_truncated"),
        "text.jpg": (b"not a picture", "image_unrecognised"),
        "bomb.png": (bomb, "image_too_many_pixels"),
        "wrong-ending.txt": (good, ""),
        "cmyk.jpg": (encode(Image.new("CMYK", (40, 30), (0, 255, 255, 0)), "JPEG"), ""),
        "line\nbreak, comma.png": (good, ""),
        "caf\u00e9.png": (good, ""),
        "nested.jpg/deep/er/x.png": (good, ""),
    }
    for name, (content, _) in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    codes = {name: code for name, (_, code) in contents.items()}
    (root / "dangling.png").symlink_to(root / "nowhere")
    os.mkfifo(root / "pipe.png")
    (root / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket.png"))
        yield root, codes | dict.fromkeys(["dangling.png", "pipe.png", "zero.png", "socket.png"], "file_unreadable")


def test_bad_files_get_a_row_with_code_and_reason_and_stop_nothing(
    model: Path, troubled: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    root, expected = troubled
    summary = predict_all(model, [root], tmp_path / "out.csv")
    rows = {row["path"]: row for row in rows_of(tmp_path / "out.csv")}
    assert {name: rows[str(root / name)]["error_code"] for name in expected} == expected
    assert len(rows) == len(expected) + 3
    for row in rows.values():
        assert bool(row["error"]) == bool(row["error_code"]) == (not row["category"])
    assert summary.failed == sum(map(bool, expected.values())) and len(summary.failures) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_and_folders_without_permission_get_a_row(model: Path, tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", 2)
    (root / "0000.png").chmod(0)
    fill(root / "closed", 1)
    (root / "closed").chmod(0)
    predict_all(model, [root], tmp_path / "out.csv")
    (root / "closed").chmod(0o700)
    assert [row["error_code"] for row in rows_of(tmp_path / "out.csv")] == ["file_unreadable", "", "file_unreadable"]


def test_further_choices_have_columns_of_their_own(model: Path, tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", 2)
    predict_all(model, [folder], tmp_path / "out.csv", top=9)
    row = rows_of(tmp_path / "out.csv")[0]
    assert list(row) == columns(4)
    confidences = [float(row[name]) for name in ("confidence", "confidence_2", "confidence_3", "confidence_4")]
    assert confidences == sorted(confidences, reverse=True) and sum(confidences) == pytest.approx(1, abs=1e-5)
    assert {row[name] for name in ("category", "category_2", "category_3", "category_4")} == set(CLASSES)


def test_formats_hold_the_same_rows(model: Path, tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", 5)
    (folder / "bad.png").write_text("bad")
    for name in ("out.csv", "out.jsonl"):
        predict_all(model, [folder], tmp_path / name, top=2)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [columns(2)] * 6
    for line, row in zip(lines, rows_of(tmp_path / "out.csv"), strict=True):
        texts = {name: "" if value is None else str(value) for name, value in line.items()}
        assert texts | {"unknown": texts["unknown"].lower()} == row
    assert lines[0]["unknown"] is False and lines[5]["category"] is None


def test_parquet_holds_the_same_rows(model: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = fill(tmp_path / "photos", 5)
    (folder / "bad.png").write_text("bad")
    for name in ("out.parquet", "out.jsonl"):
        predict_all(model, [folder], tmp_path / name, top=2)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert parquet.read_table(tmp_path / "out.parquet").to_pylist() == lines


def test_parquet_without_its_package_says_what_to_install(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install -e '.*\[parquet\]'"):
        predict_all(model, [fill(tmp_path / "photos", 1)], tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_hidden_files_are_counted_and_own_output_among_the_pictures_is_passed_over(model: Path, tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", 3)
    (folder / ".DS_Store").write_bytes(b"x")
    fill(folder / ".thumbnails", 9)
    fill(folder / "@eaDir", 9)
    (folder / "Thumbs.db").write_bytes(b"x")
    run = fill(folder / "runs" / "photos-quick", 2)
    for name in ("recipe.json", "run.json"):
        (run / name).write_bytes(b"{}")
    (folder / "loop").symlink_to(folder)
    (folder / "also").symlink_to(fill(tmp_path / "others", 1))
    summary = predict_all(model, [folder, folder / "0001.png"], folder / "out.csv")
    assert (summary.files, summary.hidden) == (4, 5)
    names = [Path(row["path"]).relative_to(folder).as_posix() for row in rows_of(folder / "out.csv")]
    assert names == ["0000.png", "0001.png", "0002.png", "also/0000.png"]


def test_folders_that_all_link_to_each_other_end_in_one_sentence(model: Path, tmp_path: Path) -> None:
    folder = link_to_each_other(tmp_path / "photos", 9)
    with pytest.raises(DataError, match="links to folders lead on and on"):
        predict_all(model, [folder], tmp_path / "out.csv")
    with pytest.raises(DataError, match="links to folders lead on and on"):
        files_below([folder])
    assert list(tmp_path.iterdir()) == [folder]


def test_links_that_list_very_many_files_again_end_in_one_sentence(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_files, "AGAIN_AT_MOST", 40)
    folder = fill(tmp_path / "photos" / "real", 20).parent
    for number in range(3):
        assert len(files_below([folder])) == 20 * (number + 1)
        (folder / f"link{number}").symlink_to(folder / "real")
    message = "links lead to folders again, and in them to over 40 files"
    with pytest.raises(DataError, match=message):
        files_below([folder])
    with pytest.raises(DataError, match=message):
        predict_all(model, [folder], tmp_path / "out.csv")


def test_deep_folder_is_listed_in_little_memory_and_gets_a_row(model: Path, tmp_path: Path) -> None:
    deepest = tmp_path.joinpath("photos", *["a"] * (_files.DEEPEST_FOLDER + 1))
    deepest.mkdir(parents=True)
    for number in range(1000):
        (deepest.parents[1] / str(number)).mkdir()
    (deepest.parent / "seen.png").write_bytes(picture())
    (deepest / "unseen.png").write_bytes(picture())
    tracemalloc.start()
    assert len(list(Walk([tmp_path / "photos"]))) == 2
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    predict_all(model, [tmp_path / "photos"], tmp_path / "out.csv")
    rows = rows_of(tmp_path / "out.csv")
    assert [row["path"] for row in rows] == [str(deepest), str(deepest.parent / "seen.png")]
    assert "a closed folder, or one in over 64 others" in rows[0]["error"] and not rows[1]["error"]


def test_name_that_is_no_utf8_is_written_readably(model: Path, tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", 1)
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(picture("blue"))
    predict_all(model, [folder], tmp_path / "out.csv")
    row = rows_of(tmp_path / "out.csv")[1]
    assert row["path"].endswith("caf\\xe9.png") and row["category"] == "blue"


def test_table_that_is_there_is_not_overwritten(model: Path, tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", 1)
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(DataError, match="is there already, and is not overwritten"):
        predict_all(model, [folder], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "mine" and not (tmp_path / "out.csv.unfinished").exists()


@pytest.mark.parametrize(
    ("paths", "name", "words"),
    [
        (["phtos"], "out.csv", "phtos: there is no such file or folder. Check the path."),
        (["empty"], "out.csv", "empty: holds no file that is not hidden"),
        (["photos"], "out.xlsx", "out.xlsx: the name says no format. End it in .csv, .jsonl, .parquet."),
        (["photos"], "no/such/out.csv", "No such file or directory"),
    ],
)
def test_mistake_is_named_and_leaves_nothing_behind(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str], name: str, words: str
) -> None:
    fill(tmp_path / "photos", 1)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        predict_all(model, [Path(path) for path in paths], Path(name))
    assert words in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "photos"]


def test_damaged_model_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    broken = write_model(tmp_path / "broken.onnx", spoil_golden=True)
    with pytest.raises(ModelError, match="answers its golden set differently"):
        predict_all(broken, [fill(tmp_path / "photos", 1)], tmp_path / "out.csv")


def test_kaggle_submission_is_sorted_by_number(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "test"
    folder.mkdir()
    for number, colour in [(10, "red"), (9, "green"), (100, "blue")]:
        (folder / f"{number}.png").write_bytes(picture(colour))
    (folder / "11.png").write_text("broken")
    predict_all(model, [folder], tmp_path / "out.csv", kaggle_format=True)
    assert (tmp_path / "out.csv").read_text() == "id,label\n9,green\n10,red\n11,\n100,blue\n"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1.png", "cat.png"], "cat.png: a submission needs files named by numbers"),
        (["1.png", "01.png"], "Two files have the number 1."),
        (["99999999999999999999.png"], "named by numbers"),
    ],
)
def test_kaggle_submission_needs_numbered_files(model: Path, tmp_path: Path, names: list[str], words: str) -> None:
    folder = tmp_path / "test"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(picture())
    with pytest.raises(DataError) as caught:
        predict_all(model, [folder], tmp_path / "out.csv", kaggle_format=True)
    assert words in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["test"]
