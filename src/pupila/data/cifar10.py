"""CIFAR-10 as published: Python pickles of arrays. They are read without running anything that a pickle may ask for.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Knows nothing of picture files.
"""

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pupila.data.decoding import resize_pictures
from pupila.data.download import download
from pupila.data.entries import Entry
from pupila.data.splits import Part, Splits, assemble
from pupila.errors import DataError, DownloadError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
TRAIN = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
TEST = "test_batch"
NAMES = "batches.meta"
SIDE = 32


def fetch_cifar10(folder: Path, url: str = URL, md5: str = MD5) -> Path:
    """Return the path of the archive in `folder`, downloaded (170 MB) unless it lies there; raises DownloadError."""
    try:
        return download(url, folder / "cifar-10-python.tar.gz", md5=md5)
    except DownloadError as error:
        raise DownloadError(
            f"{error} Or give the path of a copy of the archive or of class folders; 'digits' needs no network."
        ) from error


def is_cifar10(entries: Sequence[Entry]) -> bool:
    """True if these are the files of the published archive, packed or not."""
    return {TRAIN[0], TEST} <= {entry.parts[-1] for entry in entries}


def read_cifar10(entries: Sequence[Entry], name: str, where: str, size: int | None) -> Splits:
    """Return the published 50,000 / 10,000 split, in the published order; raises DataError if a file is damaged."""
    files = {entry.parts[-1]: entry for entry in entries}
    missing = [file for file in (*TRAIN, TEST, NAMES) if file not in files]
    if missing:
        raise DataError(f"{where}: lacks {missing[0]} of CIFAR-10. Unpack it again, or give the archive itself.")
    try:
        train = [_batch(_unpickle(files[file]), file) for file in TRAIN]
        test = [_batch(_unpickle(files[TEST]), TEST)]
        classes = tuple(str(item, "ascii") for item in _unpickle(files[NAMES])[b"label_names"])
    except DataError:
        raise
    except Exception as error:  # a damaged pickle raises nearly any type
        raise DataError(f"{where}: is not CIFAR-10 as published ({error}). Download it again.") from error
    return assemble(name, classes, {"train": _join(train, size), "test": _join(test, size)})


def _batch(content: dict[bytes, Any], file: str) -> Part:
    """Turn a batch's rows of 3 x 32 x 32 bytes, one colour plane after the other, into pictures."""
    planes = content[b"data"].values().reshape(-1, 3, SIDE, SIDE)
    labels = np.asarray(content[b"labels"], dtype=np.int64)
    names = [f"{file}/{str(name, 'latin-1')}" for name in content[b"filenames"]]
    if not len(planes) == len(labels) == len(names):
        raise ValueError(f"{file} has {len(planes)} pictures, {len(labels)} labels and {len(names)} names")
    return Part(planes.transpose(0, 2, 3, 1), labels, names)


def _join(batches: Sequence[Part], size: int | None) -> Part:
    images = np.concatenate([batch.images for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    names = [name for batch in batches for name in batch.names]
    return Part(resize_pictures(np.ascontiguousarray(images), size or SIDE), labels, names)


class _Array:
    """Stands in for a NumPy array while unpickling: takes its bytes, and calls nothing."""

    def __init__(self, *_: object) -> None:
        self._state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._state = state

    def values(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
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
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
}


class _Unpickler(pickle.Unpickler):
    """Knows the three names that the published files use, and gives harmless stand-ins for them."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"its pickle asks for {module}.{name}")
        return STAND_INS[module, name]


def _unpickle(entry: Entry) -> dict[bytes, Any]:
    data = entry.source if isinstance(entry.source, bytes) else entry.source.read_bytes()
    content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    if not isinstance(content, dict):
        raise ValueError(f"{entry.parts[-1]} holds no dictionary")
    return content
