"""CIFAR-10 and CIFAR-100 as published: download, Python version (pickles that are not executed), binary version.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pupila.data.dataset import Pictures, SplitArrays, Splits, assemble
from pupila.data.decode import resize_pictures
from pupila.data.sources.download import download
from pupila.data.sources.files import SourceFile
from pupila.errors import DataError, DownloadError

SIDE = 32
ROW = 3 * SIDE * SIDE
"""Bytes of one picture: the red plane, then the green one, then the blue one."""


@dataclass(frozen=True)
class CifarVersion:
    """One way in which the authors publish: the files of each split, where the names are, how a file is read."""

    title: str
    train: tuple[str, ...]
    test: str
    names: str
    read_names: Callable[[SourceFile], Sequence[str]]
    read: Callable[[SourceFile], SplitArrays]


def _pickled(labels: bytes) -> Callable[[SourceFile], SplitArrays]:
    def read(entry: SourceFile) -> SplitArrays:
        content, file = unpickle(entry), entry.parts[-1]
        names = [f"{file}/{str(name, 'latin-1')}" for name in content[b"filenames"]]
        return _part(content[b"data"].values(), content[labels], names, file)

    return read


def _pickled_names(key: bytes) -> Callable[[SourceFile], Sequence[str]]:
    return lambda entry: [str(item, "ascii") for item in unpickle(entry)[key]]


def _binary(label_bytes: int) -> Callable[[SourceFile], SplitArrays]:
    def read(entry: SourceFile) -> SplitArrays:
        """Read rows of labels and pixels; the last of the labels is the fine one."""
        file = entry.parts[-1]
        rows = np.frombuffer(entry.read(), dtype=np.uint8).reshape(-1, label_bytes + ROW)
        names = [f"{file}/{index:05d}" for index in range(len(rows))]
        return _part(rows[:, label_bytes:], rows[:, label_bytes - 1].tolist(), names, file)

    return read


def _text_names(entry: SourceFile) -> Sequence[str]:
    return str(entry.read(), "ascii").split()


BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
BINARY = tuple(f"{name}.bin" for name in BATCHES)
VERSIONS = (
    CifarVersion(
        "CIFAR-10", BATCHES, "test_batch", "batches.meta", _pickled_names(b"label_names"), _pickled(b"labels")
    ),
    CifarVersion("CIFAR-10, binary version", BINARY, "test_batch.bin", "batches.meta.txt", _text_names, _binary(1)),
    CifarVersion(
        "CIFAR-100", ("train",), "test", "meta", _pickled_names(b"fine_label_names"), _pickled(b"fine_labels")
    ),
    CifarVersion(
        "CIFAR-100, binary version", ("train.bin",), "test.bin", "fine_label_names.txt", _text_names, _binary(2)
    ),
)


def find_version(entries: Sequence[SourceFile]) -> CifarVersion | None:
    """Return the version whose files these are, packed or not; None if they are none of them."""
    present = {entry.parts[-1] for entry in entries}
    for version in VERSIONS:
        # Names as common as `train` and `test` count only with the names of the classes beside them.
        sure = {version.names} if len(version.train) == 1 else set()
        if {version.train[0], version.test} | sure <= present:
            return version
    return None


def read_cifar(version: CifarVersion, entries: Sequence[SourceFile], name: str, where: str, size: int | None) -> Splits:
    """Return the published split, in the published order; raises DataError if a file is damaged or missing."""
    files: Mapping[str, SourceFile] = {entry.parts[-1]: entry for entry in entries}
    title = version.title.partition(",")[0]
    missing = [file for file in (*version.train, version.test, version.names) if file not in files]
    if missing:
        raise DataError(f"{where}: lacks {missing[0]} of {title}. Unpack it again, or give the archive itself.")
    try:
        train = [version.read(files[file]) for file in version.train]
        test = [version.read(files[version.test])]
        classes = tuple(version.read_names(files[version.names]))
    except Exception as error:  # a damaged pickle raises nearly any type
        raise DataError(f"{where}: is not {title} as published ({error}). Download it again.") from error
    parts = {"train": _join(train, size), "test": _join(test, size)}
    return assemble(name, classes, parts, layout=f"{version.title} as published")


def _part(rows: Pictures, labels: Sequence[int], names: Sequence[str], file: str) -> SplitArrays:
    planes = rows.reshape(-1, 3, SIDE, SIDE)
    if not len(planes) == len(labels) == len(names):
        raise ValueError(f"{file} has {len(planes)} pictures, {len(labels)} labels and {len(names)} names")
    return SplitArrays(planes.transpose(0, 2, 3, 1), np.asarray(labels, dtype=np.int64), names)


def _join(batches: Sequence[SplitArrays], size: int | None) -> SplitArrays:
    images = np.concatenate([batch.images for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    names = [name for batch in batches for name in batch.names]
    return SplitArrays(resize_pictures(np.ascontiguousarray(images), size or SIDE), labels, names)


class Array:
    """Stands in for a NumPy array while unpickling: takes its bytes, and calls nothing."""

    def __init__(self, *_: object) -> None:
        self._state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._state = state

    def values(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """Return the array."""
        _, shape, kind, column_major, data = self._state
        if kind.code != b"u1" or column_major:
            raise ValueError("its array is not of bytes, row by row")
        return np.frombuffer(data, dtype=np.uint8).reshape(shape)


class _Kind:
    """Stands in for a NumPy dtype: keeps its code, b"u1" for bytes."""

    def __init__(self, code: bytes, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment say nothing about single bytes."""


STAND_INS: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): Array,
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): _Kind,
}


class _Unpickler(pickle.Unpickler):
    """Allows the three names that the published files use, and replaces them by classes that run nothing."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"its pickle asks for {module}.{name}")
        return STAND_INS[module, name]


def unpickle(entry: SourceFile) -> dict[bytes, Any]:
    """Return the dictionary in a file; raises nearly any type of error if it is damaged, or asks for more."""
    content = _Unpickler(io.BytesIO(entry.read()), encoding="bytes").load()
    if not isinstance(content, dict):
        raise ValueError(f"{entry.parts[-1]} holds no dictionary")
    return content


URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"


def fetch_cifar10(folder: Path, url: str = URL, md5: str = MD5) -> Path:
    """Return the path of the archive in `folder`, downloaded (170 MB) unless it lies there; raises DownloadError."""
    try:
        return download(url, folder / "cifar-10-python.tar.gz", md5=md5)
    except DownloadError as error:
        raise DownloadError(
            f"{error} Or give the path of a copy of the archive or of class folders; 'digits' needs no network."
        ) from error
