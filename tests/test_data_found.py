"""What people have in their folders: litter, runs, videos, archives, tables of other machines, arrays, other tasks."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from data_kit import encode, make_folder, make_tar, make_zip, picture, write_files
from PIL import Image, ImageDraw

from pupila.cli import main
from pupila.data import Splits, load_dataset
from pupila.data.sources.source import source_name
from pupila.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pets"


def load(path: Path) -> Splits:
    return load_dataset(path, 8, cache=path.parent / "cache")


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as error:
        load(path)
    return str(error.value)


def test_litter_of_systems_and_drives_makes_no_class_and_no_picture(root: Path) -> None:
    make_folder(root, {"cat": 2, "dog": 2})
    litter = ("@eaDir", "#recycle", ".AppleDouble", "$RECYCLE.BIN", "System Volume Information", ".dropbox.cache")
    make_folder(root, {**dict.fromkeys(litter, 2), "cat/@eaDir/0.png": 1, "venv/lib/plots": 2})
    (root / "venv" / "pyvenv.cfg").write_bytes(b"home = /usr/bin")
    make_folder(root, dict.fromkeys(("_gsdata_", "~snapshot", "#snapshot", ".Trash-1000/files", ".stversions/cat"), 1))
    for name in ("cat/000.png:Zone.Identifier", "dog/000.png:AFP_AfpInfo"):
        (root / name).write_bytes(b"[ZoneTransfer]")
    for name in ("~$notes.docx", "desktop.ini", "Thumbs.db", "cat/000.png~", "Icon\r", "dog/.0.swp", "photos.lnk"):
        (root / name).write_bytes(b"x")
    splits = load(root)
    assert splits.train.classes == ("cat", "dog") and splits.skipped == () and len(splits.train) == 4


def test_run_folders_inside_the_data_are_no_data_and_change_nothing(root: Path) -> None:
    make_folder(root, {"cat": 2, "dog": 2})
    before = load(root)
    run = dict.fromkeys(("recipe.json", "run.json", "metrics.jsonl"), "{}")
    write_files(root / "runs" / "pets-quick", {**run, "confusion.png": picture(9), "curves.png": picture(8)})
    after = load(root)
    assert after.train.classes == before.train.classes and after.fingerprint == before.fingerprint
    packed = make_tar(root.parent / "p.tar", {f"{n}/{k}": picture(k) for k in (1, 2) for n in ("a", "b")} | {
        f"runs/x/{name}": b"{}" for name in run} | {"runs/x/curves.png": picture()})  # fmt: skip
    assert load(packed).train.classes == ("a", "b")
    assert "Ignored 1 folder (runs/x) that Pupila wrote." in load(packed).notes


def test_pictures_that_a_server_keeps_inside_the_data_are_no_data(root: Path) -> None:
    make_folder(root, {"cat": 2, "dog": 2, "kept/pictures": 2})
    assert load(root).train.classes == ("cat", "dog", "kept")
    write_files(root, {"kept/feedback.sqlite": b"SQLite format 3\0"})
    assert load(root).train.classes == ("cat", "dog")
    assert "Ignored 1 folder (kept) that Pupila wrote." in load(root).notes


def test_a_dot_is_named_after_its_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.mkdir()
    monkeypatch.chdir(root)
    assert [source_name(given) for given in (".", "./", "../pets", "digits", "a/b.tar.xz")] == [
        "pets", "pets", "pets", "digits", "b",
    ]  # fmt: skip


def test_videos_beside_pictures_are_passed_over_and_named(root: Path) -> None:
    make_folder(root, {"cat": 2, "dog": 2})
    write_files(root, {"cat/000.MOV": b"ftypqt", "cat/001.mov": b"ftypqt", "dog/clip.mp4": b"ftyp"})
    splits = load(root)
    assert splits.skipped == ()
    assert splits.notes == (
        "Passed over 2 videos of Live Photos: their pictures are used.",
        "Passed over 1 video, like dog/clip.mp4: save pictures out of videos to use them.",
    )


def test_parts_of_a_download_from_google_drive_are_one_folder(root: Path) -> None:
    root.mkdir()
    for part in (1, 2):
        files = {f"fotos/{pet}/{part}{n}.png": picture(part + 10 * n) for pet in ("cat", "dog") for n in range(2)}
        make_zip(root / f"fotos-20240131T101112Z-00{part}.zip", files)
    assert load(root).train.classes == ("cat", "dog") and len(load(root).train) == 8


def test_a_zip_a_class_is_a_class_folder(root: Path) -> None:
    root.mkdir()
    for name in ("cat", "dog"):
        make_zip(root / f"{name}-samples.zip", {f"{n}.png": picture(n) for n in range(2)})
    assert load(root).train.classes == ("cat", "dog")
    inside = {f"{name}.zip": (root / f"{name}-samples.zip").read_bytes() for name in ("cat", "dog")}
    assert load(make_zip(root.parent / "all.zip", inside)).train.counts().tolist() == [2, 2]
    make_folder(root, {"eel": 1, "fox": 1})
    assert load(root).train.classes == ("eel", "fox")
    assert "Left out 2 archives beside the pictures, like cat-samples.zip" in load(root).notes[0]


@pytest.mark.parametrize(
    "prefix", ["/content/drive/MyDrive/", "C:\\Users\\ana\\", "https://example.org/x/", "s3://bucket/", "../../data/"]
)
def test_table_with_paths_of_another_machine_is_matched_by_their_ends(root: Path, prefix: str) -> None:
    rows = "".join(f"{prefix}fotos/{n}.png,{'cão' if n % 2 else 'gato'}\n" for n in range(4))
    files = {f"fotos/{n}.png": picture(n) for n in range(4)}
    splits = load(write_files(root, {**files, "labels.csv": f"filename,label\n{rows}"}))
    assert splits.train.classes == ("cão", "gato")
    assert "labels.csv names pictures by other paths" in splits.notes[0]


def test_table_is_matched_by_the_longest_end_and_named_where_that_is_not_one_picture(root: Path) -> None:
    files: dict[str, bytes | str] = {f"{folder}/{n}.png": picture(n) for folder in ("a", "b") for n in range(2)}
    rows = "".join(f"/home/x/{folder}/{n}.png,{folder * 3}\n" for folder in ("a", "b") for n in range(2))
    splits = load(write_files(root, {**files, "labels.csv": f"path,label\n{rows}"}))
    assert list(splits.train.names) == ["aaa/a/0.png", "aaa/a/1.png", "bbb/b/0.png", "bbb/b/1.png"]
    write_files(root, {"labels.csv": "path,label\n/home/x/0.png,cat\n/home/x/1.png,dog\n"})
    note = load(root).notes[-1]
    assert "labels.csv is not used: '" in note and "can be a/0.png or b/0.png. Write paths from the folder" in note


def test_tables_of_several_machines_are_matched_below_their_own_folders_first(root: Path) -> None:
    for place in ("home", "office"):
        rows = "".join(f"C:\\{place}\\fotos\\{n}.png,{'cat' if n % 2 else 'dog'}\n" for n in range(4))
        files: dict[str, bytes | str] = {f"{place}/fotos/{n}.png": picture(n) for n in range(4)}
        write_files(root, {**files, f"{place}/labels.csv": f"filename,label\n{rows}"})
    splits = load(root)
    assert splits.train.classes == ("cat", "dog") and len(splits.train) == 8


def test_capitals_of_names_in_a_table_may_differ(root: Path) -> None:
    files: dict[str, bytes | str] = {f"f/IMG_{n}.JPG": picture(n) for n in range(2)}
    write_files(root, {**files, "l.csv": "filename,label\nf/img_0.jpg,a\nf/img_1.jpg,b\n"})
    assert load(root).train.classes == ("a", "b")


def test_lists_of_path_and_number_are_read(root: Path) -> None:
    files: dict[str, bytes | str] = {f"images/a {n}.png": picture(n) for n in range(3)}
    lists = {"train.txt": "images/a 0.png 0\nimages/a 1.png 1\n", "val.txt": "images/a 2.png 1\n"}
    assert {k: len(v) for k, v in load(write_files(root, {**files, **lists})).parts().items()} == {
        "train": 2, "validation": 1,
    }  # fmt: skip


@pytest.mark.parametrize("mark", ["\t", ",", "; "])
def test_lists_with_a_mark_may_have_spaces_in_names_and_any_encoding(root: Path, mark: str) -> None:
    files: dict[str, bytes | str] = {f"images/a {n}.png": picture(n) for n in range(4)}
    rows = "".join(f"images/a {n}.png{mark}{'São Bernardo' if n % 2 else 'cão'}\n" for n in range(4))
    for text in (rows, f"image{mark.strip(' ')}label\n{rows}" if mark == "\t" else rows):
        write_files(root, {**files, "labels.txt": text.encode("cp1252")})
        assert load(root).train.classes == ("São Bernardo", "cão")


def test_table_of_titles_is_no_table_of_labels(root: Path) -> None:
    make_folder(root, {"cat": 8, "dog": 8})
    rows = "".join(f"{pet}/{n:03d}.png,a picture of {pet} number {n}\n" for pet in ("cat", "dog") for n in range(8))
    splits = load(write_files(root, {"captions.csv": "file,caption\n" + rows}))
    assert splits.layout == "class folders"
    assert splits.notes[-1] == "captions.csv is not used: nearly every row has another label, as titles have."


@pytest.mark.parametrize(
    "document",
    [
        {"1.png": {"label": "cat"}, "2.png": {"label": "dog"}},
        {"data": [{"file": "1.png", "tags": ["cat"]}, {"file": "2.png", "tags": ["dog"]}]},
        [{"image": "f/1.png", "by": "ana", "when": 1}, {"image": "f/2.png", "by": "ana", "when": 2}],
    ],
)
def test_json_of_pictures_in_an_unknown_form_is_named(root: Path, document: object) -> None:
    files: dict[str, bytes | str] = {f"f/{n}.png": picture(n) for n in (1, 2)}
    write_files(root, {**files, "labels.json": json.dumps(document), "settings.json": '{"a": ["b", "c.png"]}'})
    said = refusal(root)
    assert "labels.json is not used: it names pictures, and its form is not known" in said
    assert "settings.json" not in said


def test_labels_of_label_studio_are_read(root: Path) -> None:
    files: dict[str, bytes | str] = {f"{n}.png": picture(n) for n in range(4)}
    rows = "".join(f"{n},1,{'cat' if n % 2 else 'dog'},/data/upload/2/{n}.png,3\n" for n in range(4))
    write_files(root, {**files, "export.csv": f"annotation_id,annotator,choice,image,lead_time\n{rows}"})
    assert load(root).train.classes == ("cat", "dog")


def test_table_in_each_class_folder_costs_a_few_lines(root: Path) -> None:
    make_folder(root, {f"{n:05d}": 2 for n in range(8)})
    boxes = "Filename;Width;ClassId\n000.png;32;5\n001.png;32;5\n"
    splits = load(write_files(root, {f"{n:05d}/GT-{n:05d}.csv": boxes for n in range(8)}))
    assert len(splits.train.classes) == 8 and len(splits.notes) == 4
    assert splits.notes[-1] == "5 more tables are not used."


def test_tables_whose_labels_are_not_found_are_named(root: Path) -> None:
    files: dict[str, bytes | str] = {f"f/{n}.png": picture(n) for n in range(2)}
    table = "Image Index,Finding Labels,Age\n0.png,A,70\n1.png,B,60\n"
    said = refusal(write_files(root, {**files, "entry.csv": table, "labels.xlsx": "PK"}))
    assert "entry.csv is not used: its column 'Image Index' names pictures" in said
    assert "labels.xlsx is not used: save it as CSV" in said
    write_files(root, {"entry.csv": table.replace("Finding Labels", "label").replace("Image Index", "file")})
    assert load(root).train.classes == ("A", "B")


def test_folders_of_images_above_or_within_the_classes_are_no_classes(root: Path) -> None:
    above = {f"{split}/images/{pet}": 1 for split in ("train", "test") for pet in ("cat", "dog")}
    assert load(make_folder(root / "above", above)).train.classes == ("cat", "dog")
    within = {f"{pet}/{kind}": 1 for pet in ("cat", "dog") for kind in ("images", "extra")}
    assert load(make_folder(root / "within", within)).train.classes == ("cat", "dog")


def test_splits_within_the_classes_are_splits(root: Path) -> None:
    splits = load(make_folder(root, {f"{pet}/{part}": 2 for pet in ("cat", "dog") for part in ("treino", "teste")}))
    assert splits.train.classes == ("cat", "dog")
    assert {name: len(part) for name, part in splits.parts().items()} == {"train": 4, "test": 4}


def test_archives_and_data_sets_of_a_kind_that_is_not_read_are_named(root: Path) -> None:
    write_files(root, {"cat.rar": "Rar!", "dog.7z": "7z"})
    assert "Passed over 2 files of a kind that is not read, like cat.rar: unpack such files" in refusal(root)
    write_files(root, {"a.png": picture()})
    assert "a.png: is one picture, and no data set" in refusal(root / "a.png")


def test_addresses_whose_pictures_are_not_here_are_named(root: Path) -> None:
    write_files(
        root, {"fotos/9.png": picture(), "l.csv": "url,label\nhttps://example.org/1.png,a\nhttps://a.b/2.png,b\n"}
    )
    assert "it names addresses, like https://example.org/1.png, which are not fetched" in refusal(root)


def test_column_a_class_is_read_and_several_classes_a_picture_are_named(root: Path) -> None:
    files: dict[str, bytes | str] = {f"images/ISIC_{n}.png": picture(n) for n in range(3)}
    table = "image,MEL,NV,BCC\nISIC_0,1.0,0.0,0.0\nISIC_1,0.0,1.0,0.0\nISIC_2,0.0,0.0,1.0\n"
    assert load(write_files(root, {**files, "truth.csv": table})).train.classes == ("BCC", "MEL", "NV")
    for one, none in (("True", "False"), ("TRUE", ""), ("1.000000e+00", "0.000000e+00"), ("1", "0")):  # True is pandas'
        written = table.replace("1.0", one).replace("0.0", none)
        assert load(write_files(root, {"truth.csv": written})).train.classes == ("BCC", "MEL", "NV")
    for one, none in (("sim", "não"), ("x", ""), ("1,0", "0,0")):  # as people and a Brazilian Excel write it
        written = table.replace(",", ";").replace("1.0", one).replace("0.0", none)
        assert load(write_files(root, {"truth.csv": written})).train.classes == ("BCC", "MEL", "NV")
    numbered = "".join(f"{n - 1 if n else ''},{line}\n" for n, line in enumerate(table.splitlines()))
    assert load(write_files(root, {"truth.csv": numbered})).train.classes == ("BCC", "MEL", "NV")
    write_files(root, {"truth.csv": table.replace("1.0,0.0,0.0", "1.0,1.0,0.0")})
    assert "truth.csv is not used: it gives pictures several classes, in 1 of 3 rows" in refusal(root)


def test_tables_of_roboflow_lie_in_the_folders_of_their_splits(root: Path) -> None:
    for split in ("train", "valid"):
        files: dict[str, bytes | str] = {f"{split}/{split}{n}.png": picture(n) for n in range(2)}
        rows = f"filename, cat, dog\n{split}0.png, 1, 0\n{split}1.png, 0, 1\n"
        write_files(root, {**files, f"{split}/_classes.csv": rows})
    assert {name: len(part) for name, part in load(root).parts().items()} == {"train": 2, "validation": 2}


@pytest.mark.parametrize("kind", ["jsonl", "list", "object", "lists"])
def test_labels_in_json_are_read(root: Path, kind: str) -> None:
    rows = [{"file_name": f"{n}.png", "label": "cat" if n % 2 else "dog"} for n in range(4)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    text = {
        "lists": json.dumps({"cat": ["1.png", "3.png"], "dog": ["0.png", "2.png"]}),
        "jsonl": lines, "list": json.dumps(rows), "object": json.dumps({r["file_name"]: r["label"] for r in rows}),
    }[kind]  # fmt: skip
    name = "metadata.jsonl" if kind == "jsonl" else "labels.json"
    write_files(root, {**{f"train/{n}.png": picture(n) for n in range(4)}, f"train/{name}": text})
    assert load(root).train.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("excel.csv", "sep=;\nimagem;classe\n{n}.png;{pet}\n"),
        ("noted.csv", "# written by hand\nimage,label\n{n}.png,{pet}\n"),
        ("pipes.csv", "image|label\n{n}.png|{pet}\n"),
        ("turned.csv", "{pet},{n}.png\n"),
        ("converted.csv", "image,label\n{n}.HEIC,{pet}\n"),
        ("escaped.csv", "url,label\nhttps://example.org/f%6Ftos/{n}.png?w=5,{pet}\n"),
        ("uploaded.csv", "annotation_id,choice,image\n{n},{pet},/data/upload/1/ab12cd3{n}-{n}.png\n"),
        ("local.csv", "choice,image,lead_time\n{pet},/data/local-files/?d=fotos%5C{n}.png,3\n"),
        ("other.csv", "Image_ID,Species,Date\n{n}.png,{pet},2020\n"),
    ],
)
def test_tables_as_programs_and_people_write_them_are_read(root: Path, name: str, text: str) -> None:
    *heads, row = text.splitlines()
    rows = [row.format(n=n, pet="cat" if n % 2 else "dog") for n in range(4)]
    files: dict[str, bytes | str] = {f"fotos/{n}.png": picture(n) for n in range(4)}
    splits = load(write_files(root, {**files, name: "\n".join([*heads, *rows])}))
    assert splits.train.classes == ("cat", "dog") and len(splits.train) == 4 and splits.skipped == ()


def test_pictures_with_several_labels_in_one_cell_are_named(root: Path) -> None:
    files: dict[str, bytes | str] = {f"{n}.png": picture(n) for n in range(4)}
    rows = "0.png,cat|dog\n1.png,cat\n2.png,dog\n3.png,dog\n"
    said = refusal(write_files(root, {**files, "l.csv": f"image,label\n{rows}"}))
    assert "l.csv is not used: it gives pictures several classes, in 1 of 4 rows" in said
    write_files(root, {"l.csv": f"image,label\n{rows}".replace("cat|dog", "cat;grey")})  # no class is called grey
    assert "cat;grey" in load(root).train.classes


def test_notes_of_google_takeout_are_no_tables(root: Path) -> None:
    make_folder(root, {"cat": 2, "dog": 2})
    endings = (".png.json", ".png.supplemental-metadata.json", ".json")
    notes = {f"{pet}/000{ending}": '{"title": "000.png", "views": "1"}' for pet in ("cat", "dog") for ending in endings}
    write_files(root, {**notes, "metadados.json": '{"title": "Fotos", "description": ""}'})
    splits = load(root)
    assert splits.layout == "class folders" and splits.notes == () and splits.skipped == ()
    labels = json.dumps({"cat/000.png": "a", "cat/001.png": "b", "dog/000.png": "b", "dog/001.png": "a"})
    assert load(write_files(root, {"labels.json": labels})).train.classes == ("a", "b")


def test_what_folders_mean_is_no_table_of_pictures(root: Path) -> None:
    make_folder(root, {"0": 2, "1": 2, "2": 2})
    write_files(root, {f"{n}/{n}.png": picture(90 + n) for n in range(3)})
    write_files(
        root, {"class_names.json": '{"0": "cat", "1": "dog", "2": "eel"}', "names.csv": "id,label\n0,cat\n1,dog\n"}
    )
    splits = load(root)
    assert splits.layout == "class folders" and splits.train.classes == ("0", "1", "2") and len(splits.train) == 9


def test_a_copy_of_the_class_folders_within_them_is_left_out(root: Path) -> None:
    make_folder(root, {f"{top}{pet}": 2 for top in ("", "pets/") for pet in ("cat", "dog")})
    splits = load(root)
    assert splits.train.classes == ("cat", "dog") and len(splits.train) == 4
    assert splits.notes == ("pets/ was left out (4 pictures): it holds again the folders that lie beside it.",)


@pytest.mark.parametrize("label", ['["{pet}"]', '{{"displayName": "{pet}"}}'])
def test_labels_one_level_deep_in_json_are_read(root: Path, label: str) -> None:
    files: dict[str, bytes | str] = {f"{n}.png": picture(n) for n in range(4)}
    pets = ("cat", "dog", "cat", "dog")
    rows = [f'{{"uri": "gs://bucket/{n}.png", "labels": {label.format(pet=pet)}}}\n' for n, pet in enumerate(pets)]
    assert load(write_files(root, {**files, "import.jsonl": "".join(rows)})).train.classes == ("cat", "dog")


def test_tables_of_pixels_are_named(root: Path) -> None:
    said = refusal(write_files(root, {"fer.csv": "emotion,pixels,Usage\n0,1 2 3 4,Training\n"}))
    assert "fer.csv holds pixels as numbers, which is not read. Save them as arrays: numpy.savez(" in said


def test_table_too_wide_to_be_read_is_named(root: Path) -> None:
    heads = ",".join(["label", *(f"pixel{n}" for n in range(128 * 128))])
    said = refusal(write_files(root, {"faces.csv": f"{heads}\n"}))
    assert "faces.csv is not read: it has over" in said and "numpy.savez" in said


def test_a_file_that_may_hold_the_labels_is_named_where_there_is_one_class(root: Path) -> None:
    make_folder(root, {"jpg": 2})
    write_files(root, {"labels.mat": "MATLAB"})
    assert "Passed over 1 file of a kind that is not read, like labels.mat" in refusal(root)


def test_boxes_of_a_table_with_one_a_picture_are_not_used_and_that_is_said(root: Path) -> None:
    files: dict[str, bytes | str] = {f"{n}.png": picture(n) for n in range(4)}
    rows = "".join(f"{n}.png,{'cat' if n % 2 else 'dog'},1,1\n" for n in range(4))
    splits = load(write_files(root, {**files, "cars.csv": f"filename,class,xmin,ymin\n{rows}"}))
    assert splits.train.classes == ("cat", "dog")
    assert splits.notes[-1].startswith("cars.csv says where things are ('xmin'), which is not used")


def test_arrays_of_numpy_and_keras_are_read(root: Path) -> None:
    root.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    labels = np.asarray([0, 1, 10, 0, 1, 10])
    np.savez(root / "mnist.npz", x_train=images, y_train=labels, x_test=images[:3], y_test=labels[:3])
    splits = load(root / "mnist.npz")
    assert splits.train.classes == ("0", "1", "10") and splits.test is not None and len(splits.test) == 3
    assert np.array_equal(splits.train.images[..., 0], images)
    np.savez_compressed(root / "mnist.npz", images=images / 255.0, labels=np.eye(3)[[0, 1, 2, 0, 1, 2]])
    assert np.array_equal(load(root).train.images[..., 1], images)
    for other in (images / 127.5 - 1, images.astype("uint16") * 16 + 15, images.astype("int32")):
        np.savez(root / "mnist.npz", x=other, y=labels)
        assert np.abs(load(root).train.images[..., 0].astype(int) - images).max() <= 1
    np.savez(root / "mnist.npz", pixels=images, kinds=labels)
    assert "holds the arrays kinds [6], pixels [6, 8, 8]. Name the pictures x or x_train" in refusal(root)
    np.savez(root / "mnist.npz", x=np.asarray([{}], dtype=object), y=labels[:1])
    assert "holds an array of objects, which is not read, as it is a pickle. Save labels as numbers" in refusal(root)


@pytest.mark.parametrize("names", ["xtrain ytrain xtest ytest", "train.images train.labels test.images test.labels"])
def test_arrays_may_be_named_in_other_ways(root: Path, names: str) -> None:
    root.mkdir()
    images, labels = (
        np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8),
        np.asarray([0.0, 1.0, 2.0] * 2),
    )
    np.savez(root / "a.npz", **dict(zip(names.split(), (images, labels, images[:3], labels[:3]), strict=True)))
    splits = load(root)
    assert splits.train.classes == ("0", "1", "2") and splits.test is not None and len(splits.test) == 3


def test_arrays_may_be_rows_of_pixels_and_a_file_a_split(root: Path) -> None:
    root.mkdir()
    images, labels = np.random.default_rng(0).integers(0, 256, (6, 64), dtype=np.uint8), np.asarray([0, 1, 2] * 2)
    for split in ("train", "test"):
        np.savez(root / f"{split}.npz", x=images, y=labels)
    splits = load(root)
    assert splits.test is not None and np.array_equal(splits.test.images[..., 0].reshape(6, 64), images)
    np.savez(root / "test.npz", x=np.zeros((6, 192), np.uint8), y=labels)  # in which order its colours are is not said
    assert load(root).test is None
    np.savez(root / "train.npz", x=np.zeros((6, 192), np.uint8), y=labels)
    assert "holds the arrays x_test [6, 192], x_train [6, 192], y_test [6], y_train [6]." in refusal(root)


def test_arrays_in_files_of_their_own_are_read(root: Path) -> None:
    root.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    for name, array in {"X_train": images, "y_train": np.asarray([0, 1, 0, 1]), "X_test": images[:2]}.items():
        np.save(root / f"{name}.npy", array)
    np.save(root / "y_test.npy", np.asarray(["1", "0"]))
    splits = load(root)
    assert np.array_equal(splits.train.images, images) and splits.test is not None and len(splits.test) == 2
    (root / "y_train.npy").unlink()
    assert "holds no training pictures with labels" in refusal(root)


def test_idx_files_of_mnist_are_read_packed_or_not(root: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    for split in ("train", "t10k"):
        pictures = struct.pack(">4BIII", 0, 0, 8, 3, 4, 8, 8) + images.tobytes()
        labels = struct.pack(">4BI", 0, 0, 8, 1, 4) + bytes([7, 3, 7, 3])
        write_files(
            root, {f"{split}-images-idx3-ubyte.gz": gzip.compress(pictures), f"{split}-labels-idx1-ubyte": labels}
        )
    splits = load(root)
    assert splits.train.classes == ("3", "7") and splits.test is not None
    assert np.array_equal(splits.test.images[..., 2], images)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"images/train/1.png": "", "labels/train/1.txt": "0 0.5 0.5 0.2 0.2\n", "data.yaml": "nc: 2"}, "YOLO"),
        ({"train/images/1.png": "", "train/labels/1.txt": "3 .1 .2 .3 .4\n", "valid/images/2.png": ""}, "YOLO"),
        ({"JPEGImages/1.png": "", "Annotations/1.xml": "<annotation><object></object></annotation>"}, "Pascal VOC"),
        ({"train/1.png": "", "train/_annotations.coco.json": '{"images": [], "annotations": [{"bbox": []}]}'}, "COCO"),
        ({"images/1.png": "", "masks/1.png": ""}, "segmentation"),
        ({"train/images/1.png": "", "train/masks/1_mask.png": "", "test/images/2.png": ""}, "segmentation"),
        ({"Original_Images/1.png": "", "mask_png/1.png": ""}, "segmentation"),
        ({"Images/1.png": "", "Ground Truth/1_gt.png": ""}, "segmentation"),
        ({"train/input/1.png": "", "train/labels/mask_1.png": "", "test/input/2.png": ""}, "segmentation"),
        ({"images/1.png": "", "annotations/trimaps/1.png": ""}, "segmentation"),
        ({f"{top}/1.png": "" for top in ("train", "trainannot", "val", "valannot")}, "segmentation"),
        ({"obj_train_data/1.png": "", "obj_train_data/1.txt": "0 .1 .2 .3 .4\n", "obj.names": "cat"}, "YOLO"),
        ({"fotos/1.png": "", "fotos/1.txt": "0 .1 .2 .3 .4\n"}, "YOLO"),
        ({"1.png": "", "1.json": '{"shapes": [{"points": []}], "imagePath": "1.png"}'}, "LabelMe"),
        ({"1.png": "", "via.json": '{"1.png9": {"regions": [{"shape_attributes": {}}]}}'}, "VIA"),
        (
            {"images/1.png": "", "annotations.xml": '<annotations><image id="0"><box label="a" xtl="1"/></image>'},
            "CVAT",
        ),
        ({"train/1.png": "", "train/metadata.jsonl": '{"file_name": "1.png", "objects": {"bbox": []}}'}, "boxes"),
        ({"1.png": "", "a.csv": "filename,class,xmin\n1.png,cat,1\n1.png,dog,2\n"}, "detection (a.csv with 'xmin')"),
    ],
)
def test_data_sets_of_another_task_are_recognised(root: Path, files: dict[str, str], found: str) -> None:
    write_files(root, {name: picture() if name.endswith("png") else text for name, text in files.items()})
    said = refusal(root)
    assert found in said and "put them into class folders" in said


def test_classes_that_are_called_like_masks_stay_classes(root: Path) -> None:
    make_folder(root, {"with_mask": 2, "without_mask": 2})
    assert load(root).train.classes == ("with_mask", "without_mask")


def mask(number: int) -> bytes:
    """A white blot on black, as wide as the pictures are."""
    drawn = Image.new("L", (32, 32))
    ImageDraw.Draw(drawn).ellipse((number, 4, 20 + number, 27), 255)
    return encode(drawn)


@pytest.mark.parametrize("name", ["{pet}/{n:03d}_mask.png", "{pet}/{n:03d} - Segmentation 1.png", "masks/{n:03d}.png"])
def test_masks_beside_the_pictures_of_class_folders_are_left_out(root: Path, name: str) -> None:
    make_folder(root, {"cat": 4, "dog": 4})
    write_files(root, {name.format(pet=pet, n=n): mask(n) for pet in ("cat", "dog") for n in range(3)})
    splits = load(root)
    assert splits.train.classes == ("cat", "dog") and len(splits.train) == 8
    assert splits.notes[-1].startswith("Left out ") and "of parts of the pictures, like " in splits.notes[-1]


def test_masks_beside_pictures_without_classes_are_a_data_set_for_segmentation(root: Path) -> None:
    make_folder(root, {".": 4})
    write_files(root, {f"{n:03d}_mask.png": mask(n) for n in range(4)})
    assert "is a data set for segmentation (masks: 000_mask.png)" in refusal(root)


def test_photos_that_are_called_like_masks_stay(root: Path) -> None:
    make_folder(root, {"ana": 4, "bob": 4, "mask": 4})
    write_files(root, {f"{name}/{n:03d}_mask.png": picture(90 + n) for name in ("ana", "bob") for n in range(4)})
    splits = load(root)
    assert splits.train.classes == ("ana", "bob", "mask") and len(splits.train) == 20


def test_flat_drawings_in_folders_called_alike_stay(root: Path) -> None:
    write_files(root, {f"{brand}/{n}.png": mask(n) for brand in ("target", "label", "other") for n in range(4)})
    assert load(root).train.classes == ("label", "other", "target")


def test_class_folders_with_boxes_beside_the_pictures_stay_class_folders(root: Path) -> None:
    make_folder(root, {"cat": 2, "dog": 2})
    write_files(root, {f"{pet}/{n:03d}.txt": "0 0.5 0.5 0.2 0.2\n" for pet in ("cat", "dog") for n in range(2)})
    assert load(root).train.classes == ("cat", "dog")


def test_address_in_place_of_a_path_is_named() -> None:
    for given in ("https://example.org/fotos.zip", "s3://bucket/x"):
        done = CliRunner().invoke(main, ["data", given])
        assert done.exit_code == 1 and f"{given}: addresses are not read here" in str(done.output)
    assert (
        "give the path instead of the address: /x/y.zip" in CliRunner().invoke(main, ["data", "file:///x/y.zip"]).output
    )


def test_lfs_pointers_are_named_once(root: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    make_folder(root, {"cat": 2, "dog": 2})
    write_files(root, {"cat/a.png": pointer, "dog/b.png": pointer})
    splits = load(root)
    assert splits.skipped == () and splits.notes[-1].startswith(
        "Left out: Git LFS pointers in place of the pictures themselves: 2. "
    )
    write_files(root, {f"{pet}/{n:03d}.png": pointer for pet in ("cat", "dog") for n in range(2)})
    assert refusal(root).endswith("Run `git lfs pull` in its repository.")


def test_classes_of_one_or_two_pictures_are_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUPILA_CACHE", str(root.parent / "cache"))
    done = CliRunner().invoke(main, ["data", str(make_folder(root, {"cat": 1, "dog": 2, "eel": 9}))])
    assert "Classes of one or two pictures: cat (1), dog (2)." in done.output
    assert "Training needs two of each" in done.output


def test_one_class_is_enough_to_evaluate_with(root: Path) -> None:
    make_folder(root, {"cat": 2})
    assert "has one class only, 'cat'" in refusal(root)
    assert load_dataset(root, 8, cache=root.parent / "cache", one_class=True).train.classes == ("cat",)
    assert "has one class only, 'cat'" in refusal(root)  # and the cache does not answer for it
