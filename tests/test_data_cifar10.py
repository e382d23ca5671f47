"""CIFAR-10 as published, read from a small archive of the same format; and the digits."""

import hashlib
import os
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_kit import cifar10_batch, cifar10_files, make_folder, make_tar, python2_pickle, serving

from pupila import images
from pupila.data import load_dataset
from pupila.data.load import load_cifar10
from pupila.errors import DataError, DownloadError, MissingExtraError

FOLDER = "cifar-10-batches-py"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return make_tar(tmp_path / "cifar-10-python.tar.gz", cifar10_files())


def test_published_archive_gives_its_own_split(archive: Path, tmp_path: Path) -> None:
    splits = load_dataset(archive, cache=tmp_path / "cache")
    assert splits.test is not None and splits.validation is None
    assert (len(splits.train), len(splits.test), splits.train.size) == (100, 20, 32)
    assert splits.train.classes[:3] == ("airplane", "automobile", "bird")
    assert splits.train.labels[:12].tolist() == [*range(10), 0, 1]


def test_pixels_are_those_that_numpy_itself_unpickles(archive: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2 remarks on the name numpy.core
        batch: dict[bytes, Any] = pickle.loads(python2_pickle(cifar10_batch(seed=1)), encoding="bytes")  # noqa: S301
    splits = load_dataset(archive, cache=tmp_path / "cache")
    row = batch[b"data"][3]
    assert splits.train.images[23, 4, 5].tolist() == [row[4 * 32 + 5], row[1024 + 4 * 32 + 5], row[2048 + 4 * 32 + 5]]


def test_unpacked_archive_is_the_same_data_set(archive: Path, tmp_path: Path) -> None:
    for name, data in cifar10_files().items():
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_bytes(data)
    expected = load_dataset(archive, cache=tmp_path / "cache").fingerprint
    assert load_dataset(tmp_path / "here", cache=tmp_path / "cache").fingerprint == expected
    assert load_dataset(tmp_path / "here" / FOLDER, cache=tmp_path / "cache").fingerprint == expected


def test_other_sizes_are_resized_as_picture_files_are(archive: Path, tmp_path: Path) -> None:
    small = load_dataset(archive, 16, cache=tmp_path / "cache")
    full = load_dataset(archive, cache=tmp_path / "cache")
    assert np.array_equal(small.train.images[0], images.resize(full.train.images[0], 16))


def test_pickle_that_asks_for_more_is_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(trace),)

    files = {**cifar10_files(), f"{FOLDER}/data_batch_3": pickle.dumps(Hostile(), protocol=2)}
    path = make_tar(tmp_path / "cifar.tar.gz", files)
    with pytest.raises(DataError, match=r"is not CIFAR-10 as published \(its pickle asks for \w+.mkdir\)"):
        load_dataset(path, cache=tmp_path / "cache")
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02}q\x01(U\x05la",
        python2_pickle([1, 2]),
        python2_pickle({b"labels": [1]}),
        python2_pickle({**cifar10_batch(0), b"labels": [1, 2]}),
        python2_pickle({**cifar10_batch(0), b"data": 5}),
    ],
)
def test_damaged_batch_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = make_tar(tmp_path / "cifar.tar", {**cifar10_files(), f"{FOLDER}/test_batch": content})
    with pytest.raises(DataError, match=r"cifar\.tar: is not CIFAR-10 as published"):
        load_dataset(path, cache=tmp_path / "cache")


def test_missing_batch_is_named(tmp_path: Path) -> None:
    files = {name: data for name, data in cifar10_files().items() if not name.endswith("data_batch_4")}
    with pytest.raises(DataError, match="lacks data_batch_4 of CIFAR-10"):
        load_dataset(make_tar(tmp_path / "cifar.tar", files), cache=tmp_path / "cache")


def test_cifar10_is_downloaded_once_and_then_read_from_the_cache(archive: Path, tmp_path: Path) -> None:
    content = archive.read_bytes()
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    with serving(content) as server:
        first = load_cifar10(cache=tmp_path / "cache", url=server.url, md5=md5)
        second = load_cifar10(cache=tmp_path / "cache", url=server.url, md5=md5)
    assert first.name == second.name == "cifar10"
    assert first.fingerprint == second.fingerprint
    assert len(server.ranges) == 1


def test_cifar10_without_network_names_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(
        DownloadError, match=r"cannot be reached .* give the path of a copy .* 'digits' needs no network"
    ):
        load_dataset("cifar10", cache=tmp_path / "cache")


def test_folder_of_the_name_cifar10_is_meant_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "cifar10", {"cat": 1, "dog": 1})
    monkeypatch.chdir(tmp_path)
    assert load_dataset("./cifar10", cache=tmp_path / "cache").train.classes == ("cat", "dog")


def test_digits_are_at_hand_without_network() -> None:
    pytest.importorskip("sklearn")
    splits = load_dataset("digits")
    assert (len(splits.train), splits.train.size, splits.train.classes) == (1797, 32, tuple("0123456789"))
    assert splits.train.images.max() == 255
    assert load_dataset("digits", 8).train.images[0, 0, 3].tolist() == [13 * 255 // 16] * 3


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install -e '.*\[train\]'"):
        load_dataset("digits")
