"""Corrected pictures are trained on, and neither validated nor tested with; what is left out is told."""

from pathlib import Path

import numpy as np
import pytest
from feedback_kit import correct
from PIL import Image
from server_kit import encode
from training_kit import TINY, colours

from pupila import images
from pupila.data import Dataset
from pupila.data.quality.duplicates import copies_of
from pupila.errors import DataError
from pupila.feedback import Answered, Store
from pupila.feedback.corrections import joined, read_corrections
from pupila.training.run_folder import TrainingData
from pupila.training.train import TrainJob, train

pytestmark = pytest.mark.usefixtures("narrow")

CLASSES = ("red", "green", "blue")


def kept(folder: Path, pictures: list[tuple[bytes, str | None]], request: str = "r") -> Path:
    """A store in which each picture was answered "red" and then corrected."""
    store = Store(folder, create=True)
    store.add([Answered(request, i, data, "red", 0.6, False, "m1", 0.0) for i, (data, _) in enumerate(pictures)])
    for place, (_, category) in enumerate(pictures):
        correct(store, request, place, category, float(place))
    store.close()
    return folder


def png(seed: int, size: int = 32) -> bytes:
    return images.encode_png(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def held(*seeds: int) -> Dataset:
    pictures = np.stack([images.decode(png(seed), 32) for seed in seeds])
    return Dataset(pictures, np.zeros(len(seeds), dtype=np.int64), CLASSES)


def test_corrected_pictures_come_with_their_right_class(tmp_path: Path) -> None:
    folder = kept(tmp_path / "kept", [(png(1), "blue"), (png(2), "green"), (png(3, 50), "red")])
    found = read_corrections(folder, CLASSES, 32, [held(9)])
    assert found.pictures is not None
    assert len(found) == 3
    for seed, category in ((1, 2), (2, 1)):
        (row,) = [i for i, one in enumerate(found.pictures.images) if np.array_equal(one, images.decode(png(seed), 32))]
        assert found.pictures.labels[row] == category
    assert found.summary() == "Corrected pictures added to training: 3; left out: none"


def test_pictures_of_no_class_or_a_foreign_one_are_left_out_and_told(tmp_path: Path) -> None:
    folder = kept(tmp_path / "kept", [(png(1), None), (png(2), "zebra"), (png(3), "red")])
    found = read_corrections(folder, CLASSES, 32, [])
    assert found.to_manifest()["left_out"] == {"none": 1, "foreign": 1, "held_out": 0}
    assert found.to_manifest()["pictures"] == 1
    assert "1 of none of the classes; 1 of classes that the data set does not have" in found.summary()


def test_pictures_of_validation_and_test_are_left_out_mirrored_and_compressed_ones_too(tmp_path: Path) -> None:
    smooth = images.resize(np.random.default_rng(4).integers(0, 256, (8, 8, 3), dtype=np.uint8), 32)
    compressed = encode(Image.fromarray(smooth), "JPEG", quality=90)
    mirrored = images.encode_png(np.ascontiguousarray(smooth[:, ::-1]))
    folder = kept(tmp_path / "kept", [(png(1), "red"), (compressed, "red"), (mirrored, "blue"), (png(2), "green")])
    seen = Dataset(smooth[np.newaxis], np.zeros(1, dtype=np.int64), CLASSES)
    found = read_corrections(folder, CLASSES, 32, [held(7, 1), seen])
    assert (len(found), found.held_out) == (1, 3)
    assert "3 in validation or test, too" in found.summary()


def test_copies_are_found_and_other_pictures_are_not() -> None:
    many = np.stack([images.decode(png(seed), 32) for seed in range(40)])
    assert copies_of(many[:5], many[3:]).tolist() == [False, False, False, True, True]


def test_one_picture_counts_once_with_its_last_correction(tmp_path: Path) -> None:
    folder = kept(tmp_path / "kept", [(png(1), "red")])
    kept(folder, [(png(1), "green"), (png(1), "blue")], request="again")
    found = read_corrections(folder, CLASSES, 32, [])
    assert found.pictures is not None
    assert found.pictures.labels.tolist() == [2]


def test_folder_without_corrections_is_an_error_that_names_the_page(tmp_path: Path) -> None:
    kept(tmp_path / "kept", [])
    with pytest.raises(DataError, match="/review"):
        read_corrections(tmp_path / "kept", CLASSES, 32, [])
    with pytest.raises(DataError, match="--feedback-dir"):
        read_corrections(tmp_path / "nothing", CLASSES, 32, [])


def test_nothing_left_leaves_the_data_as_it_is(tmp_path: Path) -> None:
    found = read_corrections(kept(tmp_path / "kept", [(png(1), None)]), CLASSES, 32, [])
    data = colours()
    assert len(found) == 0
    assert joined(data, found) is data


def test_training_takes_corrections_up_and_the_model_file_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = colours(90)
    for name, label in zip(data.classes, range(3), strict=True):
        (tmp_path / "data" / name).mkdir(parents=True)
        for row in np.flatnonzero(data.labels == label):
            (tmp_path / "data" / name / f"{row}.png").write_bytes(images.encode_png(data.images[row]))
    folder = kept(tmp_path / "kept", [(png(1), "blue"), (png(2), None)])
    data = TrainingData(str(tmp_path / "data"), feedback=folder)
    taught = train(TrainJob(data, TINY, tmp_path / "taught")).exported.predictor.manifest
    assert "Corrected pictures added to training: 1; left out: 1 of none of the classes" in caplog.text
    assert (taught.data["train"], taught.data["validation"]) == (81 + 1, 9)
    assert taught.data["feedback"]["pictures"] == 1
    assert taught.reference["n"] == taught.data["validation"]
    assert sum(taught.reference["answers"]) == taught.reference["n"]
    assert len(taught.reference["confidence"]) == 201
