"""Labels from the names of files that lie in one folder."""

from pathlib import Path

import pytest
from data_kit import picture, write_files

from pupila.data import Splits, load_dataset
from pupila.errors import DataError


def load(tmp_path: Path, *names: str) -> Splits:
    root = write_files(tmp_path / "pets", {name: picture(seed) for seed, name in enumerate(names)})
    return load_dataset(root, 8, cache=tmp_path / "cache")


@pytest.mark.parametrize("form", ["{}_00{}.jpg", "{}.{}.png", "{}-{}.jpeg", "{} ({}).png", "{}_ {}.PNG"])
def test_label_is_what_stands_before_the_number(tmp_path: Path, form: str) -> None:
    splits = load(tmp_path, *(form.format(label, number) for label in ("cat", "great_dane") for number in (1, 2)))
    assert splits.train.classes == ("cat", "great_dane")
    assert splits.train.counts().tolist() == [2, 2]


def test_layout_says_what_was_taken_for_the_label(tmp_path: Path) -> None:
    splits = load(tmp_path, "cat_1.png", "cat_2.png", "dog_1.png", "dog_2.png")
    assert splits.layout == "labels in file names, like 'cat' in cat_1.png"


def test_split_folders_may_hold_such_files(tmp_path: Path) -> None:
    splits = load(tmp_path, "train/cat_1.png", "train/dog_1.png", "test/cat_1.png", "test/dog_1.png")
    assert {name: part.counts().tolist() for name, part in splits.parts().items()} == {"train": [1, 1], "test": [1, 1]}


def test_one_wrapping_folder_is_left_out(tmp_path: Path) -> None:
    assert load(tmp_path, *(f"all/{n}_{k}.png" for n in ("cat", "dog") for k in (1, 2))).train.classes == ("cat", "dog")


def test_few_names_without_a_label_are_listed(tmp_path: Path) -> None:
    names = [f"{label}_{number}.png" for label in ("cat", "dog") for number in range(6)]
    assert [item.name for item in load(tmp_path, *names, "IMG_2024.png").skipped] == ["IMG_2024.png"]


@pytest.mark.parametrize(
    "names",
    [
        ("IMG_1.png", "IMG_2.png", "DSC_1.png", "DSC_2.png"),
        ("cat_1.png", "cat_2.png"),
        ("sunset_1.png", "beach_1.png", "mum_1.png"),
        ("1.png", "2.png", "3.png"),
        ("cat_1.png", "cat_2.png", "dog_1.png", "dog_2.png", "x.png", "y.png"),
    ],
)
def test_names_that_are_no_labels_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="its pictures are in no class folder"):
        load(tmp_path, *names)
