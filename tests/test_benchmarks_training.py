"""Benchmarks still fit the code that they measure, and take the data that strangers have."""

import io
import random
import runpy
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from data_kit import picture
from PIL import Image
from training_kit import TINY

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "training"))
import outside
import throughput

BENCHMARKS = Path(outside.__file__).parent
SMALL = replace(TINY, batch_size=8, network_size=32)


@pytest.mark.parametrize("source", [throughput.fixed, throughput.ours])
def test_throughput_measures_steps(source):
    assert throughput.trainer(SMALL, source(SMALL))() > 0


def test_half_of_the_classes_outside_the_ten_are_taught_and_none_of_the_ten():
    inside = [name for names in outside.AMONG_THE_TEN.values() for name in names]
    strangers = [f"n{number:08}" for number in range(90_000_000, 90_000_040)]
    taught = outside.taught_classes([*inside, *strangers])
    assert len(taught) == 20 and taught <= set(strangers)


STRANGERS = [f"n{number:08}" for number in range(90_000_000, 90_000_004)]


def pack(archive: Path, files: dict[str, bytes]) -> None:
    """Write a zip or a tar.xz, by the name's ending."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for name, content in files.items():
                packed.writestr(name, content)
        return
    with tarfile.open(archive, "w:xz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("ending", ["zip", "tar.xz"])
@pytest.mark.parametrize("images", ["images/", ""], ids=["published", "class folders"])
def test_outliers_are_the_training_pictures_of_every_second_class_outside_the_ten(tmp_path, ending, images):
    inside = [name for names in outside.AMONG_THE_TEN.values() for name in names]
    top, archive, folder = "tiny-imagenet-200", tmp_path / f"tiny.{ending}", tmp_path / "outliers"
    files = {f"{top}/val/images/val_0.JPEG": b"validation", f"{top}/test/images/test_0.JPEG": b"test"}
    for name in [*inside, *STRANGERS]:
        files[f"{top}/train/{name}/{images}{name}_0.JPEG"] = name.encode()
        files[f"{top}/train/{name}/{name}_boxes.txt"] = b"no picture"
    pack(archive, files)
    command = [sys.executable, str(BENCHMARKS / "outside.py"), str(archive), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (f"{folder}: 2 pictures of 2 classes\n", "")
    written = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert written == {f"{name}/{name}_0.JPEG": name for name in STRANGERS[::2]}


def test_outliers_of_an_archive_without_wordnet_classes_are_refused(tmp_path):
    pack(tmp_path / "other.zip", {"photos/train/cat/1.jpg": b"cat"})
    command = [sys.executable, str(BENCHMARKS / "outside.py"), str(tmp_path / "other.zip"), str(tmp_path / "outliers")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "no picture in train/WORDNET_ID/ is of a class outside the ten" in done.stderr
    assert not (tmp_path / "outliers").exists()


def test_small_pictures_of_any_data_set_are_blown_up(tmp_path):
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    shrink = runpy.run_path(str(BENCHMARKS.parent / "serving" / "shrink.py"))
    photos = tmp_path / "photos"
    for seed, folder in enumerate(["train/a", "train/b", "test/a", "test/b"]):
        (photos / folder).mkdir(parents=True)
        for number in range(2):
            (photos / folder / f"{number}.png").write_bytes(picture(2 * seed + number))
    made = shrink["blown_up"](str(photos), 2, tmp_path, random.Random(0))
    assert [Image.open(io.BytesIO(path.read_bytes())).size for path in made] == [(2048, 2048)] * 2


def test_help_of_the_backbone_names_every_set_that_it_trains_on():
    backbone = runpy.run_path(str(BENCHMARKS / "backbone.py"))
    assert {name for name, *_ in backbone["MIX"] if f"`{name}`" not in backbone["__doc__"]} == set()
