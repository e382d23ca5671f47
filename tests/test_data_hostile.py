"""Folders and archives as people and packers leave them: each is understood, or refused in one sentence."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from batch_kit import link_to_each_other
from click.testing import CliRunner
from data_kit import as_a_plain_user, make_folder, make_tar, picture, scene, write_files

from pupila._files import WAYS_AT_MOST
from pupila.cli import main
from pupila.data import Splits, load_dataset, split
from pupila.data.decode import decode_pictures
from pupila.data.quality import duplicates
from pupila.data.sources.files import list_folder
from pupila.errors import DataError
from pupila.images import DEFAULT_LIMITS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pets"


def load(source: Path) -> Splits:
    return load_dataset(source, 8, cache=source.parent / "cache")


def test_folders_nested_deeper_than_calls_may_be(root: Path) -> None:
    make_folder(root, {"cat": 1, "dog": 1})
    here = os.open(root / "dog", os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        assert load(root).train.counts().tolist() == [1, 1]
    finally:
        subprocess.run(["rm", "-rf", root / "dog"], check=True)  # too deep for pytest to clean up


def test_name_that_is_not_in_utf_8_is_read_and_printed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(root, {"cat": 2, "dog": 2})
    broken = os.fsdecode(b"caf\xe9.jpg")
    (root / "cat" / broken).write_bytes(b"")
    (root / "dog" / ("é" * 127)).write_bytes(b"")
    monkeypatch.setenv("PUPILA_CACHE", str(root.parent / "cache"))
    done = CliRunner().invoke(main, ["data", str(root), "--report", str(root.parent / "page.html")])
    assert done.exit_code == 0, done.output
    assert "cat/café.jpg: The picture is empty" in done.output and "é" * 127 in done.output


def test_class_whose_name_could_be_several_texts_is_asked_about(root: Path) -> None:
    make_folder(root, {"cat": 1, os.fsdecode("犬".encode("cp932")): 1})
    with pytest.raises(DataError, match=r"can be read in several ways \(.*cp932: '犬'.*pupila data .* --name-encoding"):
        load(root)


def test_many_empty_folders_are_one_note(root: Path) -> None:
    make_folder(root, {"cat": 1, "dog": 1})
    for number in range(2000):
        (root / f"empty{number:04d}").mkdir()
    assert load(root).notes == ("Ignored 2,000 empty folders (empty0000, empty0001, empty0002 and 1,997 more).",)


def test_archive_in_a_folder_that_may_not_be_read_is_named(root: Path) -> None:
    root.mkdir()
    make_tar(root / "a.tar", {"cat/1.png": picture(1), "dog/1.png": picture(2)}).chmod(0)
    code = """
