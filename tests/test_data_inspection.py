"""Trouble of ten kinds among good pictures: every one is listed, and no good one."""

import json
from pathlib import Path

import numpy as np
import pytest
from data_kit import as_a_plain_user, encode, scene, write_files
from PIL import Image

from pupila.data import load_dataset
from pupila.data.quality.inspection import inspect_dataset
from pupila.training.prepare import _report

GOOD = 490
HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(400)


def plant_good(root: Path, count: int = GOOD) -> Path:
    """Write good pictures of two classes, PNG and JPEG in turn."""
    for seed in range(count):
        folder = root / ("cat" if seed % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        kind, ending = (("PNG", "png"), ("JPEG", "jpg"))[seed // 2 % 2]
        (folder / f"{seed:04d}.{ending}").write_bytes(encode(scene(seed, 40), kind))
    return root


def plant_trouble(root: Path) -> dict[str, str]:
    """Add one file each of ten kinds; return their names with a word of what the report is to say."""
    files = {
        "cat/truncated.jpg": encode(scene(9001), "JPEG")[:900],
        "cat/zero.jpg": b"",
        "cat/ending.jpg": encode(scene(9002), "PNG"),
        "dog/phone.heic": HEIC,
        "dog/text.jpg": b"dear diary",
        "dog/locked.jpg": encode(scene(9003), "JPEG"),
        "dog/bomb.png": encode(Image.new("1", (10_000, 10_000))),
        "cat/print.jpg": encode(scene(9004).convert("CMYK"), "JPEG"),
    }
    write_files(root, files)
    (root / "cat" / "folder.jpg").mkdir()
    (root / "cat" / "dangling.jpg").symlink_to(root / "nowhere.jpg")
    (root / "dog" / "locked.jpg").chmod(0)
    words = ("cut off", "0 bytes", "It is PNG", "cut off", "it is text", "Permission denied", "megapixels", "CMYK")
    return {**dict(zip(files, words, strict=True)), "cat/folder.jpg": "a folder", "cat/dangling.jpg": "a link"}


def test_every_planted_trouble_is_listed_and_no_good_picture(tmp_path: Path) -> None:
    root = plant_good(tmp_path / "pets")
    planted = plant_trouble(root)
    found = inspect_as_a_plain_user(root, tmp_path / "cache")
    listed = {item["name"]: item["reason"] for item in (*found["skipped"], *found["files"]["odd"])}
    assert sorted(listed) == sorted(planted)
    assert [name for name, word in planted.items() if word not in listed[name]] == []
    assert sum(found["counts"]["train"].values()) == GOOD + 2  # the wrong ending and CMYK can be used
    assert found["twins"] == found["uniform"] == []


def test_folder_with_trouble_of_ten_kinds_trains_and_names_it(tmp_path: Path) -> None:
    root = plant_good(tmp_path / "pets", 90)
    planted = plant_trouble(root)
    code = "import sys; from pupila.cli import main; main(sys.argv[1:])"
    small = [f"--set={pair}" for pair in ("network_size=32", "progressive=[]", "export=float32")]
    output = as_a_plain_user(
        code, "train", root, "--runs", tmp_path, "--name", "run", "--weights", "none", "--epochs", "1", "--size", "32",
        *small, PUPILA_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    assert "skipped 8 unreadable pictures" in output
    assert [name for name in planted if f"  {name}: " not in output] == ["cat/ending.jpg", "cat/print.jpg"]
    assert "82 pictures to train on, 10 to validate" in output
    assert (tmp_path / "run" / "model.onnx").exists()


def inspect_as_a_plain_user(root: Path, cache: Path) -> dict[str, object]:
    code = "import json, sys; from pathlib import Path; "
    code += "from pupila.data.quality.inspection import inspect_dataset as run\n"
    code += "print(json.dumps(run(Path(sys.argv[1]), 32, cache=Path(sys.argv[2])).to_json()))"
    return dict(json.loads(as_a_plain_user(code, root, cache)))


def test_training_counts_the_skipped_files_that_it_does_not_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = {f"{name}/{k}.png": encode(scene(k)) for name in ("cat", "dog") for k in range(3)}
    root = write_files(tmp_path / "pets", {**good, **{f"cat/broken-{k:02}.png": b"no picture" for k in range(13)}})
    _report(load_dataset(root, 32, cache=tmp_path / "cache"))
    lines = caplog.messages
    assert lines[-1] == "  and 3 more" and lines[-2].startswith("  cat/broken-09.png: ")


def test_folder_that_may_not_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    write_files(root, {f"{name}/{k}.png": encode(scene(k)) for name in ("cat", "dog", "dog/closed") for k in range(3)})
    code = "import runpy, sys; sys.argv[0], sys.stderr = 'pupila', sys.stdout\n"
    code += "try: runpy.run_module('pupila', run_name='__main__')\nexcept SystemExit as end: print(end.code)"
    (root / "dog" / "closed").chmod(0)
    try:
        said = as_a_plain_user(code, "data", root)
    finally:
        (root / "dog" / "closed").chmod(0o755)
    assert "1 folder (dog/closed) cannot be read: there is no permission" in said and said.strip().endswith("1")


def test_leaks_come_first_and_wrong_labels_are_named(tmp_path: Path) -> None:
    copies = {
        "train/cat/1.png": 1,
        "train/cat/2.png": 2,
        "train/dog/1.png": 1,
        "train/dog/3.png": 3,
        "train/dog/4.png": 3,
    }
    files = {name: encode(scene(seed)) for name, seed in copies.items()}
    files["test/cat/5.jpg"] = encode(scene(2), "JPEG", quality=80)
    files["test/dog/6.png"] = encode(scene(6))
    inspection = inspect_dataset(write_files(tmp_path / "pets", files), 32, cache=tmp_path / "cache")
    assert [(t.first.name, t.second.name, t.leak, t.disagree, t.exact) for t in inspection.twins] == [
        ("cat/2.png", "cat/5.jpg", True, False, False),
        ("cat/1.png", "dog/1.png", False, True, True),
        ("dog/3.png", "dog/4.png", False, False, True),
    ]
    assert (inspection.leaked(), inspection.leaked(exact=True)) == ({"test": 1}, {})


def test_counts_sizes_formats_and_rotation_are_told(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {
        "cat/1.jpg": encode(scene(1).resize((80, 40)), "JPEG", exif=turned),
        "cat/2.png": encode(scene(2).convert("L")),
        "dog/3.png": encode(scene(3).resize((12, 300))),
        "dog/4.png": encode(Image.new("RGB", (50, 50), "red")),
    }
    inspection = inspect_dataset(write_files(tmp_path / "pets", files), 32, cache=tmp_path / "cache")
    survey = inspection.survey
    assert survey is not None
    assert (survey.formats, survey.modes, survey.rotated) == ({"PNG": 3, "JPEG": 1}, {"RGB": 3, "L": 1}, 1)
    assert survey.sizes == {(40, 80): 1, (64, 64): 1, (12, 300): 1, (50, 50): 1}
    assert [(item.name, item.reason) for item in survey.odd] == [("dog/3.png", "It has 12 x 300 pixels.")]
    assert [place.name for place in inspection.uniform] == ["dog/4.png"]


def test_pictures_of_more_than_8_bits_are_named_in_plain_words(tmp_path: Path) -> None:
    deep = Image.fromarray(np.asarray(scene(1).convert("L")).astype(np.uint16) * 16)
    files = {f"{pet}/{n}.png": encode(scene(n)) for pet, n in (("cat", 1), ("dog", 2))}
    survey = inspect_dataset(
        write_files(tmp_path / "pets", {**files, "dog/3.png": encode(deep)}), cache=tmp_path
    ).survey
    reason = "It has more than 8 bits a pixel: the range that it uses is stretched to 8."
    assert [(item.name, item.reason) for item in survey.odd] == [("dog/3.png", reason)]


def test_imbalance_is_the_largest_class_over_the_smallest(tmp_path: Path) -> None:
    files = {f"{name}/{k}.png": encode(scene(k)) for name, count in (("cat", 8), ("dog", 2)) for k in range(count)}
    assert (
        inspect_dataset(write_files(tmp_path / "pets", files), 8, cache=tmp_path / "cache").to_json()["imbalance"] == 4
    )


def test_data_set_without_files_is_inspected_too() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'pupila[train]'")
    inspection = inspect_dataset("digits")
    assert (inspection.survey, inspection.leaked()) == (None, {})


def test_user_files_stay_as_they_are(tmp_path: Path) -> None:
    root = plant_good(tmp_path / "pets", 8)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*.*")}
    inspect_dataset(root, 32, cache=tmp_path / "cache")
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*.*")} == before
