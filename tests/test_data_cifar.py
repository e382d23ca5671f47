"""CIFAR-10's binary version, and CIFAR-100 in both, from small archives of the published formats."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from data_kit import BATCHES, cifar10_batch, cifar10_files, make_tar, python2_pickle

from pupila.data import load_dataset
from pupila.data.layouts.arrays import ROW
from pupila.errors import DataError

FINE = [b"apple", b"bee", b"chair"]
ROWS = np.random.default_rng(5).integers(0, 256, (6, ROW), dtype=np.uint8)


def cifar10_binary() -> dict[str, bytes]:
    rows = {name: cifar10_batch(seed) for seed, name in enumerate(BATCHES)}
    files = {
        f"{name}.bin": b"".join(
            bytes([label]) + row.tobytes() for label, row in zip(b[b"labels"], b[b"data"], strict=True)
        )
        for name, b in rows.items()
    }
    files["batches.meta.txt"] = b"airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n"
    return {f"cifar-10-batches-bin/{name}": data for name, data in files.items()}


def cifar100() -> dict[str, bytes]:
    content = {
        b"filenames": [b"%d.png" % index for index in range(6)],
        b"coarse_labels": [0, 1, 0, 1, 0, 1],
        b"fine_labels": [0, 1, 2, 0, 1, 2],
        b"data": ROWS,
    }
    meta = {b"fine_label_names": FINE, b"coarse_label_names": [b"x", b"y"]}
    return {
        f"cifar-100-python/{n}": python2_pickle(c) for n, c in (("train", content), ("test", content), ("meta", meta))
    }


def cifar100_binary() -> dict[str, bytes]:
    rows = b"".join(bytes([index % 2, index % 3]) + row.tobytes() for index, row in enumerate(ROWS))
    files = {
        "train.bin": rows,
        "test.bin": rows,
        "fine_label_names.txt": b"\n".join(FINE),
        "coarse_label_names.txt": b"x\ny",
    }
    return {f"cifar-100-binary/{name}": data for name, data in files.items()}


def test_binary_cifar10_has_the_pixels_and_labels_of_the_python_version(tmp_path: Path) -> None:
    splits = load_dataset(make_tar(tmp_path / "c.tar.gz", cifar10_binary()), cache=tmp_path / "cache")
    assert splits.layout == "CIFAR-10, binary version as published"
    assert (len(splits.train), splits.train.classes[9], splits.train.labels[:3].tolist()) == (100, "truck", [0, 1, 2])
    expected = cifar10_batch(0)[b"data"][3].reshape(3, 32, 32).transpose(1, 2, 0)
    assert np.array_equal(splits.train.images[3], expected)


@pytest.mark.parametrize("files", [cifar100(), cifar100_binary()], ids=["python", "binary"])
def test_cifar100_has_the_fine_labels(tmp_path: Path, files: dict[str, bytes]) -> None:
    splits = load_dataset(make_tar(tmp_path / "c.tar", files), cache=tmp_path / "cache")
    assert splits.layout.startswith("CIFAR-100")
    assert splits.train.classes == ("apple", "bee", "chair")
    assert splits.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert np.array_equal(splits.train.images[4], ROWS[4].reshape(3, 32, 32).transpose(1, 2, 0))


@pytest.mark.parametrize("key", ["label_names", "filenames"])
def test_half_a_letter_in_a_name_is_an_error(tmp_path: Path, key: str) -> None:
    files = cifar10_files()
    file, old = ("batches.meta", b"airplane") if key == "label_names" else ("data_batch_1", b"picture_s_000003.png")
    half = pickle.dumps("\ud800", 2)[2:-1]
    path = f"cifar-10-batches-py/{file}"
    files[path] = files[path].replace(b"U" + bytes([len(old)]) + old, half)
    with pytest.raises(DataError, match="is not CIFAR-10 as published"):
        load_dataset(make_tar(tmp_path / "c.tar", files), cache=tmp_path / "cache")


def test_binary_batch_cut_off_is_an_error(tmp_path: Path) -> None:
    files = cifar100_binary()
    files["cifar-100-binary/test.bin"] = files["cifar-100-binary/test.bin"][:-5]
    with pytest.raises(DataError, match="is not CIFAR-100 as published"):
        load_dataset(make_tar(tmp_path / "c.tar", files), cache=tmp_path / "cache")
