"""CIFAR-10 and CIFAR-100 as published, in the Python and in the binary version. Knows nothing of picture files.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Pickles are read without running them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pupila.data.dataset import Pictures
from pupila.data.decoding.decode import resize_pictures
from pupila.data.layouts.unpickle import unpickle
from pupila.data.sources.entries import Entry
from pupila.data.splits import Part, Splits, assemble
from pupila.errors import DataError

SIDE = 32
ROW = 3 * SIDE * SIDE
"""Bytes of one picture: the red plane, then the green one, then the blue one."""


@dataclass(frozen=True)
class Version:
    """One way in which the authors publish: the files of each split, where the names are, how a file is read."""

    title: str
    train: tuple[str, ...]
    test: str
    names: str
    read_names: Callable[[Entry], Sequence[str]]
    read: Callable[[Entry], Part]


def _pickled(labels: bytes) -> Callable[[Entry], Part]:
    def read(entry: Entry) -> Part:
        content, file = unpickle(entry), entry.parts[-1]
        names = [f"{file}/{str(name, 'latin-1')}" for name in content[b"filenames"]]
        return _part(content[b"data"].values(), content[labels], names, file)

    return read


def _pickled_names(key: bytes) -> Callable[[Entry], Sequence[str]]:
    return lambda entry: [str(item, "ascii") for item in unpickle(entry)[key]]


def _binary(label_bytes: int) -> Callable[[Entry], Part]:
    def read(entry: Entry) -> Part:
        """Read rows of labels and pixels; the last of the labels is the fine one."""
        file = entry.parts[-1]
        rows = np.frombuffer(entry.read(), dtype=np.uint8).reshape(-1, label_bytes + ROW)
        names = [f"{file}/{index:05d}" for index in range(len(rows))]
        return _part(rows[:, label_bytes:], rows[:, label_bytes - 1].tolist(), names, file)

    return read


def _text_names(entry: Entry) -> Sequence[str]:
    return str(entry.read(), "ascii").split()


BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
BINARY = tuple(f"{name}.bin" for name in BATCHES)
VERSIONS = (
    Version("CIFAR-10", BATCHES, "test_batch", "batches.meta", _pickled_names(b"label_names"), _pickled(b"labels")),
    Version("CIFAR-10, binary version", BINARY, "test_batch.bin", "batches.meta.txt", _text_names, _binary(1)),
    Version("CIFAR-100", ("train",), "test", "meta", _pickled_names(b"fine_label_names"), _pickled(b"fine_labels")),
    Version(
        "CIFAR-100, binary version", ("train.bin",), "test.bin", "fine_label_names.txt", _text_names, _binary(2)
    ),
)  # fmt: skip


def find_version(entries: Sequence[Entry]) -> Version | None:
    """Return the version whose files these are, packed or not; None if they are none of them."""
    present = {entry.parts[-1] for entry in entries}
    for version in VERSIONS:
        # Names as common as `train` and `test` count only with the names of the classes beside them.
        sure = {version.names} if len(version.train) == 1 else set()
        if {version.train[0], version.test} | sure <= present:
            return version
    return None


def read_cifar(version: Version, entries: Sequence[Entry], name: str, where: str, size: int | None) -> Splits:
    """Return the published split, in the published order; raises DataError if a file is damaged or missing."""
    files: Mapping[str, Entry] = {entry.parts[-1]: entry for entry in entries}
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


def _part(rows: Pictures, labels: Sequence[int], names: Sequence[str], file: str) -> Part:
    planes = rows.reshape(-1, 3, SIDE, SIDE)
    if not len(planes) == len(labels) == len(names):
        raise ValueError(f"{file} has {len(planes)} pictures, {len(labels)} labels and {len(names)} names")
    return Part(planes.transpose(0, 2, 3, 1), np.asarray(labels, dtype=np.int64), names)


def _join(batches: Sequence[Part], size: int | None) -> Part:
    images = np.concatenate([batch.images for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    names = [name for batch in batches for name in batch.names]
    return Part(resize_pictures(np.ascontiguousarray(images), size or SIDE), labels, names)
