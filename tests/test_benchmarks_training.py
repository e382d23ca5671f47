"""Benchmarks still fit the code that they measure, and take the data that strangers have."""

import io
import random
import re
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

from pupila.data import load_dataset

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


def test_commands_of_the_card_make_a_data_set_of_the_published_archive(tmp_path):
    card = (BENCHMARKS.parents[1] / "docs" / "models" / "cifar10.md").read_text(encoding="utf-8")
    (commands,) = (
        block for block in re.findall(r"^```sh\n(.*?)^```$", card, re.M | re.S) if "val_annotations" in block
    )
    top, names = tmp_path / "tiny-imagenet-200", STRANGERS[:2]
    files = {f"test/images/test_{n}.JPEG": picture(n, 64, 64, "JPEG") for n in range(2)}
    for place, name in enumerate(names):
        files[f"train/{name}/{name}_boxes.txt"] = f"{name}_0.JPEG\t0\t10\t63\t58\n".encode()
        for n in range(4):
            files[f"train/{name}/images/{name}_{n}.JPEG"] = picture(10 + 4 * place + n, 64, 64, "JPEG")
    for n in range(4):
        files[f"val/images/val_{n}.JPEG"] = picture(20 + n, 64, 64, "JPEG")
    lines = [f"val_{n}.JPEG\t{names[n % 2]}\t0\t32\t44\t62\n" for n in range(4)]
    files["val/val_annotations.txt"] = "".join(lines).encode()
    files["wnids.txt"] = "".join(f"{name}\n" for name in names).encode()
    files["words.txt"] = "".join(f"{name}\tcat, dog\n" for name in names).encode()
    for path, content in files.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_bytes(content)
    subprocess.run(["bash", "-euc", commands], cwd=tmp_path, check=True, timeout=60)
    made = load_dataset(str(top), 32)
    assert made.test is None and made.validation.classes == tuple(names)
    assert (len(made.train), len(made.validation)) == (8, 4)


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