import sys
from pupila.data import load_dataset
from pupila.errors import DataError
try: load_dataset(sys.argv[1], 8, cache=sys.argv[2])
except DataError as error: print(error)
"""
    told = as_a_plain_user(code, root, root.parent / "cache").strip()
    assert told == f"{root}: a.tar: cannot be read (Permission denied). Check its permissions."


def test_link_to_itself_is_listed(root: Path) -> None:
    make_folder(root, {"cat": 1, "dog": 1})
    (root / "cat" / "again.jpg").symlink_to(root / "cat" / "again.jpg")
    assert [item.name for item in load(root).skipped] == ["cat/again.jpg"]


def test_folders_that_all_link_to_each_other_end_in_one_sentence(root: Path) -> None:
    with pytest.raises(DataError, match="links to folders lead on and on"):
        list_folder(link_to_each_other(root, 9))


def test_many_links_to_different_folders_are_followed(root: Path) -> None:
    for number in range(WAYS_AT_MOST + 1):
        (root.parent / "elsewhere" / f"{number}").mkdir(parents=True)
        (root.parent / "elsewhere" / f"{number}" / "p.png").touch()
        root.mkdir(exist_ok=True)
        (root / f"{number}").symlink_to(root.parent / "elsewhere" / f"{number}")
    assert len(list_folder(root).entries) == WAYS_AT_MOST + 1


def test_links_that_lead_to_many_files_again_end_in_one_sentence(root: Path) -> None:
    """Each path costs memory: ten folders of 300 files, with 90 links to each, took as much as 270,000 files."""
    for number in range(10):
        (root / f"{number}").mkdir(parents=True)
        for index in range(300):
            (root / f"{number}" / f"{index}.png").touch()
        for link in range(90):
            (root / f"{number}-{link}").symlink_to(f"{number}")
    with pytest.raises(DataError, match="links lead to folders again, and in them to over 250,000 files"):
        list_folder(root)


def test_sample_submission_of_kaggle_labels_nothing(root: Path) -> None:
    files = {f"train/{n}.png": picture(n) for n in (1, 2)} | {f"test/{n}.png": picture(n + 9) for n in (1, 2, 3)}
    sample = "id,label\n1,cat\n2,cat\n3,cat\n"
    tables = {"trainLabels.csv": "id,label\n1,frog\n2,deer\n", "sampleSubmission.csv": sample}
    splits = load(write_files(root, {**files, **tables}))
    assert splits.train.classes == ("deer", "frog")
    assert splits.notes[-1].startswith("sampleSubmission.csv is not used")


@pytest.mark.parametrize("head", ["path,label,suggested,score", "path,category,category_index,confidence"])
def test_tables_that_pupila_writes_are_no_labels(root: Path, head: str) -> None:
    make_folder(root, {"cat": 1, "dog": 1})
    (root / "ours.csv").write_text(f"{head}\ncat/000.png,dog,dog,0.9\ndog/000.png,dog,dog,0.9\n")
    assert load(root).layout == "class folders"


def test_table_in_utf_16_as_excel_writes_it(root: Path) -> None:
    write_files(root, {"1.png": picture(1), "2.png": picture(2)})
    (root / "labels.csv").write_text("path\tlabel\r\n1.png\tcão\r\n2.png\tgato\r\n", encoding="utf-16")
    assert load(root).train.classes == ("cão", "gato")


def test_table_that_is_not_used_is_told(root: Path) -> None:
    make_folder(root, {"cat": 1, "dog": 1})
    (root / "labels.csv").write_text("path,label\n/home/me/1.png,cat\n/home/me/2.png,dog\n")
    assert "labels.csv is not used: most of its rows name pictures that are not there" in load(root).notes[-1]


def test_table_with_wrong_paths_is_named_where_nothing_else_gives_labels(root: Path) -> None:
    write_files(root, {"a.png": picture(1), "b.png": picture(2)})
    (root / "labels.csv").write_text("path,label\nimg/x.png,cat\nimg/y.png,dog\n")
    with pytest.raises(DataError, match=r"no class folder.* labels\.csv is not used: .* like 'img/x\.png'"):
        load(root)


def test_links_in_a_tar_are_the_files_that_they_name(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "pets.tar", {"cat/1.png": picture(1), "dog/1.png": picture(2)})
    with tarfile.open(path, "a") as archive:
        for name, kind, target in (
            ("cat/hard.png", tarfile.LNKTYPE, "cat/1.png"),
            ("dog/soft.png", tarfile.SYMTYPE, "../cat/1.png"),
            ("dog/away.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("dog/disk.png", tarfile.BLKTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member, io.BytesIO())
    splits = load(path)
    assert splits.train.names == ("cat/1.png", "cat/hard.png", "dog/1.png", "dog/soft.png")
    assert (splits.train.images[0] == splits.train.images[3]).all()


def test_classes_that_differ_in_capitals_are_told(root: Path) -> None:
    notes = load(make_folder(root, {"Cat": 1, "cat": 1, "dog": 1})).notes
    assert notes == ("'Cat' and 'cat' are different classes: name them alike if they are one.",)


SPELLED = [f"{word}{number}" for number in range(30) for word in ("cat", "Cat")]
SOURCES_OF_NOTES = {
    "folders that are no splits": {f"{name}/1.png": "" for name in ("train/a", "train/b", *range(30))},
    "folders that lie twice": {
        f"{n}/1.png": "" for n in ("a/x", "b/x", *(f"more{m}/{c}" for m in range(30) for c in "ab"))
    },
    "classes spelled alike": {f"{name}/1.png": "" for name in SPELLED},
    "ways to spell one class": {f"c{'_' * n}at/1.png": "" for n in range(30)},
    "folders without labels": {
        "train.csv": "path,label\na.png,cat\nb.png,dog\n", **{f"{n}.png": "" for n in ("a", "b")},
        **{f"{n}/x{n}.png": "" for n in range(30)},
    },
    "tables of boxes": {
        f"{n}/{name}": text for n in range(30)
        for name, text in {"t.csv": f"path,label,xmin\na.png,cat,{n}\nb.png,dog,1\n", "a.png": "", "b.png": ""}.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", SOURCES_OF_NOTES)
def test_of_many_notes_the_first_are_shown_and_the_others_counted(kind: str, root: Path) -> None:
    files = SOURCES_OF_NOTES[kind]
    write_files(root, {name: text or picture(number) for number, (name, text) in enumerate(files.items())})
    notes = load(root).notes
    assert 0 < len(notes) <= 24 and max(map(len, notes)) < 500
    assert kind == "ways to spell one class" or any(note.startswith("Notes like these that are not") for note in notes)


def test_class_without_a_readable_picture_says_why(root: Path) -> None:
    write_files(root, {"cat/1.png": picture(1), "dog/1.heic": b"\0\0\0\x18ftypheic" + bytes(99)})
    with pytest.raises(DataError, match=r"'dog' can be read \(dog/1\.heic: The picture is cut off"):
        load(root)


def test_more_pixels_than_memory_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(DataError, match=r"30 pictures of 100000 x 100000 pixels need 1,676\.4 GiB of memory"):
        decode_pictures([picture()] * 30, 100_000, DEFAULT_LIMITS)


def test_folder_called_like_a_data_set_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'pupila[train]'")
    monkeypatch.chdir(tmp_path)
    assert load_dataset("digits").notes == ()
    (tmp_path / "digits").mkdir()
    assert load_dataset("digits").notes[-1].endswith("is ./digits.")


def test_pictures_that_are_all_alike_from_afar_are_compared_a_few_each() -> None:
    broad = np.asarray(scene(0, 32)).astype(np.int64)
    noise = np.random.default_rng(0).integers(-20, 21, (120, 32, 32, 3))
    scans = np.clip(broad + noise, 0, 255).astype(np.uint8)
    scans[77] = scans[100]
    first = duplicates._likest(duplicates._coarse(scans), range(120), range(120)).first
    assert np.bincount(first).max() == duplicates.CROWD
    assert [(pair.first, pair.second) for pair in duplicates.find_duplicates([scans]) if pair.exact] == [(77, 100)]


def test_parquet_without_labels_says_what_is_missing(root: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'pupila[parquet]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    root.mkdir()
    parquet.write_table(arrow.table({"image": [picture(1), picture(2)]}), root / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet has the columns image\. Name one of them 'label'"):
        load(root)


def test_class_of_one_picture_cannot_be_trained_on(root: Path) -> None:
    with pytest.raises(DataError, match="'dog' has 1 picture; two are needed"):
        split(load(make_folder(root, {"cat": 3, "dog": 1})).train, 0.1, 0)
