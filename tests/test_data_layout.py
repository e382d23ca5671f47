"""Class folders in all their arrangements, and what is said when there is none."""

import re
from pathlib import Path

import pytest
from data_kit import make_folder, picture

from pupila.data import Splits, load_dataset
from pupila.data.decode import choose_size, sample_sides
from pupila.errors import DataError
from pupila.images import DEFAULT_LIMITS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pets"


def load(root: Path, size: int | None = 8) -> Splits:
    return load_dataset(root, size, cache=root.parent / "cache")


def test_class_folders_without_splits_are_all_train(root: Path) -> None:
    splits = load(make_folder(root, {"dog": 2, "cat": 3}))
    assert (splits.name, splits.train.classes) == ("pets", ("cat", "dog"))
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert splits.validation is None and splits.test is None and splits.skipped == ()


@pytest.mark.parametrize("name", ["valid", "val", "validation", "Val"])
def test_validation_folder_goes_by_many_names(root: Path, name: str) -> None:
    splits = load(make_folder(root, {"train/cat": 2, "train/dog": 2, f"{name}/dog": 1, "test/cat": 3}))
    assert splits.validation is not None and splits.test is not None
    assert (splits.validation.labels.tolist(), splits.test.labels.tolist()) == ([1], [0, 0, 0])


def test_wrapping_folders_are_left_out(root: Path) -> None:
    splits = load(make_folder(root, {"a/b/train/cat": 1, "a/b/train/dog": 1, "a/b/test/dog": 1}))
    assert list(splits.parts()) == ["train", "test"]


def test_wrapped_class_folders_beside_a_readme_are_found(root: Path) -> None:
    make_folder(root, {"pets-v2/cat": 1, "pets-v2/dog": 1})
    (root / "README").write_text("Pets.")
    assert load(root).train.classes == ("cat", "dog")


def test_pictures_in_deeper_folders_belong_to_their_class(root: Path) -> None:
    splits = load(make_folder(root, {"train/cat/images": 2, "train/dog/indoor": 1, "train/dog/outdoor": 1}))
    assert splits.train.counts().tolist() == [2, 2]
    assert splits.notes == (
        "4 pictures in folders within a class folder count as that class, like cat/images/000.png.",
    )


def test_class_named_train_is_a_class_where_it_holds_pictures(root: Path) -> None:
    assert load(make_folder(root, {"car": 1, "train": 1})).train.classes == ("car", "train")


def test_hidden_empty_and_text_files_are_passed_over(root: Path) -> None:
    make_folder(root, {"cat": 1, "dog": 1, ".cache/x": 1, "__MACOSX/cat": 1})
    (root / "empty").mkdir()
    (root / "cat" / ".DS_Store").write_bytes(b"\0")
    (root / "class_names.csv").write_text("cat,Cat")
    (root / "dog" / "notes.txt").write_text("good dog")
    splits = load(root)
    assert (splits.train.classes, splits.skipped) == (("cat", "dog"), ())


def test_pictures_in_no_class_folder_are_listed(root: Path) -> None:
    make_folder(root, {"train/cat": 1, "train/dog": 1, "test": 1, "train": 1})
    assert [picture.name for picture in load(root).skipped] == ["train/000.png"]
    assert "no class folder" in load(root).skipped[0].reason
    assert "test/ was left out (1 picture): it is no split with class folders in it." in load(root).notes


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"),
        ("Training Set", "tests"),
        ("train", "holdout"),
        ("seg_train", "seg_test"),
        ("train-images", "test-images"),
        ("cifar_train_set", "cifar_test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
    ],
)
def test_splits_go_by_other_names_too(root: Path, train: str, test: str) -> None:
    splits = load(make_folder(root, {f"{train}/cat": 2, f"{train}/dog": 1, f"{test}/cat": 1, f"{test}/dog": 1}))
    assert (splits.train.classes, list(splits.parts())) == (("cat", "dog"), ["train", "test"])
    assert splits.notes == ()


@pytest.mark.parametrize("name", ["validation_set", "valid_set", "val_set", "evaluation"])
def test_more_names_of_validation(root: Path, name: str) -> None:
    splits = load(make_folder(root, {"train_set/cat": 2, "train_set/dog": 2, f"{name}/cat": 1, f"{name}/dog": 1}))
    assert list(splits.parts()) == ["train", "validation"]


def test_folder_beside_the_splits_is_told_in_one_sentence(root: Path) -> None:
    make_folder(root, {"seg_train/cat": 1, "seg_train/dog": 1, "seg_test/cat": 1, "seg_test/dog": 1, "seg_pred": 3})
    assert load(root).notes == ("seg_pred/ was left out (3 pictures): it is no split with class folders in it.",)
    assert load(root).skipped == ()


def test_flat_folders_with_the_names_of_splits_are_no_classes(root: Path) -> None:
    with pytest.raises(DataError, match="test_images/ and train_images/ hold pictures without labels"):
        load(make_folder(root, {"train_images": 2, "test_images": 2}))


def test_classes_that_only_sound_like_splits_stay_classes(root: Path) -> None:
    classes = {"steam_train/day": 1, "steam_test/day": 1, "car/day": 1, "bus": 1}
    assert load(make_folder(root, classes)).train.classes == ("bus", "car", "steam_test", "steam_train")


def test_classes_that_hold_the_same_folders_are_asked_about(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(root, {f"{year}/{pet}": 1 for year in (2019, 2020) for pet in ("cat", "dog")})
    with pytest.raises(DataError, match=r"2019, 2020 hold the same folders \(cat, dog\)") as error:
        load(root)
    command = rf"PUPILA_CLASS_FOLDERS=(\w+) pupila data {re.escape(str(root))}"
    assert re.findall(command, str(error.value)) == ["outer", "inner"]
    for choice, classes in (("outer", ("2019", "2020")), ("inner", ("cat", "dog"))):
        monkeypatch.setenv("PUPILA_CLASS_FOLDERS", choice)
        assert load(root).train.classes == classes


def test_folders_of_which_one_lacks_a_class_are_asked_about_too(root: Path) -> None:
    parts = {"amostra a": ("boi", "cão", "gato"), "amostra b": ("cão", "gato")}
    make_folder(root, {f"{part}/{pet}": 1 for part, pets in parts.items() for pet in pets})
    with pytest.raises(DataError, match=r"amostra a, amostra b hold the same folders \(boi, cão, gato\)"):
        load(root)
    one = make_folder(root.parent / "one", {"cat/indoor": 1, "cat/outdoor": 1, "dog/indoor": 1})
    assert load(one).train.classes == ("cat", "dog")


def test_link_to_a_folder_above_ends(root: Path) -> None:
    make_folder(root, {"cat": 1, "dog": 1})
    (root / "cat" / "again").symlink_to(root, target_is_directory=True)
    assert load(root).train.classes == ("cat", "dog")


def test_one_spelling_of_an_accent_is_as_good_as_the_other(root: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    splits = load(make_folder(root, {f"train/{composed}": 1, "train/te": 1, f"test/{decomposed}": 1}))
    assert splits.train.classes == (composed, "te")


def test_test_class_that_train_lacks_is_named_on_both_sides(root: Path) -> None:
    make_folder(root, {"train/cat": 1, "train/dog": 1, "test/cats": 1, "test/dog": 1})
    with pytest.raises(DataError, match=r"test has classes that train lacks: cats. It lacks cat. Name them alike"):
        load(root)


def test_long_lists_of_classes_are_cut_short(root: Path) -> None:
    make_folder(root, {"train/a": 1, "train/b": 1, **{f"test/x{k}": 1 for k in range(9)}})
    with pytest.raises(DataError, match="x0, x1, x2, x3, x4 and 4 more"):
        load(root)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "there are no pictures in it. Put them into one folder a class"),
        ({"": 3}, "its pictures are in no class folder"),
        ({"cat": 3}, "has one class only, 'cat'"),
        ({"train/cat": 3, "test/cat": 1}, "has one class only, 'cat'"),
        ({"test/cat": 1, "test/dog": 1}, "has test/ but no train/"),
        ({"train/cat": 1, "val/cat": 1, "valid/cat": 1}, "has both val/ and valid/"),
    ],
)
def test_folder_that_cannot_be_used_says_why(root: Path, counts: dict[str, int], message: str) -> None:
    root.mkdir()
    with pytest.raises(DataError, match=message):
        load(make_folder(root, counts))


def test_missing_path_is_named(root: Path) -> None:
    with pytest.raises(DataError, match="pets: there is no such file or folder"):
        load(root)


def test_mistyped_path_is_answered_with_what_lies_there(root: Path) -> None:
    (root.parent / "photos").mkdir()
    with pytest.raises(DataError, match="Did you mean 'photos'"):
        load(root.parent / "phots")
    with pytest.raises(DataError, match="Check the path"):
        load(root / "phots")


def test_mistyped_name_is_answered_with_the_right_one() -> None:
    with pytest.raises(DataError, match="Did you mean 'cifar10'"):
        load_dataset("cifar-10")


def test_size_below_one_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match="size of 0 pixels"):
        load(root, size=0)


@pytest.mark.parametrize(("side", "size"), [(8, 32), (32, 32), (33, 64), (100, 128), (200, 224), (500, 224)])
def test_size_is_chosen_from_the_shorter_sides(side: int, size: int) -> None:
    pictures = [picture(0, side, side + 50), picture(1, side + 9, side), picture(2, 1, 1), b"no picture"]
    assert choose_size(sample_sides(pictures, DEFAULT_LIMITS)) == size


def test_chosen_size_is_the_size_of_the_pictures(root: Path) -> None:
    assert load(make_folder(root, {"cat": 2, "dog": 2}, size=40), size=None).train.size == 64


def test_part_that_lacks_a_class_is_told(tmp_path: Path) -> None:
    splits = load(make_folder(tmp_path / "pets", {"train/cat": 2, "train/dog": 2, "test/cat": 1}), 8)
    assert splits.notes[-1] == "test has no picture of dog: a score on it says nothing of them."


def test_splits_in_the_names_of_classes_are_understood(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", {"cat_train": 2, "dog_train": 1, "cat_test": 1, "dog_test/old": 1})
    splits = load_dataset(root, 8, cache=tmp_path / "cache")
    assert splits.train.classes == ("cat", "dog")
    assert {name: part.names for name, part in splits.parts().items()} == {
        "train": ("cat/000.png", "cat/001.png", "dog/000.png"),
        "test": ("cat/000.png", "dog/old/000.png"),
    }
    assert splits.layout == "class folders named for their splits"


def test_class_without_a_split_beside_those_with_one_is_told(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", {"cat_train": 1, "cat_test": 1, "dog": 1})
    splits = load_dataset(root, 8, cache=tmp_path / "cache")
    assert splits.train.classes == ("cat_test", "cat_train", "dog")
    assert splits.notes[0].startswith("cat_test, cat_train were taken as classes, since dog tells no split:")
